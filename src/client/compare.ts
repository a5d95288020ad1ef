/** Compares the records of one client in two databases. */
import { blacklistKeys, type Client } from "./client.js";
import { sameJson } from "./json.js";

/** Returns the client without differences that some databases cannot store. */
export function comparable(client: Client): Client {
  // HiveMind 5 keeps the crypto key in the metadata, also if it is null.
  const { crypto_key, ...rest } = client.metadata;
  const isLifted = client.crypto_key === null && typeof crypto_key === "string";
  const metadata = isLifted || crypto_key === null ? rest : { ...client.metadata };
  for (const key of blacklistKeys) {
    const list = metadata[key];
    if (Array.isArray(list) && list.length === 0) delete metadata[key];
  }
  return {
    ...client,
    // Redis has no null for a name.
    name: client.name ?? "",
    crypto_key: isLifted ? crypto_key : client.crypto_key,
    metadata,
  };
}

/** Returns whether two records are equal. Ignores differences that some databases cannot store. */
export function isSame(a: Client, b: Client): boolean {
  return sameJson(a, b) || sameJson(comparable(a), comparable(b));
}

/** Returns whether two records are equal apart from `last_seen`, which a running hub updates. */
export function isSameClient(a: Client, b: Client): boolean {
  return isSame(a, a.last_seen === b.last_seen ? b : { ...b, last_seen: a.last_seen });
}
