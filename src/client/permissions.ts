/**
 * The changes to a client that the hub's commands make: its name, permissions, message types and
 * blacklists.
 *
 * HiveMind 4 and 5 read the same record differently. The store's schema shows the version of the
 * hub: 0 and 1 mean HiveMind 4, 2 means HiveMind 5. Each command produces a change with the
 * requested effect in that version, and a notice about its limits. The store writes the change
 * where the hub reads it.
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
  /** The fields to write; none if the client is already as requested. */
  readonly changes: Partial<Client>;
  readonly notices: readonly string[];
}

/** Computes the change to a client in a store of this schema version. */
export type ClientEdit = (client: Client, schemaVersion: number) => Edit;

/** The message type that HiveMind 4 allows every client, whatever its list. */
const alwaysAllowed = "recognizer_loop:utterance";

const nextConnection = "A connected client is affected when it connects again.";

/** Returns whether a store of this schema is read by HiveMind 4. */
function isEnforcedByHiveMind4(schemaVersion: number): boolean {
  return schemaVersion < 2;
}

/**
 * Returns a notice if the hub reads the change only when the client connects, as HiveMind 4 does.
 */
function connectionNotices(schemaVersion: number): string[] {
  return isEnforcedByHiveMind4(schemaVersion) ? [nextConnection] : [];
}

const noEdit: Edit = { changes: {}, notices: [] };

export function rename(name: string): ClientEdit {
  return (client) => (client.name === name ? noEdit : { changes: { name }, notices: [] });
}

/**
 * Grants or revokes a permission that does not depend on another: to be an administrator, to send a
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
 * Grants or revokes broadcasting, a privilege of administrators. HiveMind 4 ignores a revocation.
 */
export function setBroadcast(can_broadcast: boolean): ClientEdit {
  return (client, schemaVersion) => {
    const notices: string[] = [];
    if (can_broadcast && !client.is_admin) {
      notices.push(
        "The client is not an administrator, so it still cannot broadcast: see make-admin.",
      );
    }
    if (!can_broadcast && client.is_admin && isEnforcedByHiveMind4(schemaVersion)) {
      notices.push(
        "HiveMind 4 ignores this: an administrator can broadcast there. See revoke-admin.",
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
 * an empty list as the default list, and adds a type to each list.
 */
export function effectiveTypes(client: Client, schemaVersion: number): readonly string[] {
  const stored = client.allowed_types;
  if (!isEnforcedByHiveMind4(schemaVersion)) return stored;
  const read = stored.length > 0 ? stored : defaultAllowedTypes;
  return read.includes(alwaysAllowed) ? read : [...read, alwaysAllowed];
}

/**
 * Returns the message types of a new client: the named types, or the default of a hub of this
 * schema, which is a list in HiveMind 4 and nothing in HiveMind 5.
 *
 * @throws {@link StoreError} usage - for an invalid name of a type
 */
export function initialTypes(
  named: readonly string[] | undefined,
  schemaVersion: number,
): string[] {
  for (const type of named ?? []) assertName(type, "a message type");
  if (named) return [...new Set(named)];
  return isEnforcedByHiveMind4(schemaVersion) ? [...defaultAllowedTypes] : [];
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
    const isSpelledOut = client.allowed_types.length === 0 && isEnforcedByHiveMind4(schemaVersion);
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
    const isHiveMind4 = isEnforcedByHiveMind4(schemaVersion);
    if (isHiveMind4 && type === alwaysAllowed) {
      throw new StoreError(
        "refused",
        `HiveMind 4 allows each client ${alwaysAllowed}, whatever its list contains`,
        {
          hint: "Revoke the client with delete-client, or upgrade to HiveMind 5, which can deny the type.",
        },
      );
    }
    const notices = connectionNotices(schemaVersion);
    if (isHiveMind4 && client.allowed_types.length === 0) notices.push(spelledOutNotice);
    // Keep the type that HiveMind 4 always allows: an empty list would mean the default list.
    const source = isHiveMind4 && client.allowed_types.length > 0 ? client.allowed_types : before;
    const left = source.filter((allowed) => allowed !== type);
    if (left.length > 0) return { changes: { allowed_types: left }, notices };
    if (isHiveMind4) {
      notices.push(
        `That was the last type. HiveMind 4 reads an empty list as the default list, so the list now has ${alwaysAllowed}, which it allows in any case.`,
      );
      return { changes: { allowed_types: [alwaysAllowed] }, notices };
    }
    notices.push(
      "That was the last type: the client can send nothing now. Do not start HiveMind 4 on this store: it reads an empty list as the default list.",
    );
    return { changes: { allowed_types: [] }, notices };
  };
}

const spelledOutNotice =
  "Its list was empty, which HiveMind 4 reads as the default list: the list now has these types, with this change.";

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
    hint: "Correct it first, with the hub's set-metadata or with: hivemind-sqlcipher sql --write",
  });
}

function describeEntry(key: Blacklist): string {
  return key === "skill_blacklist" ? "a skill's id" : "an intent's id";
}

/** Refuses a name that is empty or contains white space: no hub would match it. */
function assertName(name: string, what: string): void {
  if (name !== "" && !/\s/u.test(name)) return;
  throw new StoreError(
    "usage",
    `"${name}" is not a valid name for ${what}: it is empty or contains white space`,
  );
}

/** The value of a field, or of a list in metadata, before and after a change. */
export interface Difference {
  readonly before: JsonValue;
  readonly after: JsonValue;
}

/**
 * Returns the differences between two states of a client by field; blacklists by their own names.
 */
export function findDifferences(before: Client, after: Client): Record<string, Difference> {
  const found: Record<string, Difference> = {};
  const left = flatten(before);
  const right = flatten(after);
  for (const key of new Set([...Object.keys(left), ...Object.keys(right)])) {
    const pair = { before: left[key] ?? null, after: right[key] ?? null };
    if (!sameJson(pair.before, pair.after)) found[key] = pair;
  }
  return found;
}

const rights = ["is_admin", "can_broadcast", "can_escalate", "can_propagate"] as const;

/** A right that a client has after a change, but not before. */
export type Widening =
  | { readonly field: (typeof rights)[number] }
  | { readonly field: "allowed_types"; readonly added: readonly string[] }
  /** `removed` is undefined if either value is not a list: the effect is unknown. */
  | { readonly field: BlacklistKey; readonly removed: readonly JsonValue[] | undefined };

/**
 * Returns the rights that a client has after a change, but not before, in either version of
 * HiveMind.
 *
 * The store's schema does not show the version of its next reader: HiveMind 5 migrates a store of
 * schema 0 or 1, and HiveMind 4 does not check. A message type allowed by either counts.
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

function flatten(client: Client): Record<string, JsonValue> {
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
