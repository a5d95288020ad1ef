/**
 * Reads the hub's settings, `$XDG_CONFIG_HOME/hivemind-core/server.json`.
 *
 * The file is JSON as Python's `json` module reads it, plus comment lines that begin with `//` or
 * `#`. A hub that cannot parse the file logs an error and uses its defaults, with another store. So
 * this module refuses a file that any version of the hub cannot parse.
 */
import { readFile, stat } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "../client/json.js";
import {
  type ContainerFiles,
  hubContainer,
  hubEnvironment,
  toMachine,
} from "../config/hub-account.js";
import { configHome, dataHome, type Environment, realPath } from "../config/paths.js";
import { addHint, hasCode, isKind, StoreError, systemError } from "../errors.js";
import { detectEncoding } from "../fs/encoding.js";
import { recogniseContent, withFileKind } from "../fs/file-kind.js";
import { shellQuote } from "../text/escape.js";

export const sqliteModule = "hivemind-sqlite-db-plugin";

export const redisModule = "hivemind-redis-db-plugin";

export interface ServerJson {
  /** As given; symbolic links are not resolved. */
  readonly path: string;
  /** With symbolic links resolved. */
  readonly file: string;
  readonly text: string;
  readonly settings: JsonObject;
}

/** The hub's database according to `server.json`. */
export interface NamedStore {
  /** `database.module`; undefined without it: the hub then uses its default. */
  readonly module: string | undefined;
  /**
   * The store's path as the hub uses it, in a container a path of the container; undefined if the
   * module is not the SQLite plugin, or the store is not a file.
   */
  readonly pathInside: string | undefined;
  /** The store's resolved path on this machine; undefined if it is on no volume of a container. */
  readonly storePath: string | undefined;
  /** Whether the file contains a password for the SQLite plugin, in plain text. */
  readonly passwordSet: boolean;
}

/**
 * Returns the path of a hub's `server.json` on this machine.
 *
 * @param environment - the hub's; default: of the hub that this process works for
 */
export function serverJsonPath(environment?: Environment): string {
  const container = environment === undefined ? hubContainer() : undefined;
  const home = configHome(environment ?? hubEnvironment());
  return container?.serverJson ?? join(home, "hivemind-core", "server.json");
}

/**
 * Reads and parses `server.json`.
 *
 * @throws {@link StoreError} notFound - if the file does not exist
 * @throws {@link StoreError} io - if it cannot be read
 * @throws {@link StoreError} refused - if the hub could not parse it; the message has line and
 *   column
 */
export async function readServerJson(path: string): Promise<ServerJson> {
  const file = await realPath(path);
  let bytes: Buffer;
  try {
    if (!(await stat(file)).isFile()) throw new StoreError("refused", `${path} is not a file`);
    bytes = await readFile(file);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) {
      throw new StoreError("notFound", `there is no server.json at ${path}`, {
        hint: "Create it with the hub's defaults: hivemind-core print-config",
      });
    }
    throw systemError(error, `cannot read ${path}`);
  }
  const text = decode(bytes, path);
  return { path, file, text, settings: parseServerJson(text, path) };
}

/**
 * Returns the hub's store according to this `server.json`.
 *
 * @param environment - the hub's; default: of the hub that this process works for
 * @throws {@link StoreError} refused - if no hub can read the object `database`
 */
export async function namedStore(file: ServerJson, environment?: Environment): Promise<NamedStore> {
  const container = environment === undefined ? hubContainer() : undefined;
  if (container !== undefined) return namedStoreInContainer(file, container);
  const named = parseNamedStore(file, dataHome(environment ?? hubEnvironment()));
  const { pathInside } = named;
  return { ...named, storePath: pathInside && (await realPath(pathInside)) };
}

/**
 * Returns the store of a hub in a container according to this `server.json`.
 *
 * @throws {@link StoreError} refused - if no hub can read the object `database`
 */
export async function namedStoreInContainer(
  file: ServerJson,
  hub: Pick<ContainerFiles, "dataHome" | "mounts">,
): Promise<NamedStore> {
  const named = parseNamedStore(file, hub.dataHome);
  const path = named.pathInside && toMachine(hub.mounts, named.pathInside);
  return { ...named, storePath: path && (await realPath(path)) };
}

/** Returns the store according to this `server.json`, without its path on this machine. */
export function parseNamedStore(
  { path, settings }: ServerJson,
  home: string,
): Omit<NamedStore, "storePath"> {
  const database = blockAt(settings, "database", path);
  const module = textAt(database, "module", path);
  // A hub on another module ignores the SQLite plugin's settings.
  const isRead = module === sqliteModule || isJsonObject(database[sqliteModule]);
  const plugin = isRead ? blockAt(database, sqliteModule, path) : {};
  return {
    module,
    pathInside: module === sqliteModule ? storeFile(plugin, path, home) : undefined,
    passwordSet: Boolean(plugin.password),
  };
}

