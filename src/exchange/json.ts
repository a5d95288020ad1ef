/**
 * Reads clients from JSON with access keys: a document such as `list-clients --json --show-secrets`
 * prints, a record per line, or the file of HiveMind's JSON plugin.
 */
import { blacklistKeys, type Client, clientSchema, deserializeClient } from "../client/client.js";
import { isJsonObject, type JsonObject, type JsonValue, parseJson } from "../client/json.js";
import { StoreError } from "../errors.js";
import { type ImportRow, type RejectedRow, toImportRow } from "./import-row.js";
import type { FirstLine } from "./text.js";

/** In characters. A document is parsed as a whole; a longer file must have a record per line. */
const maxDocumentLength = 256_000_000;

/**
 * Yields a row for each record. A first line that is a record makes the file a record per line.
 *
 * @throws {@link StoreError} refused - if the text is not JSON, or not JSON of clients
 */
export async function* readJson(
  lines: AsyncIterable<string>,
  first: FirstLine,
): AsyncGenerator<ImportRow | RejectedRow> {
  const record = parseIfJson(first.text);
  if (isRecord(record)) yield* readLines(lines, record, first.number);
  else yield* readDocument(lines, first.text);
}

async function* readLines(
  lines: AsyncIterable<string>,
  first: JsonObject,
  firstNumber: number,
): AsyncGenerator<ImportRow | RejectedRow> {
  yield rowFromRecord(`line ${firstNumber}`, first);
  let number = firstNumber;
  for await (const line of lines) {
    number += 1;
    if (line.trim() === "") continue;
    const record = parseIfJson(line);
    const where = `line ${number}`;
    yield record === undefined ? { where, why: "not JSON" } : rowFromRecord(where, record);
  }
}

async function* readDocument(
  lines: AsyncIterable<string>,
  first: string,
): AsyncGenerator<ImportRow | RejectedRow> {
  const parts = [first];
  let length = first.length;
  for await (const line of lines) {
    parts.push(line);
    length += line.length;
    if (length > maxDocumentLength) {
      throw new StoreError("refused", "the JSON document is too long", {
        hint: "Write a record per line: list-clients --jsonl --revoked --show-secrets.",
      });
    }
  }
  let number = 0;
  for (const record of findRecords(parseDocument(parts.join("")))) {
    number += 1;
    yield rowFromRecord(`record ${number}`, record);
  }
}

function parseDocument(text: string): JsonValue {
  try {
    return parseJson(text);
  } catch (error) {
    throw new StoreError("refused", `the file is not JSON: ${(error as Error).message}`);
  }
}

function findRecords(document: JsonValue): readonly JsonValue[] {
  if (Array.isArray(document)) return document;
  if (isJsonObject(document)) {
    if (Array.isArray(document.clients)) return document.clients;
    const values = Object.values(document);
    // The file of the JSON plugin is an object from ids to records.
    if (values.every(isRecord)) return values;
  }
  throw new StoreError("refused", "the JSON contains no clients", {
    hint: 'Use {"clients": [record, …]}, a list of records, or a record per line.',
  });
}

function parseIfJson(line: string): JsonValue | undefined {
  try {
    return parseJson(line);
  } catch {
    return undefined;
  }
}

function isRecord(value: JsonValue | undefined): value is JsonObject {
  if (!isJsonObject(value) || Array.isArray(value.clients)) return false;
  return Object.hasOwn(value, "api_key") || Object.hasOwn(value, "client_id");
}

function rowFromRecord(where: string, record: JsonValue): ImportRow | RejectedRow {
  if (!isJsonObject(record)) return { where, why: "not a record" };
  if (!Object.hasOwn(record, "api_key")) {
    return { where, why: "api_key missing: export-clients writes it with --show-secrets" };
  }
  let client: Client;
  try {
    client = deserializeClient({ ...record, client_id: record.client_id ?? 0 });
  } catch (error) {
    if (error instanceof StoreError) return { where, why: error.message };
    throw error;
  }
  const { client_id, ...rest } = client;
  const id = (record.client_id ?? null) === null ? undefined : client_id;
  const row = toImportRow(where, id, rest);
  if ("why" in row) return row;
  const fields = Object.keys(clientSchema.shape) as (keyof Client)[];
  // The crypto key may be in the metadata.
  const isGiven = (field: keyof Client) =>
    Object.hasOwn(record, field) || (field === "crypto_key" && client.crypto_key !== null);
  const given = fields.filter(isGiven);
  return { ...row, given, givenMetadata: { ...buildEmptyLists(record), ...client.metadata } };
}

/**
 * Returns an empty list for each blacklist in the record. `deserializeClient` omits an empty
 * blacklist, but it must clear the blacklist of an existing client.
 */
function buildEmptyLists(record: JsonObject): JsonObject {
  const given = blacklistKeys.filter((key) => record[key] === null || Array.isArray(record[key]));
  return Object.fromEntries(given.map((key) => [key, []]));
}
