/**
 * Converts a client to and from the JSON record of HiveMind's JSON and Redis plugins.
 *
 * HiveMind 4 has separate fields for three blacklists and the crypto key. HiveMind 5 has two of the
 * lists in `metadata` and no crypto key. Reading accepts both shapes. Writing uses the shape of the
 * store's schema version.
 */
import {
  blacklistKeys,
  type Client,
  deserializeClient,
  foldBlacklists,
  type StoredBlacklists,
  unfoldBlacklists,
} from "../client/client.js";
import { isJsonObject, type JsonObject, sameJson } from "../client/json.js";

/** HiveMind 4 uses schema versions below 2, HiveMind 5 uses 2. */
export type RecordShape = "HiveMind 4" | "HiveMind 5";

/** The first schema version with records in the shape of HiveMind 5. */
export const newestRecordSchema = 2;

export function shapeOf(schemaVersion: number): RecordShape {
  return schemaVersion < newestRecordSchema ? "HiveMind 4" : "HiveMind 5";
}

/**
 * Returns a record with the fields in the order of Python's class.
 *
 * @param stored - the lists of the replaced record
 */
export function encodeRecord(
  client: Client,
  shape: RecordShape,
  stored?: StoredBlacklists,
): JsonObject {
  const { blacklists, metadata } = unfoldBlacklists(client.metadata, stored);
  const isHiveMind4 = shape === "HiveMind 4";
  return {
    client_id: client.client_id,
    api_key: client.api_key,
    name: client.name,
    description: client.description,
    is_admin: client.is_admin,
    last_seen: client.last_seen,
    ...(isHiveMind4 && blacklists),
    allowed_types: client.allowed_types,
    ...(isHiveMind4 && { crypto_key: client.crypto_key }),
    password: client.password,
    can_broadcast: client.can_broadcast,
    can_escalate: client.can_escalate,
    can_propagate: client.can_propagate,
    metadata: isHiveMind4 ? metadata : withCryptoKey(client),
  };
}

function withCryptoKey({ crypto_key, metadata }: Client): JsonObject {
  const isIncluded = crypto_key === null || Object.hasOwn(metadata, "crypto_key");
  return isIncluded ? metadata : { ...metadata, crypto_key };
}

/** Fields that are written together, because a value without its own field is in `metadata`. */
const linkedFields = ["crypto_key", ...blacklistKeys, "metadata"];

/**
 * Returns the record with the changes of `client`. Unchanged fields keep their JSON values. Returns
 * the same object if nothing changes.
 */
export function changeRecord(record: JsonObject, client: Client, shape: RecordShape): JsonObject {
  // HiveMind 4 reads the lists only in their fields, also after HiveMind 5 has migrated the store.
  const own = blacklistKeys.some((key) => Object.hasOwn(record, key)) ? "HiveMind 4" : shape;
  const known = deserializeClient(record);
  const stored = { fields: record, folded: known.metadata };
  const before = encodeRecord(known, own, stored);
  const after = encodeRecord(client, own, stored);
  const differs = (key: string) => !sameJson(before[key] ?? null, after[key] ?? null);
  const changed = Object.keys(after).filter(differs);
  if (changed.length === 0) return record;
  const result: JsonObject = { ...record };
  for (const key of changed) result[key] = after[key] ?? null;
  if (!changed.some((key) => linkedFields.includes(key))) return result;
  // Fields unknown to HiveMind count as metadata, and are now in the new `metadata`.
  for (const key of Object.keys(record)) {
    if (!Object.hasOwn(after, key)) delete result[key];
  }
  for (const key of linkedFields) {
    const value = after[key];
    if (value !== undefined) result[key] = value;
  }
  return result;
}

/**
 * Migrates a record of schema 1 as HiveMind 5 does. The lists of intents and skills move into
 * `metadata`, unless it has them, and the list of messages is dropped. Idempotent. Returns the same
 * object if nothing changes.
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
