/**
 * The record of a client: a satellite of the hub, and its permissions.
 *
 * The fields are those of `Client` in hivemind-plugin-manager. HiveMind 4 has three blacklists in
 * separate fields, HiveMind 5 has two of them in `metadata`. Here they are always in `metadata`;
 * the writer of a record moves them to where the reading program looks.
 */
import { StoreError } from "../errors.js";
import * as z from "../schema.js";
import {
  formatJson,
  isJsonObject,
  JsonNumber,
  type JsonObject,
  type JsonValue,
  parseJson,
  sameJson,
} from "./json.js";

/** Rejects half of a surrogate pair, for which SQLite would store another character. */
const text = z
  .string()
  .check(z.refine((value) => value.isWellFormed(), "contains half of a surrogate pair"));

/** Allows infinity, but not NaN, which SQLite stores as NULL. */
const seconds = z.custom<number>(
  (value) => typeof value === "number" && !Number.isNaN(value),
  "expected a number",
);

/** A client. Fields unknown to HiveMind are kept in `metadata`. */
export const clientSchema = z.object({
  /** A safe integer, never reused for another client. */
  client_id: z.int(),
  /** The key a client connects with; `revoked` for a deleted client. */
  api_key: text,
  name: z.nullable(text),
  description: z.nullable(text),
  is_admin: z.boolean(),
  /** Unix time in seconds, -1 for never. */
  last_seen: seconds,
  /**
   * Message types that the client may send. If empty: none in HiveMind 5, the default list in 4.
   */
  allowed_types: z.array(z.string()),
  /** 16 characters. Deprecated: use the password. */
  crypto_key: z.nullable(text),
  password: z.nullable(text),
  can_broadcast: z.boolean(),
  can_escalate: z.boolean(),
  can_propagate: z.boolean(),
  /** Anything else, such as `intent_blacklist`, `skill_blacklist` and `message_blacklist`. */
  metadata: z.custom<JsonObject>(isJsonObject, "expected an object"),
});

export type Client = z.infer<typeof clientSchema>;

/** Accepts a missing field, but not undefined, which would erase the field's value. */
const changesSchema = z.exactPartial(clientSchema);

/**
 * Checks a client before a database writes it, because TypeScript does not check the clients of a
 * program in JavaScript or of a plugin.
 *
 * @throws {@link StoreError} refused - if a field is missing or invalid; the message contains the
 *   id and the field's name
 */
export function assertValidClient(client: Client): void {
  assertValid(clientSchema, client, `client ${client.client_id} is not valid`);
}

/**
 * @throws {@link StoreError} refused - if a field is invalid; the message contains the field's name
 */
export function assertValidChanges(changes: Partial<Client>): void {
  assertValid(changesSchema, changes, "not a valid change of a client");
}

function assertValid(schema: z.ZodMiniType, value: unknown, message: string): void {
  const checked = schema.safeParse(value);
  if (checked.success) return;
  const problem = checked.error.issues[0];
  throw new StoreError("refused", `${message}: ${problem?.path.join(".")}: ${problem?.message}`);
}

/** Message types allowed to a new client by default. */
export const defaultAllowedTypes: readonly string[] = [
  "recognizer_loop:utterance",
  "recognizer_loop:record_begin",
  "recognizer_loop:record_end",
  "recognizer_loop:audio_output_start",
  "recognizer_loop:audio_output_end",
  "recognizer_loop:b64_transcribe",
  "speak:b64_audio",
  "ovos.common_play.SEI.get.response",
];

/** The blacklists, in the order of the store's columns. */
export const blacklistKeys = ["intent_blacklist", "skill_blacklist", "message_blacklist"] as const;
export type BlacklistKey = (typeof blacklistKeys)[number];

const secretKeys = ["api_key", "password", "crypto_key"] as const;

/**
 * Returns a new client with HiveMind's defaults for the other fields.
 *
 * Only for new clients: code that reads, edits or moves a client keeps its permissions unchanged.
 *
 * @example
 * ```ts
 * await store.addItem(newClient({ client_id: 3, api_key: randomBytes(16).toString("hex") }));
 * ```
 */
export function newClient(fields: Pick<Client, "client_id" | "api_key"> & Partial<Client>): Client {
  return {
    name: "",
    description: "",
    is_admin: false,
    last_seen: -1,
    allowed_types: [...defaultAllowedTypes],
    crypto_key: null,
    password: null,
    can_broadcast: true,
    can_escalate: true,
    can_propagate: true,
    metadata: {},
    ...fields,
  };
}

/**
 * The `api_key` of each deleted client. A lookup by it finds no client, except in a hub of HiveMind
 * 4 on JSON or SQLite, which admits a connection with this key.
 */
