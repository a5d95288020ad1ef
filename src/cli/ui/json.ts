/** Converts results to JSON documents as `docs/reference/json-output.md` describes them. */
import { formatJson, type JsonValue } from "../../client/json.js";

type SnakeCase<Name> = Name extends `${infer First}${infer Rest}`
  ? `${First extends Lowercase<First> ? First : `_${Lowercase<First>}`}${SnakeCase<Rest>}`
  : Name;

/** A result as `--json` prints it: `createdAt` is named `created_at`. */
export type Json<Value> = Value extends readonly unknown[]
  ? { [Index in keyof Value]: Json<Value[Index]> }
  : Value extends ReadonlyMap<string, infer Item>
    ? Readonly<Record<string, Json<Item>>>
    : Value extends object
      ? // The metadata of a client record: its keys are the user's own.
        string extends keyof Value
        ? Value
        : { [Key in keyof Value as SnakeCase<Key>]: Json<Value[Key]> }
      : Value;

/**
 * Converts the keys of a result from camelCase to snake_case, at every depth.
 *
 * Keys that are data, such as names of operations, are the keys of a Map, which becomes an object
 * with the same keys. Do not pass client records: their keys are the names of columns already, and
 * the keys of their metadata must stay as they are.
 */
export function toJson<Result>(result: Result): Json<Result> {
  return convert(result) as Json<Result>;
}

function convert(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(convert);
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof Map) {
    return Object.fromEntries([...value].map(([key, item]) => [key, convert(item)]));
  }
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [snakeCase(key), convert(item)]),
  );
}

function snakeCase(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/**
 * Returns the text of a document. Numbers in a client's metadata keep their digits;
 * `JSON.stringify` would round them.
 */
export function formatDocument(document: unknown): string {
  return formatJson(document as JsonValue, { ascii: false, compact: true, strict: true });
}
