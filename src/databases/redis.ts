/**
 * HiveMind's Redis store, on a server or a cluster; `redis-layout` describes its keys.
 *
 * A record is written only if it is unchanged since this process read it. If another process has
 * changed the record, this process reads it again and applies its own change to the new value.
 */
import { hash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { inBatches, readAhead } from "../client/batches.js";
import {
  assertValidClient,
  blacklistKeys,
  type Client,
  deserializeClient,
  isRevoked,
  revokedApiKey,
} from "../client/client.js";
import { noSuchClient, type VerifiableRead } from "../client/database.js";
import { formatJson, isJsonObject, type JsonObject, parseJson, sameJson } from "../client/json.js";
import { StoreError } from "../errors.js";
import { BaseDatabase, matches, type SearchValue } from "./base-database.js";
import { IdSet } from "./id-set.js";
import type { DatabasePlugin } from "./plugin.js";
import {
  changeRecord,
  encodeRecord,
  migrateRecord,
  newestRecordSchema,
  type RecordShape,
  readShape,
} from "./record.js";
import { formatRedisUrl, RedisConnection } from "./redis-connection.js";
import {
  type Call,
  changeCall,
  changeIndexed,
  creationMarker,
  insertCall,
  insertIndexed,
  RedisLayout,
  recordCall,
  type Script,
  type Write,
  writeRecord,
} from "./redis-layout.js";
import { saveToDisk } from "./redis-persistence.js";
import { hashTag, keyPrefix, type RedisSettings, readRedisSettings } from "./redis-settings.js";

/**
 * The records in a round trip. Their text of about a hundred kilobytes stays below the size from
 * which V8 frees a string only with its old generation.
 */
const batchSize = 100;
/** The batches that the server may have at a time, for writing and for reading again. */
const batchesAhead = 2;
const batchesToCompare = 10;

export const redisPlugin: DatabasePlugin = {
  place(config) {
    const settings = readRedisSettings(config);
    const [url, prefix] = [formatRedisUrl(settings), keyPrefix(settings)];
    return prefix === "client" ? url : `${url}#${prefix}`;
  },
  async open(config) {
    const settings = readRedisSettings(config);
    const connection = await RedisConnection.open(settings);
    try {
      const database = new RedisDatabase(connection, settings);
      await database.sync();
      return database;
    } catch (error) {
      await connection.close();
      throw error;
    }
  },
};

class RedisDatabase extends BaseDatabase {
  /** With 1,000 clients, a copy outgrows V8's young generation, and takes twice the CPU time. */
  readonly writeSize = batchSize * batchesAhead;
  readonly #connection: RedisConnection;
  readonly #settings: RedisSettings;
  readonly #layout: RedisLayout;
  #shape: RecordShape = "HiveMind 4";

  constructor(connection: RedisConnection, settings: RedisSettings) {
    super();
    this.#connection = connection;
    this.#settings = settings;
    this.#layout = new RedisLayout(keyPrefix(settings));
  }

  /** Whether indexes and counters exist in addition to the records. */
  get #isIndexed(): boolean {
    return !this.#connection.isCluster || hashTag(this.#settings) !== undefined;
  }

  async addItem(client: Client): Promise<void> {
    await this.#put([client]);
  }

  override async addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number> {
    let count = 0;
    for await (const some of inBatches(clients, this.writeSize)) {
      await this.#putAll(some);
      count += some.length;
    }
    return count;
  }

  async addVerifiable(clients: readonly Client[]): Promise<() => Promise<boolean>> {
    const written = await this.#putAll(clients);
    const isUnchanged = async ({ ids, digest }: Written) => (await this.#digest(ids)) === digest;
    return async () => (await Promise.all(written.map(isUnchanged))).every(Boolean);
  }

  override async deleteItem(clientId: number): Promise<void> {
    await this.#change([clientId], revoke);
  }

  /**
   * Replaces a client, atomically if indexes and records are in the same slot. On a cluster without
   * a hash tag, revokes the old client first: after an interruption the old client is not admitted,
   * and the call can be repeated.
   */
  override async replaceItem(old: Client, replacement: Client): Promise<void> {
    assertValidClient(replacement);
    const [from, to] = [old.client_id, replacement.client_id];
    const decide: Decide = (id, before) => {
      if (id === from && before === undefined) throw noSuchClient(id);
      return id === to ? { client: replacement } : revoke(id, before);
    };
    if (this.#isIndexed || from === to) {
      await this.#change([...new Set([from, to])], decide, { together: true });
      return;
    }
    await this.deleteItem(from);
    await this.addItem(replacement);
  }

  override async updateItem(client: Client): Promise<void> {
    assertValidClient(client);
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
    const isIndexed = this.#isIndexed && (key === "name" || key === "api_key");
    const found: Client[] = [];
    for await (const client of isIndexed ? await this.#findByIndex(key, String(value)) : this) {
      if (client && !isRevoked(client) && matches(client, key, value)) found.push(client);
    }
    return found.sort((a, b) => a.client_id - b.client_id);
  }

  async #findByIndex(key: "name" | "api_key", value: string): Promise<(Client | undefined)[]> {
    const set = this.#layout.index(key, value);
    const ids = (await this.#connection.send(set, ["SMEMBERS", set])) as string[];
    return this.getClientsById(ids.map(Number));
  }

  override async getClientById(clientId: number): Promise<Client | undefined> {
    const [client] = await this.getClientsById([clientId]);
    return client;
  }

  override async getClientsById(clientIds: readonly number[]): Promise<(Client | undefined)[]> {
    const clients: (Client | undefined)[] = [];
    for await (const ids of inBatches(clientIds, batchSize)) {
      const texts = await this.#readTexts(ids);
      for (const [index, id] of ids.entries()) clients.push(this.#decodeRecord(id, texts[index]));
    }
    return clients;
  }

  /** Returns the stored count. Counts the records if there is no index, or no stored count. */
  async size(): Promise<number> {
    if (this.#isIndexed) {
      const count = await this.#readKey(this.#layout.count);
      if (count !== null && /^\d+$/.test(count)) return Number(count);
    }
    let count = 0;
    for await (const { texts } of this.#readBatches()) count += texts.filter(isRecord).length;
    return count;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Client> {
    for await (const batch of this.batches()) yield* batch;
  }

  /**
   * Yields clients ordered by id.
   *
   * @param digests - receives the digest of each batch
   */
  async *batches(digests?: string[]): AsyncGenerator<Client[]> {
    for await (const { ids, texts } of this.#readBatches()) {
      digests?.push(digestTexts(texts));
      yield ids.flatMap((id, index) => this.#decodeRecord(id, texts[index]) ?? []);
    }
  }

  async readVerifiable(): Promise<VerifiableRead> {
    const digests: string[] = [];
    const isUnchanged = async () => {
      const found: string[] = [];
      for await (const batches of inBatches(this.#listIds(), batchesToCompare)) {
        found.push(...(await Promise.all(batches.map((ids) => this.#digest(ids)))));
      }
      return found.join() === digests.join();
    };
    return { batches: this.batches(digests), isUnchanged };
  }

  override async sync(): Promise<void> {
    const version = await this.#readKey(this.#layout.schemaVersion);
    this.#shape = readShape(version ?? undefined, this.#connection.url);
  }

  async persist(): Promise<void> {
    await this.#connection.onServers(saveToDisk);
  }

  override async migrate(fromVersion: number): Promise<void> {
    if (fromVersion >= newestRecordSchema) return;
    for await (const ids of this.#listIds()) {
      await this.#change(
        ids,
        (_id, before) => (before === undefined ? undefined : { client: before }),
        { rewrite: (record) => migrateRecord(record) },
      );
    }
    const key = this.#layout.schemaVersion;
    await this.#connection.send(key, ["SET", key, String(newestRecordSchema)]);
    await this.sync();
  }

  override close(): Promise<void> {
    return this.#connection.close();
  }

  /** Adds clients in batches: the server writes a batch while the next batch is prepared. */
  async #putAll(clients: readonly Client[]): Promise<Written[]> {
    const writes: Promise<Written>[] = [];
    for await (const batch of inBatches(clients, batchSize)) writes.push(this.#put(batch));
    return Promise.all(writes);
  }

  /**
   * Adds clients, or changes the existing records with the same ids. Inserts without reading first,
   * because the scripts report existing records: reading takes as long as writing.
   */
  async #put(clients: readonly Client[]): Promise<Written> {
    for (const client of clients) assertValidClient(client);
    // The later of two clients with the same id wins.
    const byId = new Map(clients.map((client) => [client.client_id, ensureName(client)]));
    const writes: Write[] = [];
    for (const [id, client] of byId) {
      const text = this.#format(this.#encode(client));
      writes.push({ id, expected: "", text, before: undefined, client, revoking: false });
    }
    const replies = await this.#insert(writes);
    const taken = writes.flatMap(({ id }, index) => (replies[index] === null ? [] : [id]));
    const found = replies.filter((reply) => reply !== null);
    const decide: Decide = (id) => {
      const client = byId.get(id);
      return client && { client };
    };
    await this.#change(taken, decide, { found });
    return { ids: writes.map(({ id }) => id), digest: digestTexts(writes.map(({ text }) => text)) };
  }

  /**
   * Changes each record to the result of `decide`, or creates it; leaves it if the result is
   * undefined. Tries again if another process has changed a record since it was read. Waits for a
   * record that another process is creating, and never overwrites it.
   *
   * @param options.rewrite - returns the new record; by default, one with the client's changes
   * @param options.found - the texts of the records, if already read
   * @param options.together - whether to write all or none
   * @throws {@link StoreError} inUse - if a record is still being written after the last attempt
   */
  async #change(
    ids: readonly number[],
    decide: Decide,
    options: { rewrite?: Rewrite; found?: (string | null)[]; together?: boolean } = {},
  ): Promise<void> {
    const { together = false } = options;
    const rewrite: Rewrite =
      options.rewrite ?? ((record, client) => changeRecord(record, client, this.#shape));
    let pending = [...ids];
    let found = options.found ?? (await this.#readTexts(pending));
    const attempts = this.#settings.retry_attempts + 2;
    for (let attempt = 0; pending.length > 0; attempt++) {
      if (attempt === attempts) {
        throw new StoreError(
          "inUse",
          `${this.#connection.url}: client ${pending[0]} is being written by another process`,
          { hint: "Try again in half a minute: an abandoned write expires by then." },
        );
      }
      if (attempt > 0) await sleep(this.#settings.retry_delay * 1000);
      const writes: Write[] = [];
      let beingCreated: number[] = [];
      for (const [index, id] of pending.entries()) {
        const text = found[index] ?? null;
        if (text === creationMarker) {
          beingCreated.push(id);
          continue;
        }
        const record = text === null || text === "" ? undefined : this.#parse(id, text);
        const before = record && deserializeClient(record);
        const after = decide(id, before);
        if (after === undefined) continue;
        const client = ensureName(after.client);
        const written = record === undefined ? this.#encode(client) : rewrite(record, client);
        if (written === record) continue;
        const revoking = after.revoking ?? false;
        const newText = this.#format(written);
        writes.push({ id, expected: text ?? "", text: newText, before, client, revoking });
      }
      if (together && beingCreated.length > 0) {
        beingCreated = pending;
        writes.length = 0;
      }
      const replies = await this.#write(writes, together);
      const overtaken = writes.filter((_write, index) => replies[index] !== null);
      const others = replies.flatMap((reply) => (reply === null ? [] : [reply || null]));
      pending = [...overtaken.map(({ id }) => id), ...beingCreated];
      found = [...others, ...(await this.#readTexts(beingCreated))];
    }
  }

  /**
   * Encodes a client. On a cluster without a hash tag, a hub of HiveMind 5 fails if a record has
   * fields to migrate, because the records are in several slots. So this omits empty blacklists and
   * a missing crypto key there: HiveMind 4 reads such a record alike.
   */
  #encode(client: Client): JsonObject {
    const record = encodeRecord(client, this.#shape);
    if (this.#isIndexed || this.#shape !== "HiveMind 4") return record;
    for (const key of blacklistKeys) {
      if (sameJson(record[key] ?? null, [])) delete record[key];
    }
    if (record.crypto_key === null) delete record.crypto_key;
    return record;
  }

  #format(record: JsonObject): string {
    return formatJson(record, { sortKeys: true, ascii: false });
  }

  /** Inserts new records. Returns null for each inserted record, or else its present text. */
  async #insert(writes: readonly Write[]): Promise<(string | null)[]> {
    if (writes.length === 0) return [];
    if (!this.#isIndexed) return this.#writeSeparately(writes);
    const [replies] = await this.#run(insertIndexed, [insertCall(this.#layout, writes)]);
    return replies as (string | null)[];
  }

  /** Changes or creates records. Returns null for each written record, or else its present text. */
  async #write(writes: readonly Write[], together: boolean): Promise<(string | null)[]> {
    if (writes.length === 0) return [];
    if (!this.#isIndexed) return this.#writeSeparately(writes);
    const [replies] = await this.#run(changeIndexed, [changeCall(this.#layout, writes, together)]);
    return replies as (string | null)[];
  }

  /** Writes records that are in separate slots. Returns what `#write` returns. */
  async #writeSeparately(writes: readonly Write[]): Promise<(string | null)[]> {
    const { admissions } = this.#layout;
    const oldKeys = writes.flatMap(({ before }) => (before === undefined ? [] : [before.api_key]));
    const newKeys = writes.map(({ client }) => client.api_key);
    const entries = [...oldKeys, ...newKeys].map((apiKey) => this.#layout.admission(apiKey));
    const deletions = [
      { key: admissions, command: ["HDEL", admissions, ...oldKeys, ...newKeys] },
      ...entries.map((key) => ({ key, command: ["DEL", key] })),
    ];
    // The script cannot delete admission entries, because they are in other slots. Delete them
    // before the script, and again after it: a hub may have written them in between.
    await this.#connection.sendAll(deletions);
    const calls = writes.map((write) => recordCall(this.#layout, write));
    const replies = await this.#run(writeRecord, calls);
    await this.#connection.sendAll(deletions);
    return replies as (string | null)[];
  }

  /**
   * Runs a script by its hash, or by its text if a server does not know the hash. On a cluster, the
   * second run may repeat calls that succeeded in the first. They then return the records that the
   * first run wrote, as if another process had written them.
   */
  async #run({ text, sha }: Script, calls: readonly Call[]): Promise<unknown[]> {
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

  #decodeRecord(id: number, text: string | null | undefined): Client | undefined {
    return isRecord(text) ? deserializeClient(this.#parse(id, text)) : undefined;
  }

  /** Yields the ids and texts of all records. */
  #readBatches(): AsyncIterable<{ ids: number[]; texts: (string | null)[] }> {
    const read = async function* (this: RedisDatabase) {
      for await (const ids of this.#listIds()) yield { ids, texts: await this.#readTexts(ids) };
    };
    return readAhead(read.call(this));
  }

  async #readTexts(ids: readonly number[]): Promise<(string | null)[]> {
    if (ids.length === 0) return [];
    const keys = ids.map((id) => this.#layout.record(id));
    const replies = this.#isIndexed
      ? await this.#connection.send(keys[0] ?? "", ["MGET", ...keys])
      : await this.#connection.sendAll(keys.map((key) => ({ key, command: ["GET", key] })));
    return replies as (string | null)[];
  }

  /**
   * Returns the digest of the present records. A script that computes it on the server saves the
   * client less time than it takes there.
   */
  async #digest(ids: readonly number[]): Promise<string> {
    return digestTexts(await this.#readTexts(ids));
  }

  async #readKey(key: string): Promise<string | null> {
    return (await this.#connection.send(key, ["GET", key])) as string | null;
  }

  /**
   * Yields the ids of all records in ascending order, in batches. SCAN returns them unordered, and
   * some of them twice. Ascending ids let a migration write an SQLite file sequentially.
   */
  async *#listIds(): AsyncGenerator<number[]> {
    const ids = new IdSet();
    for await (const keys of this.#connection.scan(this.#layout.recordPattern)) {
      for (const key of keys) {
        const id = this.#layout.idOf(key);
        if (id !== undefined) ids.add(id);
      }
    }
    yield* inBatches(ids, batchSize);
  }

  #parse(id: number, text: string): JsonObject {
    const where = `${this.#connection.url}: ${this.#layout.record(id)}`;
    let record: unknown;
    try {
      record = parseJson(text);
    } catch (error) {
      throw new StoreError("corrupted", `${where} does not parse: ${(error as Error).message}`);
    }
    if (!isJsonObject(record)) throw new StoreError("corrupted", `${where} is not a record`);
    if (record.client_id !== id) {
      throw new StoreError("corrupted", `${where} holds the record of another client_id`, {
        hint: "Correct client_id in the record (redis-cli GET KEY), or delete the key if the record is a duplicate.",
      });
    }
    return record;
  }
}

/** The ids of a batch of records, and the digest of their texts. */
interface Written {
  readonly ids: readonly number[];
  readonly digest: string;
}

function digestTexts(texts: readonly (string | null)[]): string {
  // A record has no line break, and a missing record is an empty line.
  return hash("sha256", texts.join("\n"));
}

type Decide = (
  id: number,
  before: Client | undefined,
) => { client: Client; revoking?: boolean } | undefined;

type Rewrite = (record: JsonObject, client: Client) => JsonObject;

/** Decides to revoke a client. Like the Python plugin, keeps the other fields of the record. */
function revoke(id: number, before: Client | undefined): { client: Client; revoking: boolean } {
  if (before === undefined) throw noSuchClient(id);
  const { crypto_key: _, ...metadata } = before.metadata;
  const changes = { name: "", api_key: revokedApiKey, password: null, crypto_key: null };
  return { client: { ...before, ...changes, metadata }, revoking: true };
}

function isRecord(text: string | null | undefined): text is string {
  return text !== null && text !== undefined && text !== "" && text !== creationMarker;
}

/**
 * Returns the client with a name. The Python plugin cannot write the name None to Redis, so it
 * could not change or revoke a client without a name.
 */
function ensureName(client: Client): Client {
  return client.name === null ? { ...client, name: "" } : client;
}
