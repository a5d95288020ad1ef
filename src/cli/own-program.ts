/**
 * Finds this program's command line for units and timers, and loads the whole program for an
 * operation that outlasts an upgrade.
 */
import { readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The command's path in every version of the Debian package. */
const packagedCommand = "/usr/bin/hivemind-sqlcipher";

/** The main file of this installation. Node.js has resolved the symbolic links in its path. */
export const ownScript = fileURLToPath(new URL("./main.js", import.meta.url));

/** Returns the command line of this program: its installed path, or Node.js and the main file. */
export function findOwnProgram(): string[] {
  const packagedNode = join(dirname(ownScript), "../../bin/node");
  if (process.execPath === packagedNode && isSameFile(packagedCommand, ownScript)) {
    return [packagedCommand];
  }
  return [process.execPath, ownScript];
}

/** Parts that take long to load, and that no operation needs to continue. */
const optionalParts = /^string-width-/;

/**
 * Loads every file of the built command that an operation may need.
 *
 * By default a file is loaded at its first use. An upgrade of the package removes the files of the
 * running version, so an operation after the stop of the hub would fail at the next file.
 */
export function loadWholeProgram(): void {
  const directory = dirname(fileURLToPath(import.meta.url));
  const manifest = JSON.parse(readFileSync(join(directory, "package.json"), "utf8")) as {
    parts: string[];
  };
  const require = createRequire(import.meta.url);
  // Use the path that `import()` uses in the build: Node.js caches how it resolved this path, and
  // would search for the removed file under any other path.
  for (const name of manifest.parts) if (!optionalParts.test(name)) require(`./${name}`);
}

function isSameFile(path: string, main: string): boolean {
  try {
    return realpathSync(path) === main;
  } catch {
    return false;
  }
}
