/** Compares the records of one client in two databases. */
import { blacklistKeys, type Client, isRevoked, revoked } from "./client.js";
import { sameJson } from "./json.js";

/**
 * Returns the client in a form that is equal for records which some databases cannot tell apart.
 */
export function normalizeClient(client: Client): Client {
  // Programs keep different fields of a client when they revoke it.
  if (isRevoked(client)) return revoked(client.client_id);
  // HiveMind 5 has the crypto key in the metadata, and writes null for a client without a key.
  const { crypto_key, ...rest } = client.metadata;
  const isInMetadata = client.crypto_key === null && typeof crypto_key === "string";
  const metadata = isInMetadata || crypto_key === null ? rest : { ...client.metadata };
  for (const key of blacklistKeys) {
    const list = metadata[key];
    if (Array.isArray(list) && list.length === 0) delete metadata[key];
  }
  return {
    ...client,
    // Redis has no null for a name.
    name: client.name ?? "",
    crypto_key: isInMetadata ? crypto_key : client.crypto_key,
    metadata,
  };
}

/** Returns whether two records are equal after `normalizeClient`. */
export function isSameRecord(a: Client, b: Client): boolean {
  return sameJson(a, b) || sameJson(normalizeClient(a), normalizeClient(b));
}

/** Returns whether two records are equal apart from `last_seen`, which a running hub updates. */
export function isSameExceptLastSeen(a: Client, b: Client): boolean {
  return isSameRecord(a, a.last_seen === b.last_seen ? b : { ...b, last_seen: a.last_seen });
}
