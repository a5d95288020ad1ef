/** Edits values in `server.json`. Leaves the rest of the file unchanged, byte for byte. */
import { type Node, parseTree } from "jsonc-parser";
import {
  formatJson,
  isJsonObject,
  type JsonObject,
  type JsonValue,
  parseJson,
  sameJson,
} from "../client/json.js";
import { StoreError } from "../errors.js";
import { replaceFile } from "../fs/atomic.js";
import {
  blankComments,
  parseServerJson,
  readServerJson,
  type ServerJson,
  sqliteModule,
} from "./server-json.js";

/** Returns the text of `server.json` with a password for the SQLite plugin or another module. */
export function withPassword(file: ServerJson, password: string, module = sqliteModule): string {
  return setAt(file, ["database", module, "password"], password).text;
}

/**
 * Writes the SQLite plugin's password into the file, for a hub that is not started through `run`.
 * Keeps the file's owner and mode.
 */
export async function setPassword(path: string, password: string): Promise<void> {
  const file = await readServerJson(path);
  const text = withPassword(file, password);
  if (text !== file.text) await replaceFile(file.file, text);
}

/** Removes the SQLite plugin's password from the file. Returns whether there was a password. */
export async function removePassword(path: string): Promise<boolean> {
  const file = await readServerJson(path);
  const { text } = removeAt(file, ["database", sqliteModule, "password"]);
  if (text === file.text) return false;
  await replaceFile(file.file, text);
  return true;
}

/**
 * Switches the hub to another database: replaces `database.module` and the settings of that module.
 * Keeps the settings of the previous module, so that switching back changes a single value.
 */
export async function switchModule(
  path: string,
  module: string,
  settings: JsonObject,
): Promise<void> {
  const file = await readServerJson(path);
  const withSettings = setAt(file, ["database", module], settings);
  await replaceFile(file.file, setAt(withSettings, ["database", "module"], module).text);
}

/** What `switchModule` to the SQLite plugin replaces in `server.json`. An absent value is null. */
export interface FormerDatabase {
  readonly module: string | null;
  /** The settings of the SQLite plugin without a password, as JSON. */
  readonly sqlite_block: string | null;
  /** Whether there was an object `database`. */
  readonly had_block: boolean;
}

/** Returns what `restoreDatabase` needs. Omits the plugin's password. */
export function formerDatabase({ settings }: ServerJson): FormerDatabase {
  const database = isJsonObject(settings.database) ? settings.database : undefined;
  const { module, [sqliteModule]: block } = database ?? {};
  const withoutPassword = ({ password: _, ...others }: JsonObject) => others;
  return {
    module: typeof module === "string" ? module : null,
    sqlite_block: isJsonObject(block) ? formatJson(withoutPassword(block)) : null,
    had_block: database !== undefined,
  };
}

/** Undoes a `switchModule` to the SQLite plugin. Does not restore a password of the plugin. */
export async function restoreDatabase(path: string, former: FormerDatabase): Promise<void> {
  const file = await readServerJson(path);
  const { text } = former.had_block ? withFormer(file, former) : removeAt(file, ["database"]);
  if (text !== file.text) await replaceFile(file.file, text);
}

function withFormer(file: ServerJson, { module, sqlite_block: block }: FormerDatabase): ServerJson {
  const settings = ["database", sqliteModule];
  const withBlock =
    block === null ? removeAt(file, settings) : setAt(file, settings, parseJson(block));
  const name = ["database", "module"];
  return module === null ? removeAt(withBlock, name) : setAt(withBlock, name, module);
}

/**
 * Sets a value and creates missing parent objects. Changes nothing if the value is equal already.
 */
function setAt(file: ServerJson, keys: readonly string[], value: JsonValue): ServerJson {
  const { text } = file;
  const present = valueAt(file.settings, keys);
  if (present !== undefined && sameJson(present, value)) return file;
  const { object, member, key, rest } = follow(file, keys);
  if (member === undefined) {
    const whole = rest.reduceRight<JsonValue>((inner, name) => ({ [name]: inner }), value);
    return withText(file, insertMember(text, object, `${formatJson(key)}: ${formatJson(whole)}`));
  }
  const { offset, length } = member.value;
  const changed = text.slice(0, offset) + formatJson(value) + text.slice(offset + length);
  return withText(file, changed);
}

