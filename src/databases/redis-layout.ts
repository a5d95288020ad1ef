/**
 * The key layout of `hivemind-redis-db-plugin`, for HiveMind 4 and HiveMind 5.
 *
 * The prefix P is `index_prefix`. With a `cluster_hash_tag` T, it is `index_prefix:{T}`. The keys:
 *
 *     P:client:<id>            the record, JSON; authoritative
 *     P:name:<name>            the set of the ids with this name
 *     P:api_key:<api_key>      the set of the ids with this key
 *     P:idx:<id>               a hash for RediSearch; the Python plugin creates its index
 *     P:count                  number of records, including revoked records
 *     P:schema_version         written by newer plugins
 *     P:api_key_record:<key>   admission entry, a copy of the record: while it exists, newer
 *                              plugins admit the client without reading the record
 *     P:api_key_records        the admission entries of an earlier version, in one hash
 *
 * A cluster without a hash tag has no sets, `idx` and `count`: they would be in other slots than
 * the record.
 *
 * Records are written by Lua scripts, which Redis runs atomically: a record, its indexes and its
 * admission entry change together or not at all. The script writes the record last. On a cluster
 * without a hash tag, a script writes only the record.
 */
import { createHash } from "node:crypto";
import type { Client } from "../client/client.js";
import { StoreError } from "../errors.js";

/** The value of a record that the Python plugin is creating. It expires after 30 seconds. */
export const creationMarker = "__hivemind_creating__";

/** The names of the keys below a prefix. */
export class RedisLayout {
  readonly count: string;
  readonly schemaVersion: string;
  readonly admissions: string;
  readonly #prefix: string;
  readonly #records: string;

  constructor(prefix: string) {
    this.#prefix = prefix;
    this.count = `${prefix}:count`;
    this.schemaVersion = `${prefix}:schema_version`;
    this.admissions = `${prefix}:api_key_records`;
    this.#records = `${prefix}:client:`;
  }

  record(id: number): string {
    return this.#records + id;
  }

  /** The pattern of the records' keys, for `SCAN`. */
  get recordPattern(): string {
    return `${this.#records.replace(/[\\*?[\]]/g, "\\$&")}*`;
  }

