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

/**
 * A number that JavaScript cannot carry unchanged, kept as its text: `1.0` is not `1` to Python, 2^53 + 1 would be
 * rounded, NaN would become null.
 */
export class JsonNumber {
  constructor(readonly text: string) {}

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

const whitespace = /[ \t\n\r]*/y;
const number = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|NaN|-?Infinity/y;
// Up to the closing quote, an escape, or a control character, which a string cannot hold.
const plainCharacters = /[ !#-[\]-\uffff]*/y;
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

const words: ReadonlyArray<readonly [string, JsonValue]> = [
  ["null", null],
  ["true", true],
  ["false", false],
];

class Parser {
  #position = 0;

  constructor(private readonly text: string) {}

  document(): JsonValue {
    const value = this.#value(0);
    this.#skipWhitespace();
    if (this.#position < this.text.length) throw this.#unexpected("the end");
    return value;
  }

  #value(depth: number): JsonValue {
    if (depth > maximumDepth) throw this.#unexpected("less nesting");
    this.#skipWhitespace();
    const first = this.text[this.#position];
    if (first === "{") return this.#object(depth);
    if (first === "[") return this.#array(depth);
    if (first === '"') return this.#string();
    for (const [word, value] of words) {
      if (this.text.startsWith(word, this.#position)) {
        this.#position += word.length;
        return value;
      }
    }
    const literal = this.#match(number);
    if (literal === "") throw this.#unexpected("a value");
    return numberOf(literal);
  }

  #object(depth: number): JsonObject {
    const object: JsonObject = Object.create(null);
    const keys = new Set<string>();
    this.#position += 1;
    if (this.#takes("}")) return object;
    do {
      this.#skipWhitespace();
      if (this.text[this.#position] !== '"') throw this.#unexpected("a key");
      const key = this.#string();
      if (!this.#takes(":")) throw this.#unexpected("':'");
      object[key] = this.#value(depth + 1);
      keys.add(key);
    } while (this.#takes(","));
    if (!this.#takes("}")) throw this.#unexpected("',' or '}'");
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
    let value = this.#match(plainCharacters);
    while (this.text[this.#position] !== '"') {
      if (this.text[this.#position] !== "\\") throw this.#unexpected("the end of a string");
      value += this.#escape() + this.#match(plainCharacters);
    }
    this.#position += 1;
    return value;
  }

  #escape(): string {
    const letter = this.text[this.#position + 1] ?? "";
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

  /** What the (sticky) pattern matches at this position, and moves behind it; empty if nothing. */
  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#position;
    const match = pattern.exec(this.text)?.[0] ?? "";
    this.#position += match.length;
    return match;
  }

  #skipWhitespace(): void {
    this.#match(whitespace);
  }

  #takes(character: string): boolean {
    this.#skipWhitespace();
    if (this.text[this.#position] !== character) return false;
    this.#position += 1;
    return true;
  }

  #unexpected(expected: string): SyntaxError {
    return new SyntaxError(`not JSON: ${expected} was expected at character ${this.#position}`);
  }
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
  return format(value, style, 0);
}

function format(value: JsonValue, style: JsonStyle, level: number): string {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "number") return formatNumber(value);
  if (typeof value === "string") return formatString(value, style.ascii ?? true);
  if (value instanceof JsonNumber) return value.text;
  if (isArray(value)) {
    const items = value.map((item) => format(item, style, level + 1));
    return enclose("[", items, "]", style, level);
  }
  const members = keysOf(value, style.sortKeys ?? false).map(
    (key) =>
      `${formatString(key, style.ascii ?? true)}: ${format(value[key] ?? null, style, level + 1)}`,
  );
  return enclose("{", members, "}", style, level);
}

function enclose(
  opening: string,
  items: string[],
  closing: string,
  style: JsonStyle,
  level: number,
): string {
  if (style.indent === undefined || items.length === 0) {
    return opening + items.join(", ") + closing;
  }
  const outer = `\n${" ".repeat(style.indent * level)}`;
  const inner = `\n${" ".repeat(style.indent * (level + 1))}`;
  return opening + inner + items.join(`,${inner}`) + outer + closing;
}

function keysOf(object: JsonObject, sorted: boolean): string[] {
  const own = Object.keys(object);
  if (sorted) return own.sort(compareCodePoints);
  const recorded = object[keyOrder];
  if (recorded === undefined) return own;
  const kept = recorded.filter((key) => Object.hasOwn(object, key));
  const known = new Set(kept);
  return [...kept, ...own.filter((key) => !known.has(key))];
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

const notPlainAscii = /["\\]|[^ -~]/g;
// Quotes, backslashes, control characters, and halves of surrogate pairs.
const notPlain = /["\\]|[^ -\u{10ffff}]|\p{Surrogate}/gu;

function formatString(text: string, ascii: boolean): string {
  const escaped = text.replace(
    ascii ? notPlainAscii : notPlain,
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
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && sameJson(a[key] ?? null, b[key] ?? null))
  );
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