export const revokedApiKey = "revoked";

/**
 * Returns the record that replaces a deleted client, so that its id is not reused. It has no
 * permission, because HiveMind 4 can admit a connection with its key.
 */
export function revoked(client_id: number): Client {
  return newClient({
    client_id,
    api_key: revokedApiKey,
    allowed_types: [],
    can_broadcast: false,
    can_escalate: false,
    can_propagate: false,
  });
}

export function isRevoked(client: Pick<Client, "api_key">): boolean {
  return client.api_key === revokedApiKey;
}

/**
 * Returns a client of another database as it is to be written: for a revoked client `revoked`. In
 * Redis a revoked client keeps its permissions, and HiveMind 4 would grant them in other databases
 * to a connection with its key.
 */
export function eraseIfRevoked(client: Client): Client {
  return isRevoked(client) ? revoked(client.client_id) : client;
}

/** The numbers of clients in a database. */
export interface ClientCounts {
  readonly active: number;
  readonly revoked: number;
}

/** Reads every client and counts it. */
export async function countClients(clients: AsyncIterable<Client>): Promise<ClientCounts> {
  const counts = { active: 0, revoked: 0 };
  for await (const client of clients) counts[isRevoked(client) ? "revoked" : "active"] += 1;
  return counts;
}

/** Splits the crypto key off `metadata`, where HiveMind 5 stores it. */
export function splitCryptoKey(stored: JsonObject): {
  crypto_key: string | null;
  metadata: JsonObject;
} {
  const { crypto_key, ...metadata } = stored;
  if (typeof crypto_key !== "string") return { crypto_key: null, metadata: stored };
  return { crypto_key, metadata };
}

/** Adds each non-empty blacklist of `legacy` whose key `metadata` does not have. */
export function foldBlacklists(metadata: JsonObject, legacy: JsonObject): JsonObject {
  let folded = metadata;
  for (const key of blacklistKeys) {
    const list = legacy[key];
    if (Array.isArray(list) && list.length > 0 && !Object.hasOwn(metadata, key)) {
      folded = { ...folded, [key]: list };
    }
  }
  return folded;
}

/** The blacklists of a record before a change. */
export interface StoredBlacklists {
  /** The record's own blacklist fields, which HiveMind 4 enforces. */
  readonly fields: JsonObject;
  /** The record's metadata after `foldBlacklists`. */
  readonly folded: JsonObject;
}

/**
 * Moves the blacklists from `metadata` to fields, where HiveMind 4 reads them. If the field of an
 * empty list is empty, too, removes the list from `metadata`, where it would hide a list that
 * HiveMind 4 writes to the field later.
 *
 * The field and the list in metadata can differ in the stored record. Then the field gains and
 * loses only the entries that the caller added to or removed from metadata: HiveMind 4 would allow
 * the client an entry that the field lost. The list also stays in metadata, which takes precedence
 * when the record is read.
 */
export function unfoldBlacklists(
  metadata: JsonObject,
  stored: StoredBlacklists = { fields: {}, folded: {} },
): { blacklists: JsonObject; metadata: JsonObject } {
  const blacklists: JsonObject = {};
  const rest = { ...metadata };
  for (const key of blacklistKeys) {
    const list = toList(metadata[key]);
    const field = updateField(toList(stored.fields[key]), toList(stored.folded[key]), list);
    blacklists[key] = field;
    if (sameJson(field, list)) {
      if (Array.isArray(rest[key])) delete rest[key];
    } else if (!Object.hasOwn(rest, key)) rest[key] = [];
  }
  return { blacklists, metadata: rest };
}

/**
 * Returns the field with the entries added and removed that differ between `before` and `after`.
 */
function updateField(
  field: readonly JsonValue[],
  before: readonly JsonValue[],
  after: readonly JsonValue[],
): readonly JsonValue[] {
  if (sameJson(field, before)) return after;
  if (sameJson(before, after)) return field;
  const isIn = (list: readonly JsonValue[], entry: JsonValue) =>
    list.some((other) => sameJson(other, entry));
  return [
    ...field.filter((entry) => isIn(after, entry) || !isIn(before, entry)),
    ...after.filter((entry) => !isIn(field, entry)),
  ];
}

function toList(value: JsonValue | undefined): readonly JsonValue[] {
  return Array.isArray(value) ? value : [];
}

/**
 * Serializes a client with its secrets, as HiveMind does: with sorted keys and unescaped non-ASCII
 * characters.
 *
 * @example
 * ```ts
 * const record = serializeClient(client);
 * ```
 */
