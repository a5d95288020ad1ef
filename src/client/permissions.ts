/**
 * What the hub's verbs change in a client: its name, its rights, what it may send and trigger.
 *
 * The two lines of hubs read the same record differently, and the store's schema tells which of them reads it: released
 * hubs 0 and 1, newer ones 2. Each verb does what makes that hub behave as asked, and says what it cannot do there. The
 * verbs only work out the change; writing it where that hub looks is the store's part.
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

/** The fields to write, none if the client is as asked already, and what the user should know about it. */
export interface Edit {
  readonly changes: Partial<Client>;
  readonly notices: readonly string[];
}

/** What a verb makes of a client, in a store of this schema. */
export type Verb = (client: Client, schemaVersion: number) => Edit;

/** The type that a released hub allows every client, whatever its list says. */
const alwaysAllowed = "recognizer_loop:utterance";

const nextConnection = "A client that is connected now notices when it connects again.";

/** Whether a released hub reads a store of this schema. */
function isEnforcedByHiveMind4(schemaVersion: number): boolean {
  return schemaVersion < 2;
}

/** For what released hubs read only when a client connects. */
function connectionNotices(schemaVersion: number): string[] {
  return isEnforcedByHiveMind4(schemaVersion) ? [nextConnection] : [];
}

const nothing: Edit = { changes: {}, notices: [] };

export function rename(name: string): Verb {
  return (client) => (client.name === name ? nothing : { changes: { name }, notices: [] });
}

/**
 * Gives or takes a right that needs no other: to be an administrator, to send a message up to the hub's own masters
 * (escalate), to send one to everybody, up and down (propagate).
 */
export function setPermission(
  right: "is_admin" | "can_escalate" | "can_propagate",
  given: boolean,
): Verb {
  return (client, schemaVersion) =>
    client[right] === given
      ? nothing
      : { changes: { [right]: given }, notices: connectionNotices(schemaVersion) };
}

/** Sending a message to everybody below the hub: for administrators alone, and narrowed by this in newer hubs. */
export function setBroadcast(can_broadcast: boolean): Verb {
  return (client, schemaVersion) => {
    const notices: string[] = [];
    if (can_broadcast && !client.is_admin) {
      notices.push("It is no administrator, so it still cannot broadcast: see make-admin.");
    }
    if (!can_broadcast && client.is_admin && isEnforcedByHiveMind4(schemaVersion)) {
      notices.push(
        "A released hub (hivemind-core 4) does not look at this: an administrator may broadcast there. See revoke-admin.",
      );
    }
    return {
      changes: client.can_broadcast === can_broadcast ? {} : { can_broadcast },
      notices,
    };
  };
}

/**
 * The message types that a hub of this schema lets the client send: a released one reads an empty list as the default
 * one, and adds one type to every list.
 */
export function effectiveTypes(client: Client, schemaVersion: number): readonly string[] {
  const stored = client.allowed_types;
  if (!isEnforcedByHiveMind4(schemaVersion)) return stored;
  const read = stored.length > 0 ? stored : defaultAllowedTypes;
  return read.includes(alwaysAllowed) ? read : [...read, alwaysAllowed];
}

/**
 * What a new client may send: what is named, each once; else what the hub of this schema gives one, which is the default
 * list for a released hub, and nothing for a newer one.
 *
 * @throws StoreError `usage` for what cannot be a type's name.
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
 * Lets the client send messages of a type.
 *
 * @throws StoreError `usage` for what cannot be a type's name.
 */
export function allowMessage(type: string): Verb {
  assertName(type, "a message type");
  return (client, schemaVersion) => {
    if (effectiveTypes(client, schemaVersion).includes(type)) return nothing;
    const notices = connectionNotices(schemaVersion);
    const spelledOut = client.allowed_types.length === 0 && isEnforcedByHiveMind4(schemaVersion);
    if (spelledOut) notices.push(spelledOutNotice);
    const before = spelledOut ? defaultAllowedTypes : client.allowed_types;
    return { changes: { allowed_types: [...before, type] }, notices };
  };
}

/**
 * Takes a message type from what the client may send.
 *
 * @throws StoreError `usage` for what cannot be a type's name; from the verb `refused` where the hub would allow it all
 *   the same.
 */
export function denyMessage(type: string): Verb {
  assertName(type, "a message type");
  return (client, schemaVersion) => {
    const before = effectiveTypes(client, schemaVersion);
    if (!before.includes(type)) return nothing;
    const released = isEnforcedByHiveMind4(schemaVersion);
    if (released && type === alwaysAllowed) {
      throw new StoreError(
        "refused",
        `a released hub (hivemind-core 4) allows every client ${alwaysAllowed}, whatever its list says`,
        { hint: "delete-client keeps the client out altogether; newer hubs can deny the type." },
      );
    }
    const notices = connectionNotices(schemaVersion);
    if (released && client.allowed_types.length === 0) notices.push(spelledOutNotice);
    // On a released hub's list the type it always allows stays written: an empty list would mean the default one.
    const source = released && client.allowed_types.length > 0 ? client.allowed_types : before;
    const left = source.filter((allowed) => allowed !== type);
    if (left.length > 0) return { changes: { allowed_types: left }, notices };
    if (released) {
      notices.push(
        `That was the last type. A released hub reads an empty list as the default one, so ${alwaysAllowed} was written, which it allows in any case.`,
      );
      return { changes: { allowed_types: [alwaysAllowed] }, notices };
    }
    notices.push(
      "That was the last type: the client may send nothing now. Start no released hub (hivemind-core 4) on this store: it reads an empty list as the default one.",
    );
    return { changes: { allowed_types: [] }, notices };
  };
}

