/**
 * Reads and writes JSON as Python's `json` module does. If `json.dumps` wrote a text with its
 * default arguments, `formatJson(parseJson(text))` returns the same text, byte for byte.
 *
 * `JSON.parse` fails on part of what hubs write (`NaN`, `Infinity`) and changes the rest (`1.0`,
 * `1e+16`, integers above 2^53, the order of integer-like keys).
 */

/** Stores the order of the keys in the JSON text, for an object whose keys JavaScript reordered. */
const keyOrder = Symbol("order of keys in the JSON text");

export interface JsonObject {
  [key: string]: JsonValue;
  [keyOrder]?: readonly string[];
}

export type JsonValue =
  | null
  | boolean
  | number
  | string
  | JsonNumber
  | readonly JsonValue[]
  | JsonObject;

const jsonNumberMark = Symbol.for("hivemind-sqlcipher JsonNumber");

/**
 * The text of a number that JavaScript would change: `1.0` would become `1`, which differs in
 * Python; 2^53 + 1 would be rounded; NaN would become null.
 */
export class JsonNumber {
  /**
   * Also recognises the instances of a database plugin, which loads a copy of this class of its
   * own.
   */
  static [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === "object" && value !== null && jsonNumberMark in value;
  }

  constructor(readonly text: string) {}

  get [jsonNumberMark](): true {
    return true;
  }

  /** Returns the nearest JavaScript number. */
  valueOf(): number {
    return Number(this.text);
  }

  /** Called by `JSON.stringify`, which cannot write the text. NaN and Infinity become null. */
  toJSON(): number {
    return this.valueOf();
  }
}

/** Twice the nesting that Python's default recursion limit allows, so hubs write no such text. */
const maximumDepth = 2000;

/**
 * Parses JSON text as `json.loads` does. Objects have no prototype, so `__proto__` is an ordinary
 * key.
 *
 * @throws SyntaxError with the position, but without the text: it may contain a secret
 *
 * @example
 * ```ts
 * const version = parseJson('{"version": 1.0}'); // 1.0 stays 1.0
 * ```
 */
export function parseJson(text: string): JsonValue {
  return new Parser(text).document();
}

