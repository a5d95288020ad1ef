/**
 * Compiles the project before the tests: what they start as processes of their own runs from dist/, as it does for
 * users. Whether the types hold is a check of its own (`npm run typecheck`).
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

export default function build(): void {
  const root = fileURLToPath(new URL("..", import.meta.url));
  const { error } = spawnSync("npm", ["run", "--silent", "build"], { cwd: root, stdio: "ignore" });
  if (error) throw error;
}
