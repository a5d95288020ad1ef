/**
 * HiveMind's Redis store, in the layout of `hivemind-redis-db-plugin`, released and development line.
 *
 * Below the prefix P (`index_prefix`, with a `cluster_hash_tag` T followed by `:{T}`):
 *
 *   P:client:<id>            the record, JSON; the only truth
 *   P:name:<name>            sets of ids
 *   P:api_key:<api_key>
 *   P:idx:<id>               a hash for RediSearch, whose index the Python plugin makes
 *   P:count                  how many records, revoked ones included
 *   P:schema_version         written by newer plugins
 *   P:api_key_record:<key>   records that the newest plugins admit by, for a minute
 *   P:api_key_records        the same as one hash, of versions before them
 *
 * A cluster without a hash tag holds the records alone, for the rest would be in other slots.
 *
 * A record is written by a script that compares it first with what this process last read: it and everything derived
 * from it change together or not at all, whatever others do meanwhile; and what a newer plugin admits by goes with it.
 */
import { createHash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { blacklistKeys, type Client, isRevoked, revokedApiKey } from "../client/client.js";
import { formatJson, isJsonObject, type JsonObject, parseJson, sameJson } from "../client/json.js";
import { StoreError } from "../errors.js";
import { BaseDatabase, matches, noSuchClient, type SearchValue } from "./base-database.js";
import { IdSet } from "./id-set.js";
import { type DatabaseConfig, type DatabasePlugin, readConfig } from "./plugin.js";
import {
  changeRecord,
  decodeRecord,
  encodeRecord,
  migrateRecord,
  newestRecordSchema,
  type RecordShape,
  shapeOf,
} from "./record.js";
import { RedisConnection, type RedisPlace, redisUrl } from "./redis-connection.js";

export const redisPluginName = "hivemind-redis-db-plugin";

/** Stands in a record's place while the Python plugin writes it, for at most 30 seconds. */
const creationMarker = "__hivemind_creating__";

/** Records a round trip: some hundred kilobytes. */
const batchSize = 500;

const port = z.int().min(1).max(65_535);

/** Every setting of the Python plugin; those that are for its own pool and caches mean nothing here. */
const schema = z.strictObject({
  host: z.string().min(1).default("127.0.0.1"),
  port: port.default(6379),
  db: z.int().min(0).default(0),
  name: z.string().optional(),
  subfolder: z.string().optional(),
  username: z.string().min(1).default("default"),
  password: z.string().optional(),
  index_prefix: z.string().min(1).default("client"),
  cluster_nodes: z
    .array(z.object({ host: z.string().min(1), port: z.coerce.number().pipe(port) }))
    .default([]),
  cluster_hash_tag: z
    .string()
    .regex(/^[^{}]*$/, "cannot hold { or }")
    .optional(),
  use_ssl: z.boolean().default(false),
  ssl: z.boolean().optional(),
  ssl_certfile: z.string().min(1).optional(),
  ssl_keyfile: z.string().min(1).optional(),
  ssl_ca_certs: z.string().min(1).optional(),
  ssl_cert_reqs: z.enum(["required", "optional", "none"]).default("required"),
  ssl_check_hostname: z.boolean().default(true),
  retry_attempts: z.int().min(0).max(20).default(3),
  retry_delay: z.number().min(0).max(60).default(0.1),
  max_connections: z.int().optional(),
  admission_record_ttl: z.int().optional(),
  api_key_cache_ttl: z.number().optional(),
  api_key_cache_size: z.int().optional(),
});

interface Namespace extends RedisPlace {
  prefix: string;
  /** Whether a hash tag keeps all of it in one slot. */
  tagged: boolean;
}

function readPlace(config: DatabaseConfig): Namespace {
  const settings = readConfig(redisPluginName, schema, config);
  const tag = settings.cluster_hash_tag?.trim();
  return {
    host: settings.host,
    port: settings.port,
    db: settings.db,
    username: settings.username,
    password: settings.password || undefined,
    clusterNodes: settings.cluster_nodes,
    tls:
      (settings.ssl ?? settings.use_ssl)
        ? {
            certfile: settings.ssl_certfile,
            keyfile: settings.ssl_keyfile,
            caCerts: settings.ssl_ca_certs,
            certReqs: settings.ssl_cert_reqs,
            checkHostname: settings.ssl_check_hostname,
          }
        : undefined,
    retryAttempts: settings.retry_attempts,
    retryDelay: settings.retry_delay,
    tagged: Boolean(tag),
    prefix: tag ? `${settings.index_prefix}:{${tag}}` : settings.index_prefix,
  };
}

export const redisPlugin: DatabasePlugin = {
  place(config) {
    const place = readPlace(config);
    return place.prefix === "client" ? redisUrl(place) : `${redisUrl(place)}#${place.prefix}`;
  },
  async open(config) {
    const place = readPlace(config);
    const connection = await RedisConnection.open(place);
    try {
      const database = new RedisDatabase(connection, place);
      await database.sync();
      return database;
    } catch (error) {
      await connection.close();
      throw error;
    }
  },
};

/** Answers nothing when done; else what it found in place of ARGV[1], the record that was expected. Empty is none. */
const writeRecord = script(`
  local found = redis.call('GET', KEYS[1]) or ''
  if found ~= ARGV[1] then return found end
  redis.call('SET', KEYS[1], ARGV[2])
  return false
`);

/** Keys and arguments a record, of the script below. */
const keysARecord = 10;
const argumentsARecord = 7;

/** The same for many, with all that is derived from a record, where it lies in one place. */
const writeIndexed = script(`
  local answers = {}
  for i = 0, #KEYS / ${keysARecord} - 1 do
    local record, old_name, new_name, old_key, new_key, doc, count, old_admission, new_admission, admissions =
      unpack(KEYS, i * ${keysARecord} + 1, (i + 1) * ${keysARecord})
    local expected, text, id, name, api_key, old_api_key, revoking =
      unpack(ARGV, i * ${argumentsARecord} + 1, (i + 1) * ${argumentsARecord})
    local found = redis.call('GET', record) or ''
    answers[i + 1] = found
    if found == expected then
      answers[i + 1] = false
      redis.call('SET', record, text)
      if found == '' then redis.call('INCR', count) end
      if revoking ~= '' or old_name ~= new_name then redis.call('SREM', old_name, id) end
      if revoking == '' and (found == '' or old_name ~= new_name) then redis.call('SADD', new_name, id) end
      if old_key ~= new_key then redis.call('SREM', old_key, id) end
      if found == '' or old_key ~= new_key then redis.call('SADD', new_key, id) end
      redis.call('HSET', doc, 'name', name, 'api_key', api_key)
      redis.call('DEL', old_admission, new_admission)
      redis.call('HDEL', admissions, old_api_key, api_key)
    end
  end
  return answers
`);

interface Write {
  id: number;
  /** The record as it was read, empty for none; and as it is to be. */
  expected: string;
  text: string;
  before: Client | undefined;
  client: Client;
  revoking: boolean;
}

class RedisDatabase extends BaseDatabase {
  readonly #connection: RedisConnection;
  readonly #place: Namespace;
  #shape: RecordShape = "released";

  constructor(connection: RedisConnection, place: Namespace) {
    super();
    this.#connection = connection;
    this.#place = place;
  }

  /** Whether there are indexes and counters beside the records. */
  get #indexed(): boolean {
    return !this.#connection.isCluster || this.#place.tagged;
  }

  addItem(client: Client): Promise<void> {
    return this.#put([client]);
  }

  override async addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number> {
    let count = 0;
    let batch: Client[] = [];
    for await (const client of clients) {
      batch.push(client);
      count += 1;
      if (batch.length < batchSize) continue;
      await this.#put(batch);
      batch = [];
    }
    await this.#put(batch);
    return count;
  }

  /** As the Python plugin revokes: what else the record says is kept. */
  override async deleteItem(clientId: number): Promise<void> {
    await this.#change([clientId], (_id, before) => {
      if (before === undefined) throw noSuchClient(clientId);
      const { crypto_key: _, ...metadata } = before.metadata;
      const changes = { name: "", api_key: revokedApiKey, password: null, crypto_key: null };
      return { client: { ...before, ...changes, metadata }, revoking: true };
    });
  }

  override async updateItem(client: Client): Promise<void> {
    await this.#change([client.client_id], (id, before) => {
      if (before === undefined) throw noSuchClient(id);
      return { client };
    });
  }

  async searchByValue(key: string, value: SearchValue): Promise<Client[]> {
    if (value === null) return [];
    if (key === "client_id") {
      const found = await this.getClientById(Number(value));
      return found === undefined || isRevoked(found) ? [] : [found];
    }
    const found: Client[] = [];
    const keep = (client: Client) => {
      if (!isRevoked(client) && matches(client, key, value)) found.push(client);
    };
    if (this.#indexed && (key === "name" || key === "api_key")) {
      const set = this.#key(key, String(value));
      const ids = (await this.#connection.send(set, ["SMEMBERS", set])) as string[];
      for (const client of await this.#load(ids.map(Number))) keep(client);
    } else {
      for await (const client of this) keep(client);
    }
    return found.sort((a, b) => a.client_id - b.client_id);
  }

  override async getClientById(clientId: number): Promise<Client | undefined> {
    const [client] = await this.getClientsById([clientId]);
    return client;
  }

  override async getClientsById(clientIds: readonly number[]): Promise<(Client | undefined)[]> {
    const clients: (Client | undefined)[] = [];
    for (let start = 0; start < clientIds.length; start += batchSize) {
      const ids = clientIds.slice(start, start + batchSize);
      const texts = await this.#raw(ids);
      for (const [index, id] of ids.entries()) {
        const text = texts[index];
        clients.push(isRecord(text) ? decodeRecord(this.#parse(id, text)) : undefined);
      }
    }
    return clients;
  }

  /** The count that the Python plugin keeps and answers; where it keeps none, the records are counted. */
  async size(): Promise<number> {
    if (this.#indexed) {
      const count = await this.#get(this.#key("count"));
      if (count !== null) return Number(count);
    }
    let count = 0;
    for await (const ids of this.#ids()) {
      count += (await this.#raw(ids)).filter((text) => isRecord(text)).length;
    }
    return count;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Client> {
    for await (const ids of this.#ids()) yield* await this.#load(ids);
  }

  override async sync(): Promise<void> {
    const key = this.#key("schema_version");
    const version = Number.parseInt((await this.#get(key)) ?? "1", 10);
    if (version > newestRecordSchema) {
      throw new StoreError(
        "newerVersion",
        `${this.#connection.url} has schema ${version}; this program knows schemas up to ${newestRecordSchema}`,
        { hint: "install a newer hivemind-sqlcipher" },
      );
    }
    this.#shape = shapeOf(Number.isNaN(version) ? 1 : version);
  }

  override async migrate(fromVersion: number): Promise<void> {
    if (fromVersion >= newestRecordSchema) return;
    for await (const ids of this.#ids()) {
      await this.#change(
        ids,
        (_id, before) => (before === undefined ? undefined : { client: before }),
        (record) => migrateRecord(record),
      );
    }
    const key = this.#key("schema_version");
    await this.#connection.send(key, ["SET", key, String(newestRecordSchema)]);
    await this.sync();
  }

  override close(): Promise<void> {
    return this.#connection.close();
  }

  async #put(clients: readonly Client[]): Promise<void> {
    // Of two with the same id the later one counts.
    const byId = new Map(clients.map((client) => [client.client_id, client]));
    await this.#change([...byId.keys()], (id) => {
      const client = byId.get(id);
      return client && { client };
    });
  }

  /**
   * Changes records to what `decide` makes of each, and makes new ones. A record that others changed meanwhile is
   * decided on anew; one that is just being created by others is waited for, and never overwritten.
   *
   * @throws StoreError `inUse` if that takes too long.
   */
  async #change(
    ids: readonly number[],
    decide: (
      id: number,
      before: Client | undefined,
    ) => { client: Client; revoking?: boolean } | undefined,
    rewrite: (record: JsonObject, client: Client) => JsonObject = (record, client) =>
      changeRecord(record, client, this.#shape),
  ): Promise<void> {
    let pending = [...ids];
    let found: (string | null)[] = [];
    if (pending.length > 0) found = await this.#raw(pending);
    const attempts = this.#place.retryAttempts + 2;
    for (let attempt = 0; pending.length > 0; attempt++) {
      if (attempt === attempts) {
        throw new StoreError(
          "inUse",
          `${this.#connection.url}: client ${pending[0]} is being written by another process`,
          { hint: "try again in half a minute: a write that was given up ends by itself then" },
        );
      }
      if (attempt > 0) await sleep(this.#place.retryDelay * 1000);
      const writes: Write[] = [];
      const beingMade: number[] = [];
      for (const [index, id] of pending.entries()) {
        const text = found[index] ?? null;
        if (text === creationMarker) {
          beingMade.push(id);
          continue;
        }
        const record = text === null ? undefined : this.#parse(id, text);
        const before = record && decodeRecord(record);
        const after = decide(id, before);
        if (after === undefined) continue;
        const client = withName(after.client);
        const written = record === undefined ? this.#encode(client) : rewrite(record, client);
        if (written === record) continue;
        writes.push({
          ...{ id, expected: text ?? "", before, client, revoking: after.revoking ?? false },
          text: formatJson(written, { sortKeys: true, ascii: false }),
        });
      }
      const answers = await this.#write(writes);
      const overtaken = writes.filter((_write, index) => answers[index] !== null);
      const others = answers.flatMap((answer) => (answer === null ? [] : [answer || null]));
      pending = [...overtaken.map(({ id }) => id), ...beingMade];
      found = [...others, ...(await this.#raw(beingMade))];
    }
  }

  /**
   * On a cluster without a hash tag the newest plugin cannot migrate records, which would take more than one slot, and
   * ends if it has to. So what is empty is left out there, which says the same to a released one.
   */
  #encode(client: Client): JsonObject {
    const record = encodeRecord(client, this.#shape);
    if (this.#indexed || this.#shape !== "released") return record;
    for (const key of blacklistKeys) {
      if (sameJson(record[key] ?? null, [])) delete record[key];
    }
    if (record.crypto_key === null) delete record.crypto_key;
    return record;
  }

  /** For each: null when written; else what was found instead of what was expected. */
  async #write(writes: readonly Write[]): Promise<(string | null)[]> {
    if (writes.length === 0) return [];
    if (this.#indexed) {
      const keys = writes.flatMap((write) => this.#keysOf(write));
      const args = writes.flatMap(({ id, expected, text, before, client, revoking }) => {
        const { api_key, name } = client;
        const oldKey = before?.api_key ?? api_key;
        return [
          expected,
          text,
          String(id),
          name ?? "",
          api_key,
          oldKey,
          revoking ? "revoking" : "",
        ];
      });
      const [answers] = await this.#run(writeIndexed, [{ keys, args }]);
      return answers as (string | null)[];
    }
    const admissions = this.#key("api_key_records");
    const oldKeys = writes.flatMap(({ before }) => (before === undefined ? [] : [before.api_key]));
    const newKeys = writes.map(({ client }) => client.api_key);
    const forget = ["HDEL", admissions, ...oldKeys, ...newKeys];
    // In another slot, so not together with the records: before them, and after them for what was read meanwhile.
    await this.#connection.send(admissions, forget);
    const answers = await this.#run(
      writeRecord,
      writes.map(({ id, expected, text }) => ({
        ...{ keys: [this.#clientKey(id)], args: [expected, text] },
      })),
    );
    await this.#connection.send(admissions, forget);
    return answers as (string | null)[];
  }

  #keysOf({ id, before, client }: Write): string[] {
    const oldKey = before?.api_key ?? client.api_key;
    return [
      this.#clientKey(id),
      this.#key("name", (before ?? client).name ?? ""),
      this.#key("name", client.name ?? ""),
      this.#key("api_key", oldKey),
      this.#key("api_key", client.api_key),
      this.#key("idx", id),
      this.#key("count"),
      this.#key("api_key_record", oldKey),
      this.#key("api_key_record", client.api_key),
      this.#key("api_key_records"),
    ];
  }

  /** By its hash; in full where a server does not know it yet. Running it twice finds what the first time wrote. */
  async #run(
    { text, sha }: Script,
    calls: { keys: string[]; args: string[] }[],
  ): Promise<unknown[]> {
    const run = (...command: string[]) =>
      this.#connection.sendAll(
        calls.map(({ keys, args }) => ({
          key: keys[0] ?? "",
          command: [...command, String(keys.length), ...keys, ...args],
        })),
      );
    try {
      return await run("EVALSHA", sha);
    } catch (error) {
      if (!String((error as Error).message).includes("NOSCRIPT")) throw error;
      return run("EVAL", text);
    }
  }

  /** The records with these ids, as far as there are any. */
  async #load(ids: readonly number[]): Promise<Client[]> {
    return (await this.getClientsById(ids)).filter((client) => client !== undefined);
  }

  async #raw(ids: readonly number[]): Promise<(string | null)[]> {
    if (ids.length === 0) return [];
    const keys = ids.map((id) => this.#clientKey(id));
    const answers = this.#indexed
      ? await this.#connection.send(keys[0] ?? "", ["MGET", ...keys])
      : await this.#connection.sendAll(keys.map((key) => ({ key, command: ["GET", key] })));
    return answers as (string | null)[];
  }

  async #get(key: string): Promise<string | null> {
    return (await this.#connection.send(key, ["GET", key])) as string | null;
  }

  /**
   * The ids of all records in their order, in batches. The server names them in none, and some twice; a store on disk
   * that takes them in order is written from end to end.
   */
  async *#ids(): AsyncGenerator<number[]> {
    const prefix = `${this.#key("client")}:`;
    const ids = new IdSet();
    for await (const keys of this.#connection.scan(`${escapePattern(prefix)}*`)) {
      for (const key of keys) {
        const rest = key.slice(prefix.length);
        // Another hub's prefix may begin like this one.
        if (/^-?\d+$/.test(rest)) ids.add(Number(rest));
      }
    }
    let batch: number[] = [];
    for (const id of ids) {
      if (batch.push(id) < batchSize) continue;
      yield batch;
      batch = [];
    }
    if (batch.length > 0) yield batch;
  }

  #parse(id: number, text: string): JsonObject {
    const where = `${this.#connection.url}: ${this.#clientKey(id)}`;
    let record: unknown;
    try {
      record = parseJson(text);
    } catch (error) {
      throw new StoreError("corrupted", `${where} does not parse: ${(error as Error).message}`);
    }
    if (!isJsonObject(record)) throw new StoreError("corrupted", `${where} is not a record`);
    if (record.client_id !== id) {
      throw new StoreError("corrupted", `${where} holds the record of another client_id`, {
        hint: "two records with one id: leave only the one that is meant",
      });
    }
    return record;
  }

  #clientKey(id: number): string {
    return this.#key("client", id);
  }

  #key(...parts: (string | number)[]): string {
    return [this.#place.prefix, ...parts].join(":");
  }
}

interface Script {
  text: string;
  sha: string;
}

function script(text: string): Script {
  return { text, sha: createHash("sha1").update(text).digest("hex") };
}

function isRecord(text: string | null | undefined): text is string {
  return text !== null && text !== undefined && text !== "" && text !== creationMarker;
}

/** The Python plugin cannot write to Redis a client whose name is None, so nor could it change or revoke one. */
function withName(client: Client): Client {
  return client.name === null ? { ...client, name: "" } : client;
}

function escapePattern(text: string): string {
  return text.replace(/[\\*?[\]]/g, "\\$&");
}
