/**
 * The changes to a client that the hub's commands make: its name, permissions, message types and
 * blacklists.
 *
 * HiveMind 4 and 5 read the same record differently. A store of schema 0 or 1 is treated as
 * HiveMind 4's, and a store of schema 2 as HiveMind 5's. Each function returns a change with the
 * requested effect in that version, with notices about the limits of the effect. The store writes
 * the change to the columns that the version reads.
 */
import { StoreError } from "../errors.js";
import {
  type BlacklistKey,
  blacklistKeys,
  type Client,
  defaultAllowedTypes,
  isRevoked,
} from "./client.js";
import { formatJson, type JsonValue, sameJson } from "./json.js";

/** A change to a client, and notices for the user. */
export interface Edit {
  /** The fields to write. Empty if the client is already as requested. */
  readonly changes: Partial<Client>;
  readonly notices: readonly string[];
}

/** Computes the change to a client in a store of this schema version. */
export type ClientEdit = (client: Client, schemaVersion: number) => Edit;

/** The message type that HiveMind 4 allows every client, even if its list lacks the type. */
const alwaysAllowed = "recognizer_loop:utterance";

const connectionNotice = "The change affects a connected client only when it connects again.";

/** Why a revoked client is a danger in a database of HiveMind 4, except in Redis. */
export const revokedKeyWarning =
  'HiveMind 4 admits anyone who presents the access key "revoked", which each revoked client has';

/** Returns whether a store of this schema is treated as HiveMind 4's. */
export function isHiveMind4Schema(schemaVersion: number): boolean {
  return schemaVersion < 2;
}

/**
 * Returns a notice for HiveMind 4, which reads a client's permissions only when the client
 * connects.
 */
function connectionNotices(schemaVersion: number): string[] {
  return isHiveMind4Schema(schemaVersion) ? [connectionNotice] : [];
}

const noEdit: Edit = { changes: {}, notices: [] };

export function rename(name: string): ClientEdit {
  return (client) => (client.name === name ? noEdit : { changes: { name }, notices: [] });
}

/**
 * Grants or revokes a permission that needs no other permission: to be an administrator, to send a
 * message up to the hub's own masters (escalate), or to all hubs up and down (propagate).
 */
export function setPermission(
  right: "is_admin" | "can_escalate" | "can_propagate",
  isGranted: boolean,
): ClientEdit {
  return (client, schemaVersion) =>
    client[right] === isGranted
      ? noEdit
      : { changes: { [right]: isGranted }, notices: connectionNotices(schemaVersion) };
}

/**
 * Grants or revokes broadcasting, which only administrators can do. HiveMind 4 ignores the field:
 * in it, every administrator can broadcast.
 */
export function setBroadcast(can_broadcast: boolean): ClientEdit {
  return (client, schemaVersion) => {
    const notices: string[] = [];
    if (can_broadcast && !client.is_admin) {
      notices.push(
        "The client still cannot broadcast, because it is not an administrator: see make-admin.",
      );
    }
    if (!can_broadcast && client.is_admin && isHiveMind4Schema(schemaVersion)) {
      notices.push(
        "HiveMind 4 ignores this: in it, every administrator can broadcast. See revoke-admin.",
      );
    }
    return {
      changes: client.can_broadcast === can_broadcast ? {} : { can_broadcast },
      notices,
    };
  };
}

/**
 * Returns the message types that a hub of this schema allows the client to send. HiveMind 4 reads
 * an empty list as the default list, and adds `alwaysAllowed` to each list.
 */
export function effectiveTypes(client: Client, schemaVersion: number): readonly string[] {
  const stored = client.allowed_types;
  if (!isHiveMind4Schema(schemaVersion)) return stored;
  const read = stored.length > 0 ? stored : defaultAllowedTypes;
  return read.includes(alwaysAllowed) ? read : [...read, alwaysAllowed];
}

/**
 * Returns the message types of a new client: the named types, or the default of a hub of this
 * schema, which is `defaultAllowedTypes` in HiveMind 4 and no type in HiveMind 5.
 *
 * @throws {@link StoreError} usage - for an invalid name of a type
 */
export function initialTypes(
  named: readonly string[] | undefined,
  schemaVersion: number,
): string[] {
  for (const type of named ?? []) assertName(type, "a message type");
  if (named) return [...new Set(named)];
  return isHiveMind4Schema(schemaVersion) ? [...defaultAllowedTypes] : [];
}

