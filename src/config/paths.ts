/** The XDG base directories as HiveMind reads them, and the path of a store in them. */
import { readlink, realpath } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";

export type Environment = Readonly<Record<string, string | undefined>>;

/** A store named by its path, or by the two names that HiveMind's SQLite plugin accepts. */
export interface StoreLocation {
  path?: string | undefined;
  /** Without `.db`. Default: `clients`. */
  name?: string | undefined;
  /** Below `$XDG_DATA_HOME`. Default: `hivemind-core`. */
  subfolder?: string | undefined;
}

/** The number of symbolic links that Linux follows in a path. */
export const linkLimit = 40;

export function dataHome(environment: Environment = process.env): string {
  return baseDirectory(environment, "XDG_DATA_HOME", ".local/share");
}

export function configHome(environment: Environment = process.env): string {
  return baseDirectory(environment, "XDG_CONFIG_HOME", ".config");
}

export function stateHome(environment: Environment = process.env): string {
  return baseDirectory(environment, "XDG_STATE_HOME", ".local/state");
}

/** Ignores a relative path in the variable, as the XDG specification and the hub do. */
function baseDirectory(environment: Environment, variable: string, fallback: string): string {
  const value = environment[variable];
  if (value !== undefined && isAbsolute(value)) return value;
  return join(environment.HOME || homedir(), fallback);
}

export function defaultSettingsPath(environment: Environment = process.env): string {
  return join(configHome(environment), "hivemind-sqlcipher", "config.json");
}

/**
 * Makes a path absolute and replaces a leading `~/` by the home directory.
 *
 * @throws {@link StoreError} usage - for an empty path, as from an unset variable
 */
export function expandPath(path: string, environment: Environment = process.env): string {
  if (path === "") {
    throw new StoreError("usage", "a path in the options or settings is empty", {
      hint: 'Check that each variable in the command is set, as in --db "$STORE".',
    });
  }
  const home = environment.HOME || homedir();
  if (path === "~") return home;
  return path.startsWith("~/") ? join(home, path.slice(2)) : resolve(path);
}

/** Expands the path of an option, if it is given. */
export function expandIfGiven(path: string | undefined): string | undefined {
  return path === undefined ? undefined : expandPath(path);
}

/**
 * Returns the path of a store for its locks, journal, keyring account and copies.
 *
 * Follows every symbolic link, so two names of a store result in the same path. Neither the file
 * nor its directory needs to exist.
 *
 * @throws {@link StoreError} usage - for an invalid path or name
 * @throws {@link StoreError} refused - for a circle of symbolic links
 * @throws {@link StoreError} io - for an unsearchable directory, or a file in place of a directory
 */
export async function resolveStorePath(
  location: StoreLocation = {},
  environment: Environment = process.env,
): Promise<string> {
  return realPath(unresolvedStorePath(location, environment));
}

/** Returns the absolute path of a store without resolving symbolic links. */
export function unresolvedStorePath(
  { path, name = "clients", subfolder = "hivemind-core" }: StoreLocation,
  environment: Environment = process.env,
): string {
  if (path !== undefined) {
    if (path === "" || path.includes("\0")) {
      throw new StoreError("usage", "the path of the store is empty or contains a NUL character", {
        hint: "Name the file of the store: --db PATH",
      });
    }
    return expandPath(path, environment);
  }
  if (name === "" || name === "." || name === ".." || /[/\0]/.test(name)) {
    throw new StoreError("usage", `"${name}" is not a valid name for a store`, {
      hint: "Give a name without a slash and without .db, or the path of the file: --db PATH",
    });
  }
  if (isAbsolute(subfolder) || subfolder.includes("\0") || subfolder.split("/").includes("..")) {
    throw new StoreError("usage", `the subfolder "${subfolder}" is outside the data directory`, {
      hint: "Name a store that is elsewhere by its path: --db PATH",
    });
  }
  return join(dataHome(environment), subfolder, `${name}.db`);
}

/** The prefix of a remote of rclone, as in `rclone:nas:hivemind`. */
export const remotePrefix = "rclone:";

/** Returns whether a target of copies is a remote of rclone, and not a directory. */
export function isRemote(target: string): boolean {
  return target.startsWith(remotePrefix);
}

/** Makes the path of a directory absolute. Leaves a remote as it is. */
export function expandTarget(target: string, environment?: Environment): string {
  return isRemote(target) ? target : expandPath(target, environment);
}

/**
 * Resolves symbolic links as `realpath` does, also in a path to a missing file.
 *
 * Appends the missing part to the real path of the nearest existing directory. Also follows a link
 * to a missing file.
 *
 * @throws {@link StoreError} refused - for a circle of symbolic links
 * @throws {@link StoreError} io - for an unsearchable directory, or a file in place of a directory
 */
export async function realPath(path: string): Promise<string> {
  let current = resolve(path);
  for (let links = 0; links < linkLimit; links++) {
    try {
      return await realpath(current);
    } catch (error) {
      if (hasCode(error, "ELOOP")) break;
      if (!hasCode(error, "ENOENT")) throw systemError(error, `cannot resolve ${path}`);
    }
    const directory = dirname(current);
    if (directory === current) return current;
    const parent = join(await realPath(directory), basename(current));
    const target = await readLinkTarget(parent);
    if (target === undefined) return parent;
    current = resolve(dirname(parent), target);
  }
  throw new StoreError("refused", `too many levels of symbolic links: ${path}`);
}

async function readLinkTarget(path: string): Promise<string | undefined> {
  try {
    return await readlink(path);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR", "EINVAL")) return undefined; // missing, or no link
    throw systemError(error, `cannot read the metadata of ${path}`);
  }
}
