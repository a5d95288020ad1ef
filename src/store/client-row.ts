/** Converts clients to rows and back. Writes the same bytes as HiveMind's own plugins. */
import {
  blacklistKeys,
  type Client,
  foldBlacklists,
  type StoredBlacklists,
  splitCryptoKey,
  unfoldBlacklists,
} from "../client/client.js";
import { formatJson, type JsonObject, sameJson } from "../client/json.js";
import { StoreError } from "../errors.js";
import type { SqlValue } from "./connection.js";
import {
  type Column,
  holdsList,
  newestSchema,
  readList,
  readObject,
  type Schema,
} from "./schema.js";

/** A row from SQLite. A column missing from the table is undefined. */
export type Row = Partial<Record<Column, unknown>> & {
  /** The digits of the id. As a number it would be rounded beyond 2^53 - 1. */
  exact_id: string;
  /** The digits of an integer in the REAL column, if a number would round it; otherwise null. */
  exact_last_seen: string | null;
};

export type Values = Partial<Record<Column, SqlValue>>;

const maxExact = Number.MAX_SAFE_INTEGER;

/** SQL for `exact_last_seen`. */
export const exactLastSeen = `CASE WHEN typeof(last_seen) = 'integer'
  AND last_seen NOT BETWEEN -${maxExact} AND ${maxExact} THEN CAST(last_seen AS TEXT) END`;

/** SQL to select a `Row`. `*` also reads a column that another program added later. */
export const rowColumns = `*, CAST(client_id AS TEXT) AS exact_id,
  ${exactLastSeen} AS exact_last_seen`;

/**
 * Decodes a row as a hub does.
 *
 * NULL in a permission is false. Metadata other than an object counts as empty, and blacklists in
 * separate columns are folded into it at every schema version. `allowed_types` decodes as an empty
 * list if it is not a list, and so denies everything in HiveMind 5; an unchanged row keeps its
 * bytes. If the table has no column `crypto_key`, it is read from the stored metadata.
 *
 * @throws {@link StoreError} refused - if a number in the row would be rounded
 */
export function decodeRow(row: Row): Client {
  const client_id = parseExactInteger(row.exact_id, "a client_id");
  if (row.exact_last_seen !== null) parseExactInteger(row.exact_last_seen, "a last_seen");
  const { folded: stored } = readBlacklists(row);
  const { crypto_key, metadata } =
    row.crypto_key === undefined
      ? splitCryptoKey(stored)
      : { crypto_key: decodeText(row.crypto_key), metadata: stored };
  return {
    client_id,
    api_key: decodeText(row.api_key) ?? "",
    name: decodeText(row.name),
    description: decodeText(row.description),
    is_admin: decodeBoolean(row.is_admin),
    last_seen: typeof row.last_seen === "number" ? row.last_seen : -1,
    allowed_types: [...decodeTypes(row.allowed_types)],
    crypto_key,
    password: decodeText(row.password),
    can_broadcast: decodeBoolean(row.can_broadcast),
    can_escalate: decodeBoolean(row.can_escalate),
    can_propagate: decodeBoolean(row.can_propagate),
    metadata,
  };
}

/**
 * Returns the list columns with different values in two rows, if either value is not a list.
 *
 * `decodeRow` reads such a value as an empty list, but a hub may not: in Python an object is a list
 * of its keys.
 */
export function findUnreadableLists(row: Row, other: Row): string[] {
  return (["allowed_types", ...blacklistKeys] as const).filter(
    (column) =>
      row[column] !== other[column] && !(holdsList(row[column]) && holdsList(other[column])),
  );
}

/** Caches the last decoded text, because nearly all clients have the same list. */
let lastTypes: { text: unknown; list: readonly string[] } = { text: undefined, list: [] };

function decodeTypes(text: unknown): readonly string[] {
  if (text !== lastTypes.text) {
    lastTypes = { text, list: readList(text).filter((type) => typeof type === "string") };
  }
  return lastTypes.list;
}

/** Encodes a new row. The result has `metadata` even if the table has no such column. */
export function encodeRow(client: Client, schema: Schema): Values {
  return Object.assign(encodeFields(client), encodeMetadata(client, schema));
}