/**
 * Allows the client to send messages of a type.
 *
 * @throws {@link StoreError} usage - for an invalid name of a type
 */
export function allowMessage(type: string): ClientEdit {
  assertName(type, "a message type");
  return (client, schemaVersion) => {
    if (effectiveTypes(client, schemaVersion).includes(type)) return noEdit;
    const notices = connectionNotices(schemaVersion);
    const isSpelledOut = client.allowed_types.length === 0 && isHiveMind4Schema(schemaVersion);
    if (isSpelledOut) notices.push(spelledOutNotice);
    const before = isSpelledOut ? defaultAllowedTypes : client.allowed_types;
    return { changes: { allowed_types: [...before, type] }, notices };
  };
}

/**
 * Denies the client messages of a type.
 *
 * @throws {@link StoreError} usage - for an invalid name of a type
 * @throws {@link StoreError} refused - from the edit, if the hub would allow the type regardless
 */
export function denyMessage(type: string): ClientEdit {
  assertName(type, "a message type");
  return (client, schemaVersion) => {
    const before = effectiveTypes(client, schemaVersion);
    if (!before.includes(type)) return noEdit;
    const isHiveMind4 = isHiveMind4Schema(schemaVersion);
    if (isHiveMind4 && type === alwaysAllowed) {
      throw new StoreError(
        "refused",
        `HiveMind 4 allows every client ${alwaysAllowed}, whatever the client's list contains`,
        {
          hint: "Revoke the client with delete-client, or upgrade to HiveMind 5, which can deny the type.",
        },
      );
    }
    const notices = connectionNotices(schemaVersion);
    if (isHiveMind4 && client.allowed_types.length === 0) notices.push(spelledOutNotice);
    // A stored list stays without the `alwaysAllowed` that HiveMind 4 adds when it reads the list.
    const source = client.allowed_types.length > 0 ? client.allowed_types : before;
    const left = source.filter((allowed) => allowed !== type);
    if (left.length > 0) return { changes: { allowed_types: left }, notices };
    if (isHiveMind4) {
      notices.push(
        `That was the last type. HiveMind 4 reads an empty list as the default list, so the list now has ${alwaysAllowed}, which HiveMind 4 always allows.`,
      );
      return { changes: { allowed_types: [alwaysAllowed] }, notices };
    }
    notices.push(
      "That was the last type: the client can send nothing now. Do not start HiveMind 4 on this store, because HiveMind 4 reads an empty list as the default list.",
    );
    return { changes: { allowed_types: [] }, notices };
  };
}

const spelledOutNotice =
  "The client's list was empty, which HiveMind 4 reads as the default list. The list now contains the default types, with this change.";

type Blacklist = "skill_blacklist" | "intent_blacklist";

/**
 * Denies the client a skill or an intent.
 *
 * @throws {@link StoreError} usage - for an invalid name
 * @throws {@link StoreError} refused - from the edit, if the stored value is not a list
 */
export function addToBlacklist(key: Blacklist, name: string): ClientEdit {
  assertName(name, describeEntry(key));
  return (client) => {
    const list = readBlacklist(client, key);
    return list.includes(name) ? noEdit : changeBlacklist(client, key, [...list, name]);
  };
}

/**
 * Allows the client a skill or an intent again.
 *
 * @throws {@link StoreError} as `addToBlacklist`
 */
export function removeFromBlacklist(key: Blacklist, name: string): ClientEdit {
  assertName(name, describeEntry(key));
  return (client) => {
    const list = readBlacklist(client, key);
    if (!list.includes(name)) return noEdit;
    return changeBlacklist(
      client,
      key,
      list.filter((item) => item !== name),
    );
  };
}

function changeBlacklist(client: Client, key: Blacklist, list: readonly JsonValue[]): Edit {
  return { changes: { metadata: { ...client.metadata, [key]: list } }, notices: [] };
}

function readBlacklist(client: Client, key: Blacklist): readonly JsonValue[] {
  const value = Object.hasOwn(client.metadata, key) ? client.metadata[key] : undefined;
  if (Array.isArray(value)) return value;
  if (value === undefined || value === null) return [];
  throw new StoreError("refused", `metadata.${key} of client ${client.client_id} is not a list`, {
    hint: `Remove it first: hivemind-sqlcipher sql --write "UPDATE clients SET metadata = json_remove(metadata, '$.${key}') WHERE client_id = ${client.client_id}"`,
  });
}

