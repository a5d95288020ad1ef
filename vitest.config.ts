import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";
import { compileCache } from "./test/build.js";
import { LongestFirst } from "./test/longest-first.js";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: ["test/build.ts"],
    setupFiles: ["test/derived-keys.ts"],
    pool: "forks",
    // Tests wait for units, dialogs, disks and child processes: a worker uses half a core.
    maxWorkers: Math.min(availableParallelism() + 2, 6),
    // The commands that tests run compile the same files again and again: a tenth of their CPU time.
    env: { NODE_COMPILE_CACHE: compileCache, TZ: "UTC" },
    sequence: { sequencer: LongestFirst },
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