/** Returns the database module in `server.json` and its settings. */
export function databaseIn({ path, settings }: ServerJson): {
  module: string | undefined;
  settings: JsonObject;
} {
  const database = blockAt(settings, "database", path);
  const module = textAt(database, "module", path);
  return { module, settings: module === undefined ? {} : blockAt(database, module, path) };
}

/**
 * Returns the settings of Redis in a `server.json`; undefined if the hub uses another database, or
 * the file does not exist.
 */
export async function readRedisSettings(path = serverJsonPath()): Promise<JsonObject | undefined> {
  try {
    const { module, settings } = databaseIn(await readServerJson(path));
    return module === redisModule ? settings : undefined;
  } catch (error) {
    if (isKind(error, "notFound")) return undefined;
    throw error;
  }
}

/** Returns the password in `server.json` for a database module; undefined if there is none. */
export function passwordIn(
  { path, settings }: ServerJson,
  module = sqliteModule,
): string | undefined {
  const plugin = blockAt(blockAt(settings, "database", path), module, path);
  return textAt(plugin, "password", path) || undefined;
}

function decode(bytes: Buffer, path: string): string {
  try {
    // Keep a byte order mark: Python's json rejects it, and so does the parser here.
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    if (detectEncoding(bytes) === "utf-8") throw notParsed(path, "it is not UTF-8 text", error);
    const parsed = notParsed(path, "it is UTF-16 text, which the hub cannot read", error);
    const utf8 = shellQuote(`${path}.utf8`);
    throw addHint(
      parsed,
      `Convert it: (umask 077; iconv -f UTF-16 -t UTF-8 ${shellQuote(path)} > ${utf8}) && cat ${utf8} > ${shellQuote(path)} && rm ${utf8}`,
    );
  }
}

/**
 * Parses the text of a `server.json`.
 *
 * @throws {@link StoreError} refused - if the hub could not parse it
 */
export function parseServerJson(text: string, path: string): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(blankComments(text));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    const [, expected, offset] = /: (.*) at character (\d+)$/.exec(error.message) ?? [];
    throw notParsed(path, `${lineAndColumn(text, Number(offset))}: ${expected}`, error, text);
  }
  if (!isJsonObject(value)) throw notParsed(path, "it is not an object", undefined, text);
  return value;
}

function notParsed(path: string, why: string, cause?: unknown, text = ""): StoreError {
  const error = new StoreError("refused", `${path} does not parse: ${why}`, {
    hint: "Correct the file first: the hub would use its defaults, and so another store.",
    cause,
  });
  const kind = text === "" ? undefined : recogniseContent(Buffer.from(text));
  return withFileKind(error, kind, ["server.json", "passphrase"]);
}

/** The line ends of Python's `splitlines`, with which the hub finds comment lines. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: Python counts these as line ends.
const lineEnd = /(\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029])/;
const comment = /^\s*(?:\/\/|#)/;

/**
 * Replaces each comment line by spaces, so that offsets do not change. Replaces a line end that is
 * unknown to JSON by LF. Between values, LF is white space, as the line end is for the hub. In a
 * string, versions of the hub read the line end differently, and LF makes the parser report an
 * error.
 */
export function blankComments(text: string): string {
  return text
    .split(lineEnd)
    .map((part, index) => {
      if (index % 2 === 1) return part === "\r\n" ? part : "\n";
      return comment.test(part) ? " ".repeat(part.length) : part;
    })
    .join("");
}

function lineAndColumn(text: string, offset: number): string {
  const lines = text.slice(0, offset).split(/\r\n|\n|\r/);
  return `line ${lines.length}, column ${(lines.at(-1) ?? "").length + 1}`;
}

function blockAt(parent: JsonObject, key: string, path: string): JsonObject {
  const value = Object.hasOwn(parent, key) ? parent[key] : {};
  if (!isJsonObject(value)) throw new StoreError("refused", `${path}: "${key}" is not an object`);
  return value;
}

function textAt(parent: JsonObject, key: string, path: string): string | undefined {
  const value = Object.hasOwn(parent, key) ? (parent[key] ?? undefined) : undefined;
  if (value !== undefined && typeof value !== "string") {
    throw new StoreError("refused", `${path}: "${key}" is not text`);
  }
  return value;
}

/**
 * Returns the file that the SQLite plugin opens; undefined for a database in memory or a `db_path`
 * that is not an absolute path.
 */
function storeFile(plugin: JsonObject, path: string, home: string): string | undefined {
  // Newer plugins pass `db_path` to SQLite, which also accepts "file:" and ":memory:".
  const given = textAt(plugin, "db_path", path);
  if (given !== undefined) return isAbsolute(given) ? given : undefined;
  const subfolder = textAt(plugin, "subfolder", path) ?? "hivemind-core";
  const name = `${textAt(plugin, "name", path) ?? "clients"}.db`;
  return joinAsPython(joinAsPython(home, subfolder), name);
}

/** Joins like Python's `os.path.join`: an absolute `part` replaces the directory. */
function joinAsPython(directory: string, part: string): string {
  return isAbsolute(part) ? part : join(directory, part);
}
