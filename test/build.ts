/**
 * Builds the project before the tests: what they start as processes of their own runs from dist/, as it does for users.
 * Whether the types hold is a check of its own (`npm run typecheck`).
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** What tsc says of errors in spite of which it has compiled. */
const compiledWithErrors = 2;

export default function build(): void {
  const { error, status, stderr } = spawnSync(process.execPath, ["scripts/build.mjs"], {
    cwd: root,
    encoding: "utf8",
  });
  if (error) throw error;
  if (status !== 0 && status !== compiledWithErrors) throw new Error(`no build: ${stderr}`);
}