export function serializeClient(client: Client): string {
  return formatJson({ ...client }, { sortKeys: true, ascii: false });
}

/** Rejects a number that JavaScript would change, such as 2^53 + 1 or `1.0`. */
const wholeNumber = z.pipe(
  z.union([z.number(), read(z.instanceof(JsonNumber), (value) => value.text)]),
  z.int({ error: ({ input }) => `${input} is not an integer up to 2^53 - 1` }),
);
const realNumber = z.union([seconds, read(z.instanceof(JsonNumber), Number)]);

/**
 * Reads a record as HiveMind does: a missing field gets its default, and a permission that is
 * `null` is false. `allowed_types` that are missing or `null` become an empty list.
 */
const recordSchema = z.object({
  client_id: wholeNumber,
  api_key: z.string(),
  name: z._default(z.nullable(z.string()), ""),
  description: z._default(z.nullable(z.string()), ""),
  is_admin: falseIfNull(false),
  last_seen: read(z.nullish(realNumber), (value) =>
    value == null || Number.isNaN(value) ? -1 : value,
  ),
  allowed_types: read(z.nullish(z.array(z.string())), (value) => value ?? []),
  crypto_key: z._default(z.nullable(z.string()), null),
  password: z._default(z.nullable(z.string()), null),
  can_broadcast: falseIfNull(true),
  can_escalate: falseIfNull(true),
  can_propagate: falseIfNull(true),
});

function falseIfNull(missing: boolean) {
  return read(z._default(z.nullable(z.boolean()), missing), (value) => value ?? false);
}

/** Returns a schema that converts the output of another schema. */
function read<Schema extends z.ZodMiniType, Result>(
  schema: Schema,
  convert: (value: z.output<Schema>) => Result,
) {
  return z.pipe(schema, z.transform(convert));
}

/**
 * Parses a record of any HiveMind version. Blacklist fields and unknown fields move to `metadata`,
 * unless it has the same key already. Metadata that is not an object counts as empty. If the record
 * has no field `crypto_key`, the key is taken from `metadata`, where HiveMind 5 keeps it.
 *
 * @throws {@link StoreError} corrupted - if it is not a client; the message contains the field's
 *   name and no value except the id
 * @throws {@link StoreError} refused - if JavaScript would change the id, such as 2^53 + 1 or `1.0`
 *
 * @example
 * ```ts
 * const client = deserializeClient('{"client_id": 3, "api_key": "k"}');
 * ```
 */
export function deserializeClient(record: string | JsonObject): Client {
  const fields = parseRecord(record);
  const parsed = recordSchema.safeParse(fields);
  if (!parsed.success) {
    const problem = parsed.error.issues[0];
    throw new StoreError(
      fields.client_id instanceof JsonNumber ? "refused" : "corrupted",
      `not a client's record: ${problem?.path.join(".")}: ${problem?.message}`,
    );
  }
  // Without a prototype, so that `__proto__` is an ordinary field.
  const extras: JsonObject = Object.create(null);
  for (const key of Object.keys(fields)) {
    if (!recordKeys.has(key)) extras[key] = fields[key] ?? null;
  }
  const stored = { ...extras, ...(isJsonObject(fields.metadata) ? fields.metadata : {}) };
  const metadata = foldBlacklists(stored, fields);
  const hasField = Object.hasOwn(fields, "crypto_key");
  return { ...parsed.data, ...(hasField ? { metadata } : splitCryptoKey(metadata)) };
}

/** The fields of HiveMind's own records. All others belong to metadata. */
const recordKeys: ReadonlySet<string> = new Set([
  ...Object.keys(clientSchema.shape),
  ...blacklistKeys,
]);

function parseRecord(record: string | JsonObject): JsonObject {
  if (typeof record !== "string") return record;
  let value: unknown;
  try {
    value = parseJson(record);
  } catch (error) {
    throw new StoreError("corrupted", `not a client's record: ${(error as Error).message}`);
  }
  if (!isJsonObject(value))
    throw new StoreError("corrupted", "not a client's record: not an object");
  return value;
}

/**
 * Returns the client without its credentials, for tables, logs and exports.
 *
 * @example
 * ```ts
 * console.log(withoutSecrets(client));
 * ```
 */
export function withoutSecrets(client: Client): Omit<Client, (typeof secretKeys)[number]> {
  const { api_key: _, password: __, crypto_key: ___, ...rest } = client;
  // Metadata can contain a secret, too: HiveMind 5 keeps the crypto key there.
  const metadata = { ...client.metadata };
  for (const key of secretKeys) delete metadata[key];
  return { ...rest, metadata };
}
