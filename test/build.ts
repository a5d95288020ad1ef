/**
 * Builds the project before the tests, because their child processes run from dist/, as for users.
 * Types are checked separately (`npm run typecheck`).
 *
 * Also bundles the tests' own programs, for the same reason as the command: a program that loads
 * hundreds of modules uses several times as much CPU time to start, and tests start thousands.
 */
import { spawnSync } from "node:child_process";
import { copyFile, mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Where Node.js keeps the compiled code of the commands that tests run. */
export const compileCache = join(root, ".cache/compile");

/** tsc's exit code for errors despite which it has compiled. */
const compiledWithErrors = 2;

/** The bundled programs, which `testProgram` names. */
const programs = [
  ...["backup/driver", "backup/writer"],
  ...["swap/driver", "swap/hub", "swap/add-client", "swap/revoke-client"],
  "copies/driver",
  "command-keys",
];

export default async function build(): Promise<void> {
  const { error, status, stderr } = spawnSync(process.execPath, ["scripts/build.mjs"], {
    cwd: root,
    encoding: "utf8",
  });
  if (error) throw error;
  if (status !== 0 && status !== compiledWithErrors) throw new Error(`no build: ${stderr}`);
  await bundlePrograms(join(root, "dist/test"));
  // Node.js creates the cache now: a test may run the next command with another umask.
  const env = { ...process.env, NODE_COMPILE_CACHE: compileCache };
  spawnSync(process.execPath, ["dist/cli/main.js", "--version"], { cwd: root, env });
}

/** Puts each file in place by a rename: another run may be starting a program. */
async function bundlePrograms(target: string): Promise<void> {
  const bundle = await rolldown({
    cwd: root,
    input: Object.fromEntries([
      ...programs.map((name) => [name.replace("/", "-"), `test/${name}.mjs`]),
      // Started by their names, from next to the file that starts them.
      ["copier", "dist/backup/copier.js"],
      ["page-worker", "dist/backup/page-worker.js"],
    ]),
    platform: "node",
    external: ["@redis/client"],
    resolve: { mainFields: ["module", "main"] },
    transform: { target: "node22" },
    checks: { ineffectiveDynamicImport: false },
  });
  const fresh = await mkdtemp(join(root, ".cache/test-programs-"));
  try {
    await bundle.write({ dir: fresh, format: "esm", entryFileNames: "[name].js" });
    await copyFile(join(root, "src/keys/keytar-worker.cjs"), join(fresh, "keytar-worker.cjs"));
    await mkdir(target, { recursive: true });
    for (const name of await readdir(fresh)) await rename(join(fresh, name), join(target, name));
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
}
