/**
 * Where things are: the XDG base directories, as HiveMind itself reads them, and the store in them.
 */
import { lstat, readlink, realpath } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, isAbsolute, join, resolve } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";

export type Environment = Readonly<Record<string, string | undefined>>;

/** How a store is named: by its path, or by the two names that HiveMind's SQLite plugin takes. */
export interface StoreLocation {
  path?: string | undefined;
  /** Without `.db`. Default: `clients`. */
  name?: string | undefined;
  /** Below `$XDG_DATA_HOME`. Default: `hivemind-core`. */
  subfolder?: string | undefined;
}

/** Longest chain of symbolic links that is followed, as in Linux. */
const maxLinks = 40;

export function dataHome(environment: Environment = process.env): string {
  return baseFolder(environment, "XDG_DATA_HOME", ".local/share");
}

export function configHome(environment: Environment = process.env): string {
  return baseFolder(environment, "XDG_CONFIG_HOME", ".config");
}

export function stateHome(environment: Environment = process.env): string {
  return baseFolder(environment, "XDG_STATE_HOME", ".local/state");
}

/** The XDG specification (and the hub) ignore a relative path here. */
function baseFolder(environment: Environment, variable: string, fallback: string): string {
  const value = environment[variable];
  if (value !== undefined && isAbsolute(value)) return value;
  return join(environment.HOME || homedir(), fallback);
}

export function defaultSettingsPath(environment: Environment = process.env): string {
  return join(configHome(environment), "hivemind-sqlcipher", "config.json");
}

/**
 * Replaces a leading `~/` by the home folder, as a shell does, and makes the path absolute.
 *
 * @throws StoreError `usage` for an empty one, which would be the folder one works in.
 */
export function expandPath(path: string, environment: Environment = process.env): string {
  if (path === "") {
    throw new StoreError("usage", "a path that was given is empty", {
      hint: 'a variable that is not set leaves one, as in --db "$STORE"',
    });
  }
  const home = environment.HOME || homedir();
  if (path === "~") return home;
  return path.startsWith("~/") ? join(home, path.slice(2)) : resolve(path);
}

/**
 * The one path of a store that everything else goes by: locks, journal, keyring account, copies. Every symbolic
 * link is followed, so two ways to name a store give the same path; the file, and its folder, need not exist.
 *
 * @throws StoreError `usage` for a name that is not one, `refused` for links that go round in a circle.
 */
export async function resolveStorePath(
  place: StoreLocation = {},
  environment: Environment = process.env,
): Promise<string> {
  return realPath(storePath(place, environment));
}

function storePath(place: StoreLocation, environment: Environment): string {
  if (place.path !== undefined) {
    if (place.path === "" || place.path.includes("\0")) {
      throw new StoreError("usage", "the path of the store is empty or holds a NUL character", {
        hint: "name the store's file: --db PATH",
      });
    }
    return expandPath(place.path, environment);
  }
  const name = place.name ?? "clients";
  if (name === "" || name === "." || name === ".." || /[/\0]/.test(name)) {
    throw new StoreError("usage", `"${name}" cannot be the name of a store`, {
      hint: "a name has no slash and no .db; a store that is elsewhere is named by --db PATH",
    });
  }
  const subfolder = place.subfolder ?? "hivemind-core";
  if (isAbsolute(subfolder) || subfolder.includes("\0") || subfolder.split("/").includes("..")) {
    throw new StoreError("usage", `the subfolder "${subfolder}" is not below the data folder`, {
      hint: "a store that is elsewhere is named by --db PATH",
    });
  }
  return join(dataHome(environment), subfolder, `${name}.db`);
}

/**
 * `realpath` for a path whose end need not exist: links are followed as far as there are any (also one that points
 * at nothing yet), and what does not exist is appended to the real path of the nearest folder that does.
 *
 * @throws StoreError `refused` for a circle of links, `io` for a folder that cannot be looked into.
 */
export async function realPath(path: string): Promise<string> {
  let current = resolve(path);
  for (let links = 0; links < maxLinks; links++) {
    try {
      return await realpath(current);
    } catch (error) {
      if (hasCode(error, "ELOOP")) break;
      if (!hasCode(error, "ENOENT")) throw systemError(error, `cannot resolve ${path}`);
    }
    const folder = dirname(current);
    if (folder === current) return current;
    const here = join(await realPath(folder), basename(current));
    const target = await linkTarget(here);
    if (target === undefined) return here;
    current = resolve(dirname(here), target);
  }
  throw new StoreError("refused", `${path}: its symbolic links go round in a circle`);
}

async function linkTarget(path: string): Promise<string | undefined> {
  try {
    return (await lstat(path)).isSymbolicLink() ? await readlink(path) : undefined;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot look at ${path}`);
  }
}