/**
 * Returns the columns to write to change a row into `client`. Omits columns with an equal value, so
 * they keep their bytes.
 */
export function findChangedColumns(row: Row, client: Client, schema: Schema): Values {
  const before = decodeRow(row);
  const changed: Values = {};
  for (const [column, value] of entriesOf(encodeFields(client))) {
    if (column === "crypto_key" && row.crypto_key === undefined) continue;
    const isSame =
      column === "allowed_types"
        ? sameJson(before.allowed_types, client.allowed_types)
        : before[column as keyof Client] === client[column as keyof Client];
    if (!isSame) changed[column] = value;
  }
  if (sameJson(addCryptoKey(before, schema), addCryptoKey(client, schema))) return changed;
  for (const [column, value] of entriesOf(encodeMetadata(client, schema, row))) {
    const isSame =
      column === "metadata"
        ? sameJson(readObject(row[column]), readObject(value))
        : sameJson(readList(row[column]), readList(value));
    if (!isSame) changed[column] = value;
  }
  return changed;
}

/**
 * Parses an integer.
 *
 * @param what - names the value in the error
 * @throws {@link StoreError} refused - if JavaScript would round it
 */
export function parseExactInteger(digits: string, what: string): number {
  const value = Number(digits);
  if (Number.isSafeInteger(value)) return value;
  throw new StoreError(
    "refused",
    `${what} in this store is ${digits}: beyond 2^53 - 1, it would be rounded here`,
  );
}

function encodeFields(client: Client): Values {
  return {
    client_id: client.client_id,
    api_key: client.api_key,
    name: client.name,
    description: client.description,
    is_admin: Number(client.is_admin),
    last_seen: client.last_seen,
    allowed_types: formatJson(client.allowed_types),
    crypto_key: client.crypto_key,
    password: client.password,
    can_broadcast: Number(client.can_broadcast),
    can_escalate: Number(client.can_escalate),
    can_propagate: Number(client.can_propagate),
  };
}

/**
 * Encodes metadata and blacklists where hubs of this schema read them: in separate columns at 0 and
 * 1, in metadata at 2.
 *
 * HiveMind 4 fills the columns again when it opens a store at 2, and enforces only them. So if such
 * a column has a text, its list is written to the column and to metadata.
 */
function encodeMetadata(client: Client, schema: Schema, row?: Row): Values {
  const stored = addCryptoKey(client, schema);
  const { blacklists, metadata } = unfoldBlacklists(stored, row && readBlacklists(row));
  const inColumns =
    schema.version < newestSchema && blacklistKeys.every((key) => schema.columns.has(key));
  const values: Values = {
    metadata: formatJson(inColumns ? metadata : { ...stored, ...metadata }),
  };
  for (const key of blacklistKeys) {
    const isWritten = inColumns || typeof row?.[key] === "string";
    values[key] = isWritten ? formatJson(blacklists[key] ?? []) : null;
  }
  return values;
}

function readBlacklists(row: Row): StoredBlacklists {
  const fields: JsonObject = {};
  for (const key of blacklistKeys) fields[key] = readList(row[key]);
  return { fields, folded: foldBlacklists(readObject(row.metadata), fields) };
}

/** Returns the metadata, with `crypto_key` if the table has no column for it. */
function addCryptoKey({ metadata, crypto_key }: Client, schema: Schema): JsonObject {
  const isInColumn = schema.columns.has("crypto_key");
  if (isInColumn || crypto_key === null || Object.hasOwn(metadata, "crypto_key")) return metadata;
  return { ...metadata, crypto_key };
}

function entriesOf(values: Values): [Column, SqlValue][] {
  return Object.entries(values) as [Column, SqlValue][];
}

/** Decodes a column of text or NULL. */
export function decodeText(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  return value instanceof Uint8Array ? Buffer.from(value).toString() : String(value);
}

/** Returns the result of Python's `bool` for a column. */
function decodeBoolean(value: unknown): boolean {
  if (typeof value === "number") return value !== 0;
  if (typeof value === "string" || value instanceof Uint8Array) return value.length > 0;
  return false;
}
