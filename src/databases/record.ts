/**
 * Converts a client to and from the JSON record of HiveMind's JSON and Redis plugins.
 *
 * HiveMind 4 has separate fields for three blacklists and the crypto key. HiveMind 5 has two of the
 * lists and the crypto key in `metadata`. Reading accepts both shapes. Writing uses the shape of
 * the store's schema version.
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
import { StoreError } from "../errors.js";

/** HiveMind 4 uses schema versions below 2, HiveMind 5 uses 2. */
export type RecordShape = "HiveMind 4" | "HiveMind 5";

/** The newest schema version, and the first with records in the shape of HiveMind 5. */
export const newestRecordSchema = 2;

/**
 * Returns the shape of the records of a store. Like HiveMind's plugins, reads a missing version, or
 * a text that is not a number, as 1.
 *
 * @param where - the path or URL of the store, for the error
 * @throws {@link StoreError} newerVersion - if this version does not know the schema
 */
export function readShape(schemaVersion: string | undefined, where: string): RecordShape {
  const version = Number.parseInt(schemaVersion ?? "", 10);
  if (version > newestRecordSchema) {
    throw new StoreError(
      "newerVersion",
      `${where} has schema ${version}; this version supports schemas up to ${newestRecordSchema}`,
      { hint: "Install a newer hivemind-sqlcipher." },
    );
  }
  return version === newestRecordSchema ? "HiveMind 5" : "HiveMind 4";
}

/**
 * Returns a record with the fields in the order of Python's class.
 *
 * @param stored - the blacklists of the record that is replaced, if any
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
  if (crypto_key === null || Object.hasOwn(metadata, "crypto_key")) return metadata;
  return { ...metadata, crypto_key };
}

/** Fields that are written together: a value that has no field of its own is in `metadata`. */
const linkedFields = ["crypto_key", ...blacklistKeys, "metadata"];

/**
 * Returns the record with the changes of `client`. Unchanged fields keep their JSON values. Returns
 * the same object if nothing changes.
 */
export function changeRecord(record: JsonObject, client: Client, shape: RecordShape): JsonObject {
  // A record with blacklist fields keeps them, also in a store that HiveMind 5 has migrated:
  // HiveMind 4 reads the blacklists only from these fields.
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
  // Fields unknown to HiveMind were read as metadata, so the new `metadata` contains them.
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
 * Migrates a record of an older schema as HiveMind 5 does. The blacklists of intents and skills
 * move into `metadata`, unless it has the same key, and the blacklist of messages is dropped.
 * Idempotent. Returns the same object if nothing changes.
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
