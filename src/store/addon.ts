/**
 * Finds and loads SQLCipher's native addon.
 *
 * A package has it ready-made in native/ for common machines, with checksums from its build. Other
 * machines, and a checkout of the repository, which has no native/, use the addon compiled at the
 * installation of @journeyapps/sqlcipher.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import type sqlite3 from "@journeyapps/sqlcipher";
import { StoreError, systemError } from "../errors.js";

/**
 * The environment variable to select the addon compiled on this machine instead of the
 * ready-made addon, with the value `compiled`.
 */
const choiceVariable = "HIVEMIND_SQLCIPHER_ADDON";
const compileHint =
  "Compile it where hivemind-sqlcipher is installed, or with --global (a C++ compiler, Python and libssl-dev are needed): npm install --allow-scripts=@journeyapps/sqlcipher @journeyapps/sqlcipher";

let loaded: typeof sqlite3 | undefined;

/**
 * Returns the binding. It is loaded at the first call, because loading takes half the time of
 * opening a small store.
 *
 * @throws {@link StoreError} usage - if `HIVEMIND_SQLCIPHER_ADDON` has another value than
 *   `compiled`
 * @throws {@link StoreError} corrupted - if the ready-made addon differs from the package's
 *   checksum, or the checksums cannot be read
 * @throws {@link StoreError} failed - if there is neither a ready-made nor a compiled addon for
 *   this machine, or it cannot be loaded
 */
export function loadSqlite(): typeof sqlite3 {
  loaded ??= loadAddon(fileURLToPath(new URL("../../native/", import.meta.url)));
  return loaded;
}

/**
 * Loads the addon in a package's native/ directory, or the compiled addon.
 *
 * @param native - the directory, with a final slash
 */
export function loadAddon(native: string): typeof sqlite3 {
  const require = createRequire(import.meta.url);
  const choice = process.env[choiceVariable] ?? "";
  if (choice !== "" && choice !== "compiled") {
    throw new StoreError("usage", `${choiceVariable} is "${choice}"; the only value is "compiled"`);
  }
  const isReadyMade = choice === "" && hasReadyMade(native);
  try {
    if (!isReadyMade) return require("@journeyapps/sqlcipher");
    assertUnchanged(native);
    return require(`${native}sqlite3.js`);
  } catch (error) {
    throw error instanceof StoreError ? error : loadError(error);
  }
}

/** The ready-made addon of this machine, in native/. */
const name = `${process.platform}-${process.arch}/node_sqlite3.node`;

/** Returns whether this is a package with an addon for this machine. */
function hasReadyMade(native: string): boolean {
  return existsSync(`${native}checksums.json`) && readChecksums(native)[name] !== undefined;
}

function assertUnchanged(native: string): void {
  const expected = readChecksums(native)[name];
  const path = native + name;
  let contents: Uint8Array;
  try {
    contents = readFileSync(path);
  } catch (error) {
    throw systemError(error, `cannot read the SQLCipher addon ${path}`, "failed");
  }
  if (createHash("sha256").update(contents).digest("hex") === expected) return;
  throw new StoreError("corrupted", `the SQLCipher addon ${path} was changed: its sha256 differs`, {
    hint: "Install hivemind-sqlcipher again from a source you trust (Debian: dpkg --verify hivemind-sqlcipher lists changed files).",
  });
}

function readChecksums(native: string): Record<string, unknown> {
  const path = `${native}checksums.json`;
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  } catch (error) {
    throw new StoreError("corrupted", `cannot read the addon's checksums in ${path}`, {
      cause: error,
      hint: "Install hivemind-sqlcipher again.",
    });
  }
}

/**
 * Returns the error with the loader's own message: it contains the missing library or symbol
 * version, which users search for.
 */
function loadError(error: unknown): StoreError {
  const message = error instanceof Error ? error.message.split("\n")[0] : String(error);
  const isMissing = (error as NodeJS.ErrnoException).code === "MODULE_NOT_FOUND";
  return new StoreError("failed", `cannot load the SQLCipher addon: ${message}`, {
    cause: error,
    hint: isMissing
      ? `There is none for ${process.platform} on ${process.arch}. ${compileHint}.`
      : "Install what is missing: libssl3 (Debian 12) or libssl3t64 (Debian 13, Ubuntu 24.04), libstdc++6; glibc 2.34 or later is needed.",
  });
}
