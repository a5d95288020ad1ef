/**
 * JSON text as Python's `json` module reads and writes it.
 *
 * HiveMind's hubs keep JSON in columns and files, written by `json.dumps`. `JSON.parse` fails on some of that text
 * (`NaN`, `Infinity`) and changes other text (`1.0`, `1e+16`, integers above 2^53, the order of keys that look like
 * integers), so it is parsed and written here: `formatJson(parseJson(text))` gives back, byte for byte, anything
 * that `json.dumps` wrote at its defaults.
 */

/** Keeps the text's order of keys on an object whose own order JavaScript changed (integer-like keys come first). */
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
 * A number that JavaScript cannot carry unchanged, kept as its text: `1.0` is not `1` to Python, 2^53 + 1 would be
 * rounded, NaN would become null.
 */
export class JsonNumber {
  /** Also one that a database plugin of another package made, with the library, which is built apart from the command. */
  static [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === "object" && value !== null && jsonNumberMark in value;
  }

  constructor(readonly text: string) {}

  get [jsonNumberMark](): true {
    return true;
  }

  /** The nearest JavaScript number. */
  valueOf(): number {
    return Number(this.text);
  }

  /** For `JSON.stringify`, which cannot write the text itself: the nearest number, or null for NaN and Infinity. */
  toJSON(): number {
    return this.valueOf();
  }
}

/** Deeper nesting than this is refused, by Python too (at about a thousand levels). */
const maximumDepth = 2000;

/**
 * Parses JSON text as `json.loads` does. Objects have no prototype, so a key `__proto__` is a key like any other.
 *
 * @throws SyntaxError naming the position; never the text, which may hold a secret.
 */
export function parseJson(text: string): JsonValue {
  return new Parser(text).document();
}

const number = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|NaN|-?Infinity/y;
// Up to the closing quote, an escape, or a control character, which a string cannot hold.
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
 * An object without any property but its own. (`Object.create(null)` says the same, and makes an object that is slow to
 * fill and to read.)
 */
const BareObject = function BareObject() {} as unknown as new () => JsonObject;
BareObject.prototype = Object.create(null);

