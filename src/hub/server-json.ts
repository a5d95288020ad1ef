/**
 * The hub's settings, `$XDG_CONFIG_HOME/hivemind-core/server.json`: which store they name.
 *
 * The file is JSON as Python's `json` module takes it, plus comments that stand on lines of their own and begin with
 * `//` or `#`. A hub that cannot parse it says so in its log and runs on its defaults, which name another store; so
 * nothing here goes on with a file that does not parse for every hub in the field.
 */
import { readFile, stat } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "../client/json.js";
import { configHome, dataHome, type Environment, realPath } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";

/** The name by which `server.json` selects HiveMind's SQLite store. */
export const sqliteModule = "hivemind-sqlite-db-plugin";

/** The same for its Redis store. */
export const redisModule = "hivemind-redis-db-plugin";

export interface ServerJson {
  /** As it was named: a symbolic link is not resolved. */
  readonly path: string;
  /** The file itself, behind every symbolic link. */
  readonly file: string;
  readonly text: string;
  readonly settings: JsonObject;
}

/** What `database` in `server.json` tells the hub to open. */
export interface NamedStore {
  /** `database.module`; undefined where the file leaves the choice to the hub's defaults. */
  readonly module: string | undefined;
  /** The store's resolved path, if the module is the SQLite plugin and its settings name a file. */
  readonly storePath: string | undefined;
  /** Whether a password stands there in plain text. */
  readonly passwordSet: boolean;
}

export function serverJsonPath(environment: Environment = process.env): string {
  return join(configHome(environment), "hivemind-core", "server.json");
}

/**
 * Reads and parses `server.json` as the hub would.
 *
 * @throws StoreError `notFound` if there is none, `refused` (with line and column) if the hub could not parse it, `io`
 *   if it cannot be read.
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
        hint: "the hub writes one with its defaults: hivemind-core print-config",
      });
    }
    throw systemError(error, `cannot read ${path}`);
  }
  const text = decode(bytes, path);
  return { path, file, text, settings: parseServerJson(text, path) };
}

/**
 * Which store the hub opens on this `server.json`, in this environment.
 *
 * @throws StoreError `refused` for a `database` block that no hub can read.
 */
export async function namedStore(
  { path, settings }: ServerJson,
  environment: Environment = process.env,
): Promise<NamedStore> {
  const database = blockAt(settings, "database", path);
  const module = textAt(database, "module", path);
  // A hub on another module does not look at this one's settings.
  const isRead = module === sqliteModule || isJsonObject(database[sqliteModule]);
  const plugin = isRead ? blockAt(database, sqliteModule, path) : {};
  const named = module === sqliteModule ? storeFile(plugin, path, environment) : undefined;
  return {
    module,
    storePath: named === undefined ? undefined : await realPath(named),
    passwordSet: Boolean(plugin.password),
  };
}

/** The database module that `server.json` names, and that module's settings. @throws as `namedStore`. */
export function databaseIn({ path, settings }: ServerJson): {
  module: string | undefined;
  settings: JsonObject;
} {
  const database = blockAt(settings, "database", path);
  const module = textAt(database, "module", path);
  return { module, settings: module === undefined ? {} : blockAt(database, module, path) };
}

/** The password that stands in `server.json` for the SQLite plugin, or another, in plain text. @throws as `namedStore`. */
export function passwordIn(
  { path, settings }: ServerJson,
  module = sqliteModule,
): string | undefined {
  const plugin = blockAt(blockAt(settings, "database", path), module, path);
  return textAt(plugin, "password", path) || undefined;
}

function decode(bytes: Buffer, path: string): string {
  try {
    // A byte order mark is kept: Python's json refuses it, and so does the parser here.
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw notParsed(path, "it is not UTF-8 text", error);
  }
}

/** The settings in the text of a `server.json`. @throws StoreError `refused` if the hub could not parse it. */
export function parseServerJson(text: string, path: string): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(blankComments(text));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    const [, expected, offset] = /: (.*) at character (\d+)$/.exec(error.message) ?? [];
    throw notParsed(path, `${lineAndColumn(text, Number(offset))}: ${expected}`, error);
  }
  if (!isJsonObject(value)) throw notParsed(path, "it is not an object");
  return value;
}

function notParsed(path: string, why: string, cause?: unknown): StoreError {
  return new StoreError("refused", `${path} does not parse: ${why}`, {
    hint: "the hub would run on its defaults, on another store, without a word: mend the file first",
    cause,
  });
}

/** Where Python's `splitlines` ends a line; the hub looks for comments in those lines. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: Python counts these as line ends.
const lineEnd = /(\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029])/;
const comment = /^\s*(?:\/\/|#)/;

/**
 * The text with each comment line as spaces, so that offsets stay what they are. Line ends that JSON does not know
 * become ones that it does: between values the hub passes over them; within a string one hub reads a space there and
 * another fails, so it counts as an error.
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

/** The file that the SQLite plugin opens on these settings; undefined for a database that is no file. */
function storeFile(plugin: JsonObject, path: string, environment: Environment): string | undefined {
  // Newer plugins take a whole path instead of the two names; SQLite reads "file:" and ":memory:" in it.
  const given = textAt(plugin, "db_path", path);
  if (given !== undefined) return isAbsolute(given) ? given : undefined;
  const subfolder = textAt(plugin, "subfolder", path) ?? "hivemind-core";
  const name = `${textAt(plugin, "name", path) ?? "clients"}.db`;
  return joinAsPython(joinAsPython(dataHome(environment), subfolder), name);
}

/** Python's `os.path.join`: an absolute part makes what stands before it void. */
function joinAsPython(folder: string, part: string): string {
  return isAbsolute(part) ? part : join(folder, part);
}