const number = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|NaN|-?Infinity/y;
// Up to the closing quote, an escape, or a control character, which strings may not contain.
const plainCharacters = /[ !#-[\]-\uffff]*/y;
const awkwardCharacter = /[^ -[\]-\uffff]/;
const hexDigits = /[0-9a-fA-F]{4}/y;

const escapes: Record<string, string> = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

/**
 * Creates an object without inherited properties. It is faster to fill and to read than the object
 * of `Object.create(null)`.
 */
const BareObject = function BareObject() {} as unknown as new () => JsonObject;
BareObject.prototype = Object.create(null);

class Parser {
  #position = 0;
  readonly #text: string;
  /**
   * Whether the text has no escape and no control character. If so, each string ends at the next
   * quote.
   */
  readonly #isPlain: boolean;

  constructor(text: string) {
    this.#text = text;
    this.#isPlain = !awkwardCharacter.test(text);
  }

  document(): JsonValue {
    const value = this.#value(0);
    this.#skipWhitespace();
    if (this.#position < this.#text.length) throw this.#unexpected("the end");
    return value;
  }

  #value(depth: number): JsonValue {
    if (depth > maximumDepth) throw this.#unexpected("less nesting");
    this.#skipWhitespace();
    switch (this.#text[this.#position]) {
      case "{":
        return this.#object(depth);
      case "[":
        return this.#array(depth);
      case '"':
        return this.#string();
      case "n":
        return this.#keyword("null", null);
      case "t":
        return this.#keyword("true", true);
      case "f":
        return this.#keyword("false", false);
    }
    const literal = this.#match(number);
    if (literal === "") throw this.#unexpected("a value");
    return toNumber(literal);
  }

  #object(depth: number): JsonObject {
    const object = new BareObject();
    let keys: Set<string> | undefined;
    this.#position += 1;
    if (this.#skipIfNext("}")) return object;
    do {
      this.#skipWhitespace();
      if (this.#text[this.#position] !== '"') throw this.#unexpected("a key");
      const key = this.#string();
      if (!this.#skipIfNext(":")) throw this.#unexpected("':'");
      const value = this.#value(depth + 1);
      // JavaScript moves integer-like keys to the front.
      if (keys === undefined && isDigit(key.charCodeAt(0))) keys = new Set(Object.keys(object));
      keys?.add(key);
      object[key] = value;
    } while (this.#skipIfNext(","));
    if (!this.#skipIfNext("}")) throw this.#unexpected("',' or '}'");
    if (keys === undefined) return object;
    const order = [...keys];
    const own = Object.keys(object);
    // The property is enumerable, so that `{...metadata, added: 1}` copies it.
    if (order.some((key, index) => key !== own[index])) object[keyOrder] = order;
    return object;
  }

  #array(depth: number): JsonValue[] {
    const array: JsonValue[] = [];
    this.#position += 1;
    if (this.#skipIfNext("]")) return array;
    do {
      array.push(this.#value(depth + 1));
    } while (this.#skipIfNext(","));
    if (!this.#skipIfNext("]")) throw this.#unexpected("',' or ']'");
    return array;
  }

  #string(): string {
    this.#position += 1;
    const end = this.#isPlain ? this.#text.indexOf('"', this.#position) : -1;
    if (end !== -1) {
      const value = this.#text.slice(this.#position, end);
      this.#position = end + 1;
      return value;
    }
    let value = this.#match(plainCharacters);
    while (this.#text[this.#position] !== '"') {
      if (this.#text[this.#position] !== "\\") throw this.#unexpected("the end of a string");
      value += this.#escape() + this.#match(plainCharacters);
    }
    this.#position += 1;
    return value;
  }

  #escape(): string {
    const letter = this.#text[this.#position + 1] ?? "";
    if (letter === "u") {
      this.#position += 2;
      const digits = this.#match(hexDigits);
      if (digits === "") throw this.#unexpected("four hexadecimal digits");
      return String.fromCharCode(Number.parseInt(digits, 16));
    }
    const character = escapes[letter];
    if (character === undefined) throw this.#unexpected("an escape");
    this.#position += 2;
    return character;
  }

  #keyword(keyword: string, value: JsonValue): JsonValue {
    if (!this.#text.startsWith(keyword, this.#position)) throw this.#unexpected("a value");
    this.#position += keyword.length;
    return value;
  }

  /**
   * Returns the text that the sticky pattern matches here and moves past it, or "" if it does not
   * match.
   */
  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#position;
    const match = pattern.exec(this.#text)?.[0] ?? "";
    this.#position += match.length;
    return match;
  }

  #skipWhitespace(): void {
    for (;;) {
      const unit = this.#text.charCodeAt(this.#position);
      // Space, newline, carriage return, tab. Past the end, `unit` is NaN.
      if (unit !== 0x20 && unit !== 0x0a && unit !== 0x0d && unit !== 0x09) return;
      this.#position += 1;
    }
  }

  /** Skips white space, and the character if it is next. Returns whether it was. */
  #skipIfNext(character: string): boolean {
    this.#skipWhitespace();
    if (this.#text[this.#position] !== character) return false;
    this.#position += 1;
    return true;
  }

  #unexpected(expected: string): SyntaxError {
    return new SyntaxError(`not JSON: ${expected} was expected at character ${this.#position}`);
  }
}

function isDigit(unit: number): boolean {
  return unit >= 0x30 && unit <= 0x39;
}

function toNumber(literal: string): number | JsonNumber {
  const value = Number(literal);
  return Number.isFinite(value) && formatNumber(value) === literal
    ? value
    : new JsonNumber(literal);
}

/** Arguments of `json.dumps`; the defaults are Python's. */
export interface JsonStyle {
  /** `ensure_ascii`: whether to write non-ASCII characters as `\uXXXX`. Default: true. */
  ascii?: boolean;
  /** `sort_keys`: sorts keys by code point at every level. Default: false. */
  sortKeys?: boolean;
  /**
   * `indent`: spaces per level, with an item in each line. Default: everything in a single line.
   */
  indent?: number;
  /** `separators=(",", ":")`: whether to omit the spaces. Default: false. */
  compact?: boolean;
  /** Whether to write NaN and Infinity, which JSON does not have, as null. Default: false. */
  strict?: boolean;
}

/**
 * Writes a value as `json.dumps` does: separators `", "` and `": "`, keys in insertion order. Half
 * of a surrogate pair, which has no UTF-8 form, is always escaped: Python leaves it unescaped with
 * `ensure_ascii=False` and then cannot write the text to a file.
 *
 * @example
 * ```ts
 * formatJson({ types: ["speak"] }); // '{"types": ["speak"]}'
 * ```
 */
export function formatJson(value: JsonValue, style: JsonStyle = {}): string {
  const { ascii = true, sortKeys = false, indent, compact = false, strict = false } = style;
  return write(value, { ascii, sortKeys, indent, compact, strict }, 0);
}

interface Output {
  readonly ascii: boolean;
  readonly sortKeys: boolean;
  readonly indent: number | undefined;
  readonly compact: boolean;
  readonly strict: boolean;
}

function write(value: JsonValue, output: Output, level: number): string {
  if (typeof value === "string") return formatString(value, output.ascii);
  if (value === null || typeof value === "boolean") return String(value);
  if (isNumber(value)) {
    const text = typeof value === "number" ? formatNumber(value) : value.text;
    // NaN, Infinity and -Infinity.
    return output.strict && /[nN]/.test(text) ? "null" : text;
  }
  return isArray(value) ? writeArray(value, output, level) : writeObject(value, output, level);
}

function writeArray(array: readonly JsonValue[], output: Output, level: number): string {
  if (array.length === 0) return "[]";
  const between = formatSeparator(output, level + 1);
  let text = `[${formatLineBreak(output, level + 1)}`;
  for (let index = 0; index < array.length; index++) {
    if (index > 0) text += between;
    text += write(array[index] ?? null, output, level + 1);
  }
  return `${text}${formatLineBreak(output, level)}]`;
}

function writeObject(object: JsonObject, output: Output, level: number): string {
  const colon = output.compact ? ":" : ": ";
  const between = formatSeparator(output, level + 1);
  let text = "";
  for (const key of orderKeys(object, output.sortKeys)) {
    const value = object[key];
    if (value === undefined) continue;
    if (text !== "") text += between;
    text += formatString(key, output.ascii) + colon + write(value, output, level + 1);
  }
  if (text === "") return "{}";
  return `{${formatLineBreak(output, level + 1)}${text}${formatLineBreak(output, level)}}`;
}

function formatSeparator(output: Output, level: number): string {
  if (output.compact) return ",";
  return output.indent === undefined ? ", " : `,${formatLineBreak(output, level)}`;
}

function formatLineBreak({ indent }: Output, level: number): string {
  return indent === undefined ? "" : `\n${" ".repeat(indent * level)}`;
}

function orderKeys(object: JsonObject, isSorted: boolean): readonly string[] {
  const own = Object.keys(object);
  if (isSorted) return sortKeys(own);
  const recorded = object[keyOrder];
  if (recorded === undefined) return own;
  const kept = recorded.filter((key) => Object.hasOwn(object, key));
  const known = new Set(kept);
  return [...kept, ...own.filter((key) => !known.has(key))];
}

/** Caches the last sorted keys, because consecutive records have the same keys. */
let lastSorted: { keys: readonly string[]; sorted: readonly string[] } = { keys: [], sorted: [] };

function sortKeys(keys: readonly string[]): readonly string[] {
  const last = lastSorted;
  if (keys.length === last.keys.length && keys.every((key, index) => key === last.keys[index])) {
    return last.sorted;
  }
  const sorted = [...keys].sort(compareCodePoints);
  // Objects inside a record have few keys, and different keys.
  if (keys.length > 8) lastSorted = { keys, sorted };
  return sorted;
}

/**
 * Compares by code point, as Python does. JavaScript compares UTF-16 units, which orders characters
 * beyond U+FFFF differently.
 */
function compareCodePoints(a: string, b: string): number {
  const shorter = Math.min(a.length, b.length);
  for (let index = 0; index < shorter; index++) {
    const [left, right] = [a.charCodeAt(index), b.charCodeAt(index)];
    if (left !== right) return rank(left) - rank(right);
  }
  return a.length - b.length;
}

/** Ranks halves of surrogate pairs above all characters of a single unit. */
function rank(unit: number): number {
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit;
}

const shortEscapes: Record<string, string> = {
  '"': '\\"',
  "\\": "\\\\",
  "\b": "\\b",
  "\f": "\\f",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
};

const plainAscii = /^[ !#-[\]-~]*$/;
const notPlainAscii = /["\\]|[^ -~]/g;

function formatString(text: string, ascii: boolean): string {
  if (plainAscii.test(text)) return `"${text}"`;
  // Escapes what Python escapes (quotes, backslashes, control characters) and halves of surrogate
  // pairs.
  if (!ascii) return JSON.stringify(text);
  const escaped = text.replace(
    notPlainAscii,
    (character) =>
      shortEscapes[character] ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return `"${escaped}"`;
}

/**
 * Formats a number as Python does. A safe integer is an int; any other number is the `repr` of a
 * float. Below 1e-4 and from 1e16, it has an exponent of at least two digits.
 */
function formatNumber(value: number): string {
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) return String(value);
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "Infinity" : "-Infinity";
  if (value === 0) return "-0.0";
  const [mantissa = "", power = ""] = value.toExponential().split("e");
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const digits = String(Math.abs(exponent)).padStart(2, "0");
    return `${mantissa}e${exponent < 0 ? "-" : "+"}${digits}`;
  }
  // Between 1e-4 and 1e16 neither Python nor JavaScript writes an exponent. JavaScript omits `.0`.
  const plain = String(value);
  return plain.includes(".") ? plain : `${plain}.0`;
}

/**
 * Returns whether two values are equal. Ignores the order of an object's keys, but not the text of
 * a number: `1.0` and `1` differ.
 */
export function sameJson(a: JsonValue, b: JsonValue): boolean {
  if (a === b) return true;
  if (isNumber(a) && isNumber(b)) return formatJson(a) === formatJson(b);
  if (isArray(a) && isArray(b)) {
    return a.length === b.length && a.every((item, index) => sameJson(item, b[index] ?? null));
  }
  if (!isJsonObject(a) || !isJsonObject(b)) return false;
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  for (const key of keys) {
    if (!Object.hasOwn(b, key) || !sameJson(a[key] ?? null, b[key] ?? null)) return false;
  }
  return true;
}

/** Returns whether a value is an object, and not null, a list or a `JsonNumber`. */
export function isJsonObject(value: unknown): value is JsonObject {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof JsonNumber)
  );
}

function isNumber(value: JsonValue): value is number | JsonNumber {
  return typeof value === "number" || value instanceof JsonNumber;
}

/** Narrows a read-only array, unlike `Array.isArray`. */
function isArray(value: JsonValue): value is readonly JsonValue[] {
  return Array.isArray(value);
}