class Parser {
  #position = 0;
  readonly #text: string;
  /** Without an escape or a control character in the whole text, every string ends at its next quote. */
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
        return this.#word("null", null);
      case "t":
        return this.#word("true", true);
      case "f":
        return this.#word("false", false);
    }
    const literal = this.#match(number);
    if (literal === "") throw this.#unexpected("a value");
    return numberOf(literal);
  }

  #object(depth: number): JsonObject {
    const object = new BareObject();
    let keys: Set<string> | undefined;
    this.#position += 1;
    if (this.#takes("}")) return object;
    do {
      this.#skipWhitespace();
      if (this.#text[this.#position] !== '"') throw this.#unexpected("a key");
      const key = this.#string();
      if (!this.#takes(":")) throw this.#unexpected("':'");
      const value = this.#value(depth + 1);
      // JavaScript gives such keys another place.
      if (keys === undefined && isDigit(key.charCodeAt(0))) keys = new Set(Object.keys(object));
      keys?.add(key);
      object[key] = value;
    } while (this.#takes(","));
    if (!this.#takes("}")) throw this.#unexpected("',' or '}'");
    if (keys === undefined) return object;
    const order = [...keys];
    const own = Object.keys(object);
    // Enumerable, so that `{...metadata, added: 1}` keeps it too.
    if (order.some((key, index) => key !== own[index])) object[keyOrder] = order;
    return object;
  }

  #array(depth: number): JsonValue[] {
    const array: JsonValue[] = [];
    this.#position += 1;
    if (this.#takes("]")) return array;
    do {
      array.push(this.#value(depth + 1));
    } while (this.#takes(","));
    if (!this.#takes("]")) throw this.#unexpected("',' or ']'");
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

  #word(word: string, value: JsonValue): JsonValue {
    if (!this.#text.startsWith(word, this.#position)) throw this.#unexpected("a value");
    this.#position += word.length;
    return value;
  }

  /** What the (sticky) pattern matches at this position, and moves behind it; empty if nothing. */
  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#position;
    const match = pattern.exec(this.#text)?.[0] ?? "";
    this.#position += match.length;
    return match;
  }

  #skipWhitespace(): void {
    for (;;) {
      const unit = this.#text.charCodeAt(this.#position);
      // A space, a newline, a carriage return, a tab; not the NaN behind the end.
      if (unit !== 0x20 && unit !== 0x0a && unit !== 0x0d && unit !== 0x09) return;
      this.#position += 1;
    }
  }

  #takes(character: string): boolean {
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

function numberOf(literal: string): number | JsonNumber {
  const value = Number(literal);
  return Number.isFinite(value) && formatNumber(value) === literal
    ? value
    : new JsonNumber(literal);
}

/** How `json.dumps` is called; each default is Python's. */
export interface JsonStyle {
  /** Non-ASCII characters as `\uXXXX` (`ensure_ascii`, true). */
  ascii?: boolean;
  /** Keys in the order of their code points, at every level (`sort_keys`, false). */
  sortKeys?: boolean;
  /** Spaces a level, one item a line (`indent`, none: all on one line). */
  indent?: number;
}

/**
 * Writes a value as `json.dumps` does: separators `", "` and `": "`, keys in insertion order. Half a surrogate
 * pair is always escaped, since UTF-8 has no form for it.
 */
export function formatJson(value: JsonValue, style: JsonStyle = {}): string {
  const { ascii = true, sortKeys = false, indent } = style;
  const parts: string[] = [];
  write(value, { ascii, sortKeys, indent, parts }, 0);
  return parts.join("");
}

/** What is written, piece by piece: to join them once is quicker than to add each to the text. */
interface Writing {
  readonly ascii: boolean;
  readonly sortKeys: boolean;
  readonly indent: number | undefined;
  readonly parts: string[];
}

function write(value: JsonValue, writing: Writing, level: number): void {
  const { ascii, parts } = writing;
  if (value === null || typeof value === "boolean") parts.push(String(value));
  else if (typeof value === "number") parts.push(formatNumber(value));
  else if (typeof value === "string") parts.push(formatString(value, ascii));
  else if (value instanceof JsonNumber) parts.push(value.text);
  else if (isArray(value)) writeArray(value, writing, level);
  else writeObject(value, writing, level);
}

function writeArray(array: readonly JsonValue[], writing: Writing, level: number): void {
  const { parts } = writing;
  let before = `[${lineBreak(writing, level + 1)}`;
  for (const item of array) {
    parts.push(before);
    write(item, writing, level + 1);
    before = separator(writing, level + 1);
  }
  parts.push(array.length === 0 ? "[]" : `${lineBreak(writing, level)}]`);
}

function writeObject(object: JsonObject, writing: Writing, level: number): void {
  const { parts } = writing;
  const keys = keysOf(object, writing.sortKeys);
  let before = `{${lineBreak(writing, level + 1)}`;
  for (const key of keys) {
    parts.push(before, formatString(key, writing.ascii), ": ");
    write(object[key] ?? null, writing, level + 1);
    before = separator(writing, level + 1);
  }
  parts.push(keys.length === 0 ? "{}" : `${lineBreak(writing, level)}}`);
}

function separator(writing: Writing, level: number): string {
  return writing.indent === undefined ? ", " : `,${lineBreak(writing, level)}`;
}

function lineBreak({ indent }: Writing, level: number): string {
  return indent === undefined ? "" : `\n${" ".repeat(indent * level)}`;
}

function keysOf(object: JsonObject, sorted: boolean): readonly string[] {
  const own = Object.keys(object);
  if (sorted) return inOrder(own);
  const recorded = object[keyOrder];
  if (recorded === undefined) return own;
  const kept = recorded.filter((key) => Object.hasOwn(object, key));
  const known = new Set(kept);
  return [...kept, ...own.filter((key) => !known.has(key))];
}

/** Records come one after another with the same keys: what was sorted last, before and after. */
let lastSorted: { keys: readonly string[]; sorted: readonly string[] } = { keys: [], sorted: [] };

function inOrder(keys: readonly string[]): readonly string[] {
  const last = lastSorted;
  if (keys.length === last.keys.length && keys.every((key, index) => key === last.keys[index])) {
    return last.sorted;
  }
  const sorted = [...keys].sort(compareCodePoints);
  // What is inside a record has few, and its own.
  if (keys.length > 8) lastSorted = { keys, sorted };
  return sorted;
}

/** Python orders strings by code point; JavaScript by UTF-16 unit, which differs beyond U+FFFF. */
function compareCodePoints(a: string, b: string): number {
  const shorter = Math.min(a.length, b.length);
  for (let index = 0; index < shorter; index++) {
    const [left, right] = [a.charCodeAt(index), b.charCodeAt(index)];
    if (left !== right) return rank(left) - rank(right);
  }
  return a.length - b.length;
}

/** Halves of surrogate pairs stand for characters beyond all that have one unit. */
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
  // Escapes quotes, backslashes, control characters and halves of surrogate pairs, and nothing else, as Python does.
  if (!ascii) return JSON.stringify(text);
  const escaped = text.replace(
    notPlainAscii,
    (character) =>
      shortEscapes[character] ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return `"${escaped}"`;
}

/**
 * A JavaScript number as Python writes it: a safe integer as an int, anything else as the `repr` of a float, with an
 * exponent (of two digits at least) below 1e-4 and from 1e16 on.
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
  // Between 1e-4 and 1e16 JavaScript writes no exponent either, but drops the `.0` of a whole number.
  const plain = String(value);
  return plain.includes(".") ? plain : `${plain}.0`;
}

/** Whether two values say the same: the order of an object's keys does not matter, the text of a number does. */
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

/** Whether a value is a JSON object: neither null, a list, nor a number kept as text. */
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

/** `Array.isArray` does not narrow a read-only array away from the other branch. */
function isArray(value: JsonValue): value is readonly JsonValue[] {
  return Array.isArray(value);
}