/**
 * Follows keys to the last or to the first that is missing. Returns the object in which it belongs,
 * its member unless it is missing, and the keys after it.
 */
function follow({ path, text }: ServerJson, [key = "", ...rest]: readonly string[]) {
  let object = parseRoot(text);
  for (;;) {
    const member = findMember(object, key, path);
    const next = rest[0];
    if (member === undefined || next === undefined) return { object, member, key, rest };
    object = assertObject(member.value, key, path);
    [key = "", ...rest] = rest;
  }
}

function valueAt(settings: JsonObject, keys: readonly string[]): JsonValue | undefined {
  let value: JsonValue | undefined = settings;
  for (const key of keys) {
    if (!isJsonObject(value) || !Object.hasOwn(value, key)) return undefined;
    value = value[key];
  }
  return value;
}

function withText(file: ServerJson, text: string): ServerJson {
  return { ...file, text, settings: parseServerJson(text, file.path) };
}

/** Appends a member to an object, on its own line if the last member is on its own line. */
function insertMember(text: string, object: Node, member: string): string {
  const last = object.children?.at(-1);
  if (last === undefined) {
    const at = object.offset + 1;
    return text.slice(0, at) + member + text.slice(at);
  }
  const lead = /(?:\r\n|\n|\r)[ \t]*$/.exec(text.slice(0, last.offset))?.[0] ?? " ";
  const at = last.offset + last.length;
  return `${text.slice(0, at)},${lead}${member}${text.slice(at)}`;
}

/** Removes a member and its comma, and its line if nothing else is there. */
function removeAt(file: ServerJson, keys: readonly string[]): ServerJson {
  const { text } = file;
  const { object, member } = follow(file, keys);
  if (member === undefined) return file;

  const siblings = object.children ?? [];
  const next = siblings[siblings.indexOf(member.node) + 1];
  const previous = siblings[siblings.indexOf(member.node) - 1];
  // Only white space and a comma separate two members, after comments are blanked.
  const blanked = blankComments(text);
  let before = text.slice(0, member.node.offset);
  let after = text.slice(member.node.offset + member.node.length);
  if (next !== undefined) {
    after = text.slice(blanked.indexOf(",", member.node.offset + member.node.length) + 1);
  } else if (previous !== undefined) {
    const comma = blanked.indexOf(",", previous.offset + previous.length);
    before = before.slice(0, comma) + before.slice(comma + 1).replace(/^[ \t]+$/, "");
  }
  const hasOwnLine = /(?:^|[\r\n])[ \t]*$/.test(before) && /^[ \t]*[\r\n]/.test(after);
  if (hasOwnLine) {
    before = before.replace(/(?<![ \t])[ \t]+$/, "");
    after = after.replace(/^[ \t]*(?:\r\n|\n|\r)/, "");
  } else if (next !== undefined) after = after.replace(/^[ \t]+/, "");
  return withText(file, before + after);
}

/** Matches strings, and the numbers that Python's JSON has in addition. */
const stringOrNotFinite = /"[^"\\]*(?:\\.[^"\\]*)*"|-?Infinity|NaN/g;

/**
 * Parses the text. Replaces numbers that jsonc-parser does not know by digits of the same length,
 * so that offsets do not change.
 */
function parseRoot(text: string): Node {
  const plain = blankComments(text).replace(stringOrNotFinite, (found) =>
    found.startsWith('"') ? found : "1".repeat(found.length),
  );
  const root = parseTree(plain);
  if (root?.type !== "object") throw new Error("the text is not an object");
  return root;
}

function assertObject(node: Node, key: string, path: string): Node {
  if (node.type === "object") return node;
  throw new StoreError("refused", `${path}: "${key}" is not an object`);
}

/**
 * Finds a member by its key. Refuses duplicate keys: the hub reads the last of the members, and an
 * edit of the first would have no effect.
 */
function findMember(
  object: Node,
  key: string,
  path: string,
): { node: Node; value: Node } | undefined {
  const found = (object.children ?? []).filter((node) => node.children?.[0]?.value === key);
  if (found.length > 1) {
    throw new StoreError("refused", `${path} has "${key}" twice in the same object`, {
      hint: "Remove the first of them: the hub reads the last.",
    });
  }
  const node = found[0];
  const value = node?.children?.[1];
  return node === undefined || value === undefined ? undefined : { node, value };
}