function describeEntry(key: Blacklist): string {
  return key === "skill_blacklist" ? "a skill's id" : "an intent's id";
}

/** Refuses a name that is empty or contains white space, because no hub has such a name. */
function assertName(name: string, what: string): void {
  if (name !== "" && !/\s/u.test(name)) return;
  throw new StoreError(
    "usage",
    `"${name}" is not a valid name for ${what}: it is empty or contains white space`,
  );
}

/** The value of a field, or of a blacklist in metadata, before and after a change. */
export interface Difference {
  readonly before: JsonValue;
  readonly after: JsonValue;
}

/**
 * Returns the differences between two states of a client, by the name of the field or of the
 * blacklist. Does not compare other metadata, which no `ClientEdit` changes.
 */
export function findDifferences(before: Client, after: Client): Record<string, Difference> {
  const found: Record<string, Difference> = {};
  const left = liftBlacklists(before);
  const right = liftBlacklists(after);
  for (const key of new Set([...Object.keys(left), ...Object.keys(right)])) {
    const pair = { before: left[key] ?? null, after: right[key] ?? null };
    if (!sameJson(pair.before, pair.after)) found[key] = pair;
  }
  return found;
}

const rights = ["is_admin", "can_broadcast", "can_escalate", "can_propagate"] as const;

/** Returns whether a client may do more than send its message types. */
export function hasRights(client: Client): boolean {
  return rights.some((field) => client[field]);
}

/** A right that a client has after a change, but not before. */
export type Widening =
  | { readonly field: (typeof rights)[number] }
  | { readonly field: "allowed_types"; readonly added: readonly string[] }
  /** `removed` is undefined if either value is not a list, because the effect is then unknown. */
  | { readonly field: BlacklistKey; readonly removed: readonly JsonValue[] | undefined };

/**
 * Returns the rights that a client has after a change, but not before, in either version of
 * HiveMind.
 *
 * The store's schema does not tell which version reads the store next: HiveMind 5 migrates a store
 * of schema 0 or 1, and HiveMind 4 does not check the schema. A message type counts if either
 * version allows it.
 */
export function findWidenings(before: Client, after: Client): Widening[] {
  const found: Widening[] = rights
    .filter((field) => after[field] && !before[field])
    .map((field) => ({ field }));
  const added = findAddedTypes(before, after);
  if (added.length > 0) found.push({ field: "allowed_types", added });
  for (const field of blacklistKeys) {
    const stored = before.metadata[field] ?? null;
    const left = after.metadata[field] ?? null;
    if (sameJson(stored, left)) continue;
    const removed = findRemoved(stored ?? [], left ?? []);
    if (removed?.length !== 0) found.push({ field, removed });
  }
  return found;
}

function findAddedTypes(before: Client, after: Client): string[] {
  if (sameJson(before.allowed_types, after.allowed_types)) return [];
  const added = new Set<string>();
  for (const schemaVersion of [0, 2]) {
    const allowed = new Set(effectiveTypes(before, schemaVersion));
    for (const type of effectiveTypes(after, schemaVersion))
      if (!allowed.has(type)) added.add(type);
  }
  return [...added];
}

function findRemoved(stored: JsonValue, left: JsonValue): readonly JsonValue[] | undefined {
  if (!Array.isArray(stored) || !Array.isArray(left)) return undefined;
  const kept = new Set(left.map((entry) => formatJson(entry)));
  return stored.filter((entry) => !kept.has(formatJson(entry)));
}

function liftBlacklists(client: Client): Record<string, JsonValue> {
  const { metadata, ...fields } = client;
  const { skill_blacklist = [], intent_blacklist = [] } = metadata;
  return { ...fields, skill_blacklist, intent_blacklist };
}

/** @throws {@link StoreError} refused - for a revoked client */
export function assertActive(client: Client): void {
  if (!isRevoked(client)) return;
  throw new StoreError("refused", `client ${client.client_id} is revoked; nothing was changed`, {
    hint: "Create a new client with add-client.",
  });
}