const spelledOutNotice =
  "Its list was empty, which a released hub (hivemind-core 4) reads as the default one: that list is written out now, with this change.";

type Blacklist = "skill_blacklist" | "intent_blacklist";

/**
 * Keeps the client from triggering a skill or an intent.
 *
 * @throws StoreError `usage` for what cannot be a name; from the verb `refused` if there is something else than a list.
 */
export function addToBlacklist(key: Blacklist, name: string): Verb {
  assertName(name, wordsFor(key));
  return (client) => {
    const list = blacklistOf(client, key);
    return list.includes(name) ? nothing : blacklistChange(client, key, [...list, name]);
  };
}

/** Lets the client trigger a skill or an intent again. @throws StoreError as `addToBlacklist`. */
export function removeFromBlacklist(key: Blacklist, name: string): Verb {
  assertName(name, wordsFor(key));
  return (client) => {
    const list = blacklistOf(client, key);
    if (!list.includes(name)) return nothing;
    return blacklistChange(
      client,
      key,
      list.filter((item) => item !== name),
    );
  };
}

function blacklistChange(client: Client, key: Blacklist, list: readonly JsonValue[]): Edit {
  return { changes: { metadata: { ...client.metadata, [key]: list } }, notices: [] };
}

function blacklistOf(client: Client, key: Blacklist): readonly JsonValue[] {
  const value = Object.hasOwn(client.metadata, key) ? client.metadata[key] : undefined;
  if (Array.isArray(value)) return value;
  if (value === undefined || value === null) return [];
  throw new StoreError(
    "refused",
    `client ${client.client_id} has something else than a list in metadata.${key}`,
    { hint: "Put it right first, with the hub's set-metadata or with sql --write." },
  );
}

function wordsFor(key: Blacklist): string {
  return key === "skill_blacklist" ? "a skill's id" : "an intent's id";
}

/** White space in a name is a slip of the hand: no hub would ever match it. */
function assertName(name: string, what: string): void {
  if (name !== "" && !/\s/u.test(name)) return;
  throw new StoreError("usage", `"${name}" cannot be ${what}: it is empty or holds white space`);
}

/** A field, or a list in metadata, before a verb and after it. */
export interface Difference {
  readonly before: JsonValue;
  readonly after: JsonValue;
}

/** What differs between two states of a client, by field; blacklists by their own names. */
export function differences(before: Client, after: Client): Record<string, Difference> {
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

/** Something that a client could do after a change and not before it. */
export type Widening =
  | { readonly field: (typeof rights)[number] }
  | { readonly field: "allowed_types"; readonly added: readonly string[] }
  /** `removed` is undefined where one of the two is no list, so that nobody can tell. */
  | { readonly field: BlacklistKey; readonly removed: readonly JsonValue[] | undefined };

/**
 * What a client could do after a change and not before it, as any hub reads the two records.
 *
 * The store's schema does not narrow that down, for both lines open every store: newer hubs bring one of schema 0 or 1 to
 * theirs, and released ones do not look. So a message type that either line would let through is one more.
 */
export function widenings(before: Client, after: Client): Widening[] {
  const found: Widening[] = rights
    .filter((field) => after[field] && !before[field])
    .map((field) => ({ field }));
  const added = addedTypes(before, after);
  if (added.length > 0) found.push({ field: "allowed_types", added });
  for (const field of blacklistKeys) {
    const stored = before.metadata[field] ?? null;
    const left = after.metadata[field] ?? null;
    if (sameJson(stored, left)) continue;
    const removed = removedFrom(stored ?? [], left ?? []);
    if (removed?.length !== 0) found.push({ field, removed });
  }
  return found;
}

function addedTypes(before: Client, after: Client): string[] {
  if (sameJson(before.allowed_types, after.allowed_types)) return [];
  const added = new Set<string>();
  for (const schemaVersion of [0, 2]) {
    const allowed = new Set(effectiveTypes(before, schemaVersion));
    for (const type of effectiveTypes(after, schemaVersion))
      if (!allowed.has(type)) added.add(type);
  }
  return [...added];
}

function removedFrom(stored: JsonValue, left: JsonValue): readonly JsonValue[] | undefined {
  if (!Array.isArray(stored) || !Array.isArray(left)) return undefined;
  const kept = new Set(left.map((entry) => formatJson(entry)));
  return stored.filter((entry) => !kept.has(formatJson(entry)));
}

function flatten(client: Client): Record<string, JsonValue> {
  const { metadata, ...fields } = client;
  const { skill_blacklist = [], intent_blacklist = [] } = metadata;
  return { ...fields, skill_blacklist, intent_blacklist };
}

/** @throws StoreError `refused` for a revoked client, which no verb brings back. */
export function assertActive(client: Client): void {
  if (!isRevoked(client)) return;
  throw new StoreError("refused", `client ${client.client_id} is revoked; nothing was changed`, {
    hint: "A revoked client stays revoked: add-client makes a new one.",
  });
}
