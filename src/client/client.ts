/**
 * The record of one client: a satellite that may connect to the hub, and what it may do.
 *
 * The fields and their meaning are HiveMind's (`Client` of hivemind-plugin-manager). Two lines of it are in the
 * field: released ones keep three blacklists as fields of their own, newer ones two of them in `metadata`. Here they
 * are in `metadata` always, and what writes a record puts them where the program that reads it looks.
 */
import { StoreError } from "../errors.js";
import * as z from "../schema.js";
import { formatJson, isJsonObject, JsonNumber, type JsonObject, parseJson } from "./json.js";

/** Half a surrogate pair has no UTF-8 form: SQLite would store another character for it. */
const text = z
  .string()
  .check(z.refine((value) => value.isWellFormed(), "holds half a surrogate pair"));

/** Infinite ones too, which SQLite and Python can hold; NaN is nothing to SQLite. */
const seconds = z.custom<number>(
  (value) => typeof value === "number" && !Number.isNaN(value),
  "expected a number",
);

/** One client. Everything HiveMind knows about it is here; what it does not know is kept in `metadata`. */
export const clientSchema = z.object({
  /** Never used again once given. A whole number of at most 2^53 - 1 either way. */
  client_id: z.int(),
  /** Looked up on every connection; `revoked` for a client that was deleted. */
  api_key: text,
  name: z.nullable(text),
  description: z.nullable(text),
  is_admin: z.boolean(),
  /** Unix time in seconds, -1 for never. */
  last_seen: seconds,
  /** The message types it may send. To newer hubs an empty list denies all, to released ones it means the default list. */
  allowed_types: z.array(z.string()),
  /** 16 characters; deprecated in favour of the password. */
  crypto_key: z.nullable(text),
  password: z.nullable(text),
  can_broadcast: z.boolean(),
  can_escalate: z.boolean(),
  can_propagate: z.boolean(),
  /** Anything else, among it `intent_blacklist`, `skill_blacklist` and `message_blacklist`. */
  metadata: z.custom<JsonObject>(isJsonObject, "expected an object"),
});

export type Client = z.infer<typeof clientSchema>;

/** What the hub lets a new client send, unless told otherwise. */
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

/** The lists of what a client may not use, in the order of the store's columns. */
export const blacklistKeys = ["intent_blacklist", "skill_blacklist", "message_blacklist"] as const;
export type BlacklistKey = (typeof blacklistKeys)[number];

const secretKeys = ["api_key", "password", "crypto_key"] as const;

/**
 * A new client, with HiveMind's defaults for what is not given. These defaults are for new clients alone: whatever
 * reads, edits or moves an existing one carries its permissions as they are.
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

/** The `api_key` of every client that was deleted. A lookup by it must find nobody. */
export const revokedApiKey = "revoked";

/**
 * What takes the place of a deleted client, so that its id is never given to another. Its `allowed_types` is the empty
 * list: what a newer hub writes there, and the narrowest that either line knows.
 */
export function revoked(client_id: number): Client {
  return newClient({ client_id, api_key: revokedApiKey, allowed_types: [] });
}

export function isRevoked(client: Pick<Client, "api_key">): boolean {
  return client.api_key === revokedApiKey;
}

/** Adds to `metadata` each non-empty blacklist kept outside it, unless `metadata` has that key already. */
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

/**
 * The opposite of `foldBlacklists`, for what released hubs read: the lists apart, and `metadata` without them. An
 * empty list leaves `metadata` as well, where it would hide one that such a hub writes later.
 */
export function unfoldBlacklists(metadata: JsonObject): {
  blacklists: JsonObject;
  metadata: JsonObject;
} {
  const blacklists: JsonObject = {};
  const rest = { ...metadata };
  for (const key of blacklistKeys) {
    const list = metadata[key];
    blacklists[key] = Array.isArray(list) ? list : [];
    if (Array.isArray(list)) delete rest[key];
  }
  return { blacklists, metadata: rest };
}

/** The record as Python serialises it: keys sorted, non-ASCII characters kept. Holds the client's secrets. */
export function serializeClient(client: Client): string {
  return formatJson({ ...client }, { sortKeys: true, ascii: false });
}

/** Numbers that JavaScript rounds are of use in `metadata`, not in the record's own fields. */
const wholeNumber = z.pipe(
  z.union([z.number(), read(z.instanceof(JsonNumber), (value) => value.text)]),
  z.int({ error: ({ input }) => `${input} is not a whole number that can be carried exactly` }),
);
const realNumber = z.union([seconds, read(z.instanceof(JsonNumber), Number)]);

/**
 * Python's reading of a record in JSON: what is missing gets the record's own defaults, `null` in a permission is
 * false. No `allowed_types` is an empty list, never the default one.
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

/** What a schema gives, made into something else. */
function read<Schema extends z.ZodMiniType, Result>(
  schema: Schema,
  convert: (value: z.output<Schema>) => Result,
) {
  return z.pipe(schema, z.transform(convert));
}

/**
 * Reads a record that any HiveMind wrote. Blacklists kept as fields, and fields that HiveMind does not know, go into
 * `metadata` without replacing what is there; metadata that is not an object counts as empty.
 *
 * @throws StoreError `corrupted` if it is not a client, naming the field, but no value other than the id; `refused` if
 *   that id cannot be carried exactly.
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
  // Without a prototype: a field named "__proto__" is one like any other.
  const extras: JsonObject = Object.create(null);
  for (const key of Object.keys(fields)) {
    if (!recordKeys.has(key)) extras[key] = fields[key] ?? null;
  }
  const metadata = { ...extras, ...(isJsonObject(fields.metadata) ? fields.metadata : {}) };
  return { ...parsed.data, metadata: foldBlacklists(metadata, fields) };
}

/** What HiveMind's own records have; the rest of one is metadata. */
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
  if (!isJsonObject(value)) throw new StoreError("corrupted", "not a client's record: no object");
  return value;
}

/** The record without what lets somebody in or read along: for tables, logs and exports. */
export function withoutSecrets(client: Client): Omit<Client, (typeof secretKeys)[number]> {
  const { api_key: _, password: __, crypto_key: ___, ...rest } = client;
  // A table without a crypto_key column keeps the key in metadata.
  const metadata = { ...client.metadata };
  for (const key of secretKeys) delete metadata[key];
  return { ...rest, metadata };
}
