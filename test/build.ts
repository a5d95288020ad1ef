/**
 * Compiles the project before the tests: what they start as processes of their own runs from dist/, as it does for
 * users. Whether the types hold is a check of its own (`npm run typecheck`).
 *
 * Only what changed is put in place, and each file by a rename: a run beside this one may be starting such a process.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

export default function build(): void {
  mkdirSync(join(root, ".cache"), { recursive: true });
  const fresh = mkdtempSync(join(root, ".cache/build-"));
  const compile = ["tsc", "-p", "tsconfig.build.json", "--outDir", fresh];
  const { error } = spawnSync("npx", compile, { cwd: root, stdio: "ignore" });
  if (error) throw error;
  const dist = join(root, "dist");
  for (const entry of readdirSync(fresh, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const from = join(entry.parentPath, entry.name);
    const to = join(dist, from.slice(fresh.length));
    if (isSame(from, to)) continue;
    mkdirSync(dirname(to), { recursive: true });
    renameSync(from, to);
  }
  rmSync(fresh, { recursive: true });
}

function isSame(a: string, b: string): boolean {
  try {
    return readFileSync(a).equals(readFileSync(b));
  } catch {
    return false;
  }
}
