/**
 * Builds the project before the tests, because their child processes run from dist/, as for users.
 * Types are checked separately (`npm run typecheck`).
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** tsc's exit code for errors despite which it has compiled. */
const compiledWithErrors = 2;

export default function build(): void {
  const { error, status, stderr } = spawnSync(process.execPath, ["scripts/build.mjs"], {
    cwd: root,
    encoding: "utf8",
  });
  if (error) throw error;
  if (status !== 0 && status !== compiledWithErrors) throw new Error(`no build: ${stderr}`);
}
