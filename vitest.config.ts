import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { LongestFirst } from "./test/longest-first.js";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/build.ts"],
    setupFiles: ["test/derived-keys.ts"],
    pool: "forks",
    // Tests wait for units, dialogs, disks and child processes: two workers leave a third of two
    // cores idle.
    maxWorkers: 4,
    // The commands that tests run compile the same files again and again: a tenth of their CPU time.
    env: { NODE_COMPILE_CACHE: fileURLToPath(new URL(".cache/compile", import.meta.url)) },
    sequence: { sequencer: LongestFirst },
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