  /**
   * Returns the id in the key of a record. Returns undefined for other keys, because another prefix
   * may begin with this prefix.
   *
   * @throws {@link StoreError} refused - if the id is not an integer that JavaScript can represent
   */
  idOf(key: string): number | undefined {
    const text = key.slice(this.#records.length);
    if (!/^-?\d+$/.test(text)) return undefined;
    const id = Number(text);
    if (Number.isSafeInteger(id)) return id;
    throw new StoreError("refused", `the key ${key} has an id beyond 2^53`, {
      hint: "Give that client an id below 2^53 in Redis: in the key, and in client_id of the record.",
    });
  }

  /** Returns the key of the set of the ids with this name or API key. */
  index(field: "name" | "api_key", value: string): string {
    return `${this.#prefix}:${field}:${value}`;
  }

  document(id: number): string {
    return `${this.#prefix}:idx:${id}`;
  }

  admission(apiKey: string): string {
    return `${this.#prefix}:api_key_record:${apiKey}`;
  }
}

/** A record to write, and what its indexes depend on. */
export interface Write {
  id: number;
  /** The text of the record as it was read; empty for no record. */
  expected: string;
  /** The text of the new record. */
  text: string;
  before: Client | undefined;
  client: Client;
  revoking: boolean;
}

export interface Script {
  text: string;
  sha: string;
}

/** The keys and arguments of one run of a script. */
export interface Call {
  keys: string[];
  args: string[];
}

/**
 * Writes a record without indexes if its value is ARGV[1], where empty means no record. Returns nil
 * if it was written, or else the present value.
 */
export const writeRecord = script(`
  local found = redis.call('GET', KEYS[1]) or ''
  if found ~= ARGV[1] then return found end
  redis.call('SET', KEYS[1], ARGV[2])
  return false
`);

export function recordCall(layout: RedisLayout, { id, expected, text }: Write): Call {
  return { keys: [layout.record(id)], args: [expected, text] };
}

/**
 * Returns Lua code that checks the types of all keys, so that a script fails before it writes.
 * Redis does not roll back a script if a later command fails, for example on a key of another type.
 * The first two KEYS are the count and the hash of the admission entries.
 *
 * @param kinds - the types of the keys of each record, in their order; empty for any type
 * @param keys - a Lua expression: the number of keys to check
 */
function checkKinds(kinds: readonly string[], keys = "#KEYS"): string {
  return `
  local kinds = { ${kinds.map((kind) => `'${kind}'`).join(", ")} }
  for i = 1, ${keys} do
    local at = (i - 3) % #kinds
    local kind = (i == 1 and 'string') or (i == 2 and 'hash') or kinds[at + 1]
    local found = redis.call('TYPE', KEYS[i]).ok
    if kind ~= '' and found ~= kind and found ~= 'none' then
      local whose = i < 3 and KEYS[i] or (KEYS[i - at] .. ', or an index of it,')
      return redis.error_reply('WRONGTYPE ' .. whose .. ' holds another kind of value')
    end
  end
  local number = string.match(redis.call('GET', KEYS[1]) or '0', '^-?%d+$')
  if not number or #number > 17 then return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' holds no number') end
`;
}

/** Keys and arguments per record of `insertIndexed`. */
const keysPerInsert = 5;
const argumentsPerInsert = 4;

/**
 * Inserts new records with their indexes. Leaves existing records unchanged. Returns for each
 * record nil if it was inserted, or else its present value. If none of the keys exists, as in an
 * empty database, a single EXISTS replaces the check of each key.
 */
export const insertIndexed = script(`
  local is_new = redis.call('EXISTS', unpack(KEYS, 3)) == 0
  ${checkKinds(["string", "set", "set", "hash", ""], "is_new and 2 or #KEYS")}
  local records = {}
  for i = 3, #KEYS, ${keysPerInsert} do records[#records + 1] = KEYS[i] end
  local found = {}
  if is_new then
    for i = 1, #records do found[i] = false end
  else
    found = redis.call('MGET', unpack(records))
  end
  local written, admissions, api_keys = {}, {}, {}
  for i = 1, #found do
    if found[i] == '' then found[i] = false end
    if not found[i] then
      local record, by_name, by_key, document, admission =
        unpack(KEYS, 3 + (i - 1) * ${keysPerInsert}, 2 + i * ${keysPerInsert})
      local text, id, name, api_key =
        unpack(ARGV, 1 + (i - 1) * ${argumentsPerInsert}, i * ${argumentsPerInsert})
      redis.call('SADD', by_name, id)
      redis.call('SADD', by_key, id)
      redis.call('HSET', document, 'name', name, 'api_key', api_key)
      written[#written + 1] = record
      written[#written + 1] = text
      admissions[#admissions + 1] = admission
      api_keys[#api_keys + 1] = api_key
    end
  end
  if #written > 0 then
    redis.call('INCRBY', KEYS[1], #api_keys)
    if not is_new then redis.call('DEL', unpack(admissions)) end
    redis.call('HDEL', KEYS[2], unpack(api_keys))
    redis.call('MSET', unpack(written))
  end
  return found
`);

export function insertCall(layout: RedisLayout, writes: readonly Write[]): Call {
  const keys = [layout.count, layout.admissions];
  const args: string[] = [];
  for (const { id, text, client } of writes) {
    const { api_key } = client;
    const name = client.name ?? "";
    keys.push(
      layout.record(id),
      layout.index("name", name),
      layout.index("api_key", api_key),
      layout.document(id),
      layout.admission(api_key),
    );
    args.push(text, String(id), name, api_key);
  }
  return { keys, args };
}

/** Keys and arguments per record of `changeIndexed`. */
const keysPerChange = 8;
const argumentsPerChange = 7;

/**
 * Changes or creates records. Returns for each record nil if it was written, or else its present
 * value, empty for none. With ARGV[1] = 'together', one unexpected record prevents all writes, and
 * the script returns the present value of each record.
 */
export const changeIndexed =
  script(`${checkKinds(["string", "set", "set", "set", "set", "hash", "", ""])}
  local records, replies = {}, {}
  for i = 3, #KEYS, ${keysPerChange} do records[#records + 1] = KEYS[i] end
  local found = redis.call('MGET', unpack(records))
  local differ = false
  for i = 1, #found do
    found[i] = found[i] or ''
    differ = differ or found[i] ~= ARGV[2 + (i - 1) * ${argumentsPerChange}]
  end
  if differ and ARGV[1] == 'together' then return found end
  for i = 1, #found do
    local record, old_name, new_name, old_key, new_key, document, old_admission, new_admission =
      unpack(KEYS, 3 + (i - 1) * ${keysPerChange}, 2 + i * ${keysPerChange})
    local expected, text, id, name, api_key, old_api_key, revoking =
      unpack(ARGV, 2 + (i - 1) * ${argumentsPerChange}, 1 + i * ${argumentsPerChange})
    replies[i] = found[i]
    if found[i] == expected then
      replies[i] = false
      if revoking ~= '' or old_name ~= new_name then redis.call('SREM', old_name, id) end
      if revoking == '' and (expected == '' or old_name ~= new_name) then redis.call('SADD', new_name, id) end
      if old_key ~= new_key then redis.call('SREM', old_key, id) end
      if expected == '' or old_key ~= new_key then redis.call('SADD', new_key, id) end
      redis.call('HSET', document, 'name', name, 'api_key', api_key)
      if expected == '' then redis.call('INCR', KEYS[1]) end
      redis.call('DEL', old_admission, new_admission)
      redis.call('HDEL', KEYS[2], old_api_key, api_key)
      redis.call('SET', record, text)
    end
  end
  return replies
`);

export function changeCall(layout: RedisLayout, writes: readonly Write[], together: boolean): Call {
  const keys = [layout.count, layout.admissions];
  const args = [together ? "together" : "each"];
  for (const { id, expected, text, before, client, revoking } of writes) {
    const name = client.name ?? "";
    const { api_key } = client;
    const oldKey = before?.api_key ?? api_key;
    keys.push(
      layout.record(id),
      layout.index("name", before === undefined ? name : (before.name ?? "")),
      layout.index("name", name),
      layout.index("api_key", oldKey),
      layout.index("api_key", api_key),
      layout.document(id),
      layout.admission(oldKey),
      layout.admission(api_key),
    );
    args.push(expected, text, String(id), name, api_key, oldKey, revoking ? "revoking" : "");
  }
  return { keys, args };
}

function script(text: string): Script {
  return { text, sha: createHash("sha1").update(text).digest("hex") };
}
