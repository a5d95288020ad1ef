/**
 * A client as the JSON record that HiveMind's JSON and Redis plugins keep.
 *
 * Two shapes are in the field. Released plugins keep three blacklists and the crypto key as fields of their own; the
 * development line keeps two of the lists in `metadata` and has no crypto key. Both are read alike; what is written
 * takes the shape that the store's own plugin reads.
 */
import {
  blacklistKeys,
  type Client,
  deserializeClient,
  foldBlacklists,
  unfoldBlacklists,
} from "../client/client.js";
import { isJsonObject, type JsonObject, sameJson } from "../client/json.js";

/** Which plugin's shape: by the store's schema version, below 2 or not. */
export type RecordShape = "released" | "development";

/** The schema version from which records have the development line's shape. */
export const newestRecordSchema = 2;

export function shapeOf(schemaVersion: number): RecordShape {
  return schemaVersion < newestRecordSchema ? "released" : "development";
}

/** A new record, its fields in the order in which Python's class has them. */
export function encodeRecord(client: Client, shape: RecordShape): JsonObject {
  const { blacklists, metadata } = unfoldBlacklists(client.metadata);
  const isReleased = shape === "released";
  return {
    client_id: client.client_id,
    api_key: client.api_key,
    name: client.name,
    description: client.description,
    is_admin: client.is_admin,
    last_seen: client.last_seen,
    ...(isReleased && blacklists),
    allowed_types: client.allowed_types,
    ...(isReleased && { crypto_key: client.crypto_key }),
    password: client.password,
    can_broadcast: client.can_broadcast,
    can_escalate: client.can_escalate,
    can_propagate: client.can_propagate,
    metadata: isReleased ? metadata : withCryptoKey(client),
  };
}

function withCryptoKey({ crypto_key, metadata }: Client): JsonObject {
  const hasPlace = crypto_key === null || Object.hasOwn(metadata, "crypto_key");
  return hasPlace ? metadata : { ...metadata, crypto_key };
}

/**
 * The client that a record describes. Where the record has no field for it, the crypto key is looked for in `metadata`.
 *
 * @throws StoreError as `deserializeClient`.
 */
export function decodeRecord(record: JsonObject): Client {
  const client = deserializeClient(record);
  const { crypto_key, ...metadata } = client.metadata;
  if (Object.hasOwn(record, "crypto_key") || typeof crypto_key !== "string") return client;
  return { ...client, crypto_key, metadata };
}

/** These say one thing together: what is not in its own field is in `metadata`. */
const joined = ["crypto_key", ...blacklistKeys, "metadata"];

/**
 * The record with what `client` changes in it; everything else stays as its writer spelled it. A record that says so
 * already is answered itself.
 */
export function changeRecord(record: JsonObject, client: Client, shape: RecordShape): JsonObject {
  // A released hub reads the lists in their fields alone, also where a newer one has migrated the store.
  const own = blacklistKeys.some((key) => Object.hasOwn(record, key)) ? "released" : shape;
  const before = encodeRecord(decodeRecord(record), own);
  const after = encodeRecord(client, own);
  const differs = (key: string) => !sameJson(before[key] ?? null, after[key] ?? null);
  const changed = Object.keys(after).filter(differs);
  if (changed.length === 0) return record;
  const result: JsonObject = { ...record };
  for (const key of changed) result[key] = after[key] ?? null;
  if (!changed.some((key) => joined.includes(key))) return result;
  // Fields that HiveMind does not know count as metadata, which is now written whole.
  for (const key of Object.keys(record)) {
    if (!Object.hasOwn(after, key)) delete result[key];
  }
  for (const key of joined) {
    const value = after[key];
    if (value !== undefined) result[key] = value;
  }
  return result;
}

/**
 * What the development line's plugins make of a record of schema 1: the lists of intents and skills go into `metadata`
 * unless it has them, the list of messages is dropped. Twice is the same as once; a record without them is answered
 * itself.
 */
export function migrateRecord(record: JsonObject): JsonObject {
  const metadata: JsonObject = isJsonObject(record.metadata) ? record.metadata : {};
  const legacy = blacklistKeys.filter((key) => Object.hasOwn(record, key));
  if (legacy.length === 0 && !Object.hasOwn(metadata, "message_blacklist")) return record;
  const lists: JsonObject = {};
  for (const key of legacy) lists[key] = record[key] ?? null;
  const folded = { ...foldBlacklists(metadata, lists) };
  delete folded.message_blacklist;
  const migrated: JsonObject = { ...record, metadata: folded };
  for (const key of legacy) delete migrated[key];
  return migrated;
}
