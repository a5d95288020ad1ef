/**
 * The Database contract over a table of clients in SQLite, encrypted or not.
 *
 * What is not being changed keeps its bytes. A record that takes another's place is compared with it field by field,
 * and only the columns of fields that differ are written: a NULL stays a NULL, and JSON that says the same stays as
 * its writer spelled it.
 */
import { totalmem } from "node:os";
import { setImmediate } from "node:timers/promises";
import { type Client, revoked, revokedApiKey } from "../client/client.js";
import type { Database } from "../client/database.js";
import { StoreError } from "../errors.js";
import { BatchLoader } from "./batch-loader.js";
import {
  assertValidClient,
  changedColumns,
  decodeRow,
  encodeRow,
  exactInteger,
  type Row,
  rowColumns,
  textOf,
  type Values,
} from "./client-row.js";
import type { Connection, SqlValue, Statement } from "./connection.js";
import { type PackedRows, packedRows, unpackRows } from "./packed-rows.js";
import {
  addMetadataColumn,
  type Column,
  checkSchema,
  migrateSchema,
  newestSchema,
  pageRows,
  type Schema,
} from "./schema.js";

/**
 * SQLite's page cache, in bytes, for writing and, at most, for lookups, which come back to pages all over the store: 32
 * and 256 MiB; and it is at most an eighth of the machine's memory.
 */
const smallestCache = 32 << 20;
const largestCache = 256 << 20;

/** Clients in a batch that is written in one transaction, as many as are written in about so many milliseconds. */
const smallestBatch = 500;
const largestBatch = 5_000;
const batchMs = 250;

/** While a batch is gathered, the one that is being written has its turn after so many clients. */
const turnRows = 100;

/**
 * Rows that one INSERT takes when there are many: a call for each would cost five times as much. (A JSON text of
 * them all would be as fast, but SQLite rounds the last digit of some numbers in it.)
 */
const rowsAStatement = 500;

const select = `SELECT ${rowColumns} FROM clients`;

export class ClientTable implements Database {
  readonly connection: Connection;
  #schema: Schema;
  /** SQLite's count of changes to the tables' shape, and the schema's number, when `#schema` was read. */
  #stamp = "";
  /** By their lane and SQL; kept for the life of the store. */
  readonly #statements = new Map<string, Promise<Statement>>();
  readonly #byApiKey = new BatchLoader(
    (keys: readonly string[], lane: number) => this.#rowsByApiKey(keys, lane),
    decodeRow,
  );
  #cacheLimit = 0;

  /** @param schema what `checkSchema` says of this connection. */
  constructor(connection: Connection, schema: Schema) {
    this.connection = connection;
    this.#schema = schema;
  }

  /** 0, 1 or 2: it decides where blacklists are written. */
  get schemaVersion(): number {
    return this.#schema.version;
  }

  addItem(client: Client): Promise<void> {
    return this.#put([client]);
  }

  /**
   * Each batch is a transaction of its own, and short, so that a hub at work is not held up. While one is written the
   * next is gathered.
   */
  async addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number> {
    let count = 0;
    let size = smallestBatch;
    let batch: Client[] = [];
    let written = Promise.resolve(size);
    try {
      for await (const client of clients) {
        batch.push(client);
        count += 1;
        if (batch.length % turnRows === 0) await setImmediate();
        if (batch.length < size) continue;
        size = await written;
        written = this.#putTimed(batch);
        // It is awaited when the next batch is full, and what it fails with is thrown there.
        written.catch(() => undefined);
        batch = [];
      }
    } finally {
      await written;
    }
    await this.#put(batch);
    return count;
  }

  /** Writes a batch, and says how large the next may be to take its time. */
  async #putTimed(batch: readonly Client[]): Promise<number> {
    const start = performance.now();
    await this.#put(batch);
    const fitting = (batch.length * batchMs) / (performance.now() - start);
    return Math.max(smallestBatch, Math.min(largestBatch, 2 * batch.length, Math.floor(fitting)));
  }

  async deleteItem(clientId: number): Promise<void> {
    await this.transaction(async () => {
      const row = await this.#rowById(clientId);
      if (row === undefined) throw noSuchClient(clientId);
      // Every column: nothing of what the client had is carried.
      await this.#update(clientId, encodeRow(revoked(clientId), this.#schema));
    });
  }

  async updateItem(client: Client): Promise<void> {
    await this.updateClient(client.client_id, client);
  }

  /**
   * Changes some fields of a client and writes their columns alone. Answers the client as it then is.
   *
   * @throws StoreError `notFound` if there is none; `refused` if a change is not valid.
   */
  async updateClient(clientId: number, changes: Partial<Client>): Promise<Client> {
    assertValidClient(changes);
    return this.transaction(async () => {
      const row = await this.#rowById(clientId);
      if (row === undefined) throw noSuchClient(clientId);
      const client = { ...decodeRow(row), ...changes, client_id: clientId };
      await this.#replace(row, client);
      return client;
    });
  }

  async replaceItem(old: Client, replacement: Client): Promise<void> {
    await this.transaction(async () => {
      await this.deleteItem(old.client_id);
      await this.addItem(replacement);
    });
  }

  /**
   * A search compares what is stored: JSON columns as text, permissions as 0 and 1, and NULL equals nothing, as in
   * HiveMind's own plugin.
   */
  async searchByValue(key: string, value: string | number | boolean | null): Promise<Client[]> {
    if (key === "api_key" && value === revokedApiKey) return [];
    const column = [...this.#schema.columns].find((name) => name === key);
    if (column === undefined) return [];
    const rows = await this.#all<Row>(`${select} WHERE ${column} = ? ORDER BY client_id`, [value]);
    return rows.map(decodeRow);
  }

  async getClientById(clientId: number): Promise<Client | undefined> {
    const row = await this.#rowById(clientId);
    return row && decodeRow(row);
  }

  async getClientsById(clientIds: readonly number[]): Promise<(Client | undefined)[]> {
    const byId = new Map<number, Client>();
    for (let start = 0; start < clientIds.length; start += pageRows) {
      for (const row of await this.#rowsById(clientIds.slice(start, start + pageRows))) {
        byId.set(Number(row.exact_id), decodeRow(row));
      }
    }
    return clientIds.map((id) => byId.get(id));
  }

  /** Asked for many side by side, as with `Promise.all`, it looks up hundreds at once. */
  getClientByApiKey(apiKey: string): Promise<Client | undefined> {
    if (apiKey === revokedApiKey) return Promise.resolve(undefined);
    return this.#byApiKey.ask(apiKey);
  }

  refresh(clientId: number): Promise<Client | undefined> {
    return this.getClientById(clientId);
  }

  async size(): Promise<number> {
    const [row] = await this.#all<{ size: number }>("SELECT count(*) AS size FROM clients");
    return row?.size ?? 0;
  }

  async counts(): Promise<{ active: number; revoked: number }> {
    const [row] = await this.#all<{ active: number; revoked: number }>(
      `SELECT count(*) FILTER (WHERE api_key <> ?1) AS active,
        count(*) FILTER (WHERE api_key = ?1) AS revoked FROM clients`,
      [revokedApiKey],
    );
    return row ?? { active: 0, revoked: 0 };
  }

  /**
   * Who is an administrator, as a hub reads the column, in the order of their ids: whoever has anything there but NULL,
   * zero or nothing at all.
   *
   * @throws StoreError `refused` if an id would be rounded.
   */
  async admins(): Promise<Pick<Client, "client_id" | "name">[]> {
    const rows = await this.#all<Pick<Row, "exact_id" | "name">>(
      `SELECT CAST(client_id AS TEXT) AS exact_id, name FROM clients
        WHERE is_admin NOT IN (0, '', x'') ORDER BY client_id`,
    );
    return rows.map(({ exact_id, name }) => ({
      client_id: exactInteger(exact_id, "a client_id"),
      name: textOf(name),
    }));
  }

  /**
   * One more than the highest id there is; ids of revoked clients are not given again. To be asked in the
   * transaction that uses it.
   *
   * @throws StoreError `refused` if that id cannot be carried exactly.
   */
  async nextClientId(): Promise<number> {
    const [row] = await this.#all<{ next: string }>(
      "SELECT CAST(coalesce(max(client_id), 0) + 1 AS TEXT) AS next FROM clients",
    );
    return exactInteger(row?.next ?? "1", "the next client_id");
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Client> {
    for await (const page of this.pages()) for (const row of page) yield decodeRow(row);
  }

  /**
   * The rows in the order of their ids, a page at a time; the next one is read while this one is used. No read is left open
   * between two, so writers are not held up.
   */
  async *pages(): AsyncGenerator<Row[]> {
    const order = `ORDER BY client_id LIMIT ${pageRows}`;
    let next = this.#rows(order);
    try {
      for (let lane = 1; ; lane = 1 - lane) {
        const page = await next;
        const last = page.at(-1)?.exact_id;
        if (last === undefined) return;
        next = this.#rows(`WHERE client_id > CAST(? AS INTEGER) ${order}`, [last], lane);
        // What it fails with is thrown where it is awaited, however long this page is used.
        next.catch(() => undefined);
        yield page;
      }
    } finally {
      // Nobody waits for it any more; the connection may be closed next.
      await next.catch(() => undefined);
    }
  }

  /** Nothing waits to be written: a change is kept when its promise resolves. */
  async commit(): Promise<void> {}

  /** Takes notice of a table that another program migrated or gave a column. */
  async sync(): Promise<void> {
    this.#schema = await checkSchema(this.connection);
  }

  /** As `migrateSchema`, with what it says of released hubs. */
  async migrate(fromVersion: number): Promise<void> {
    if (fromVersion >= newestSchema) return;
    await migrateSchema(this.connection);
    await this.sync();
  }

  /**
   * Runs `body` in one transaction: what the store's methods write in it is kept as a whole or not at all.
   *
   * The table's shape is looked at before anything is written: a hub that migrated it meanwhile would not see
   * blacklists written to the columns of the old schema.
   */
  transaction<T>(body: () => Promise<T>): Promise<T> {
    return this.connection.transaction(async () => {
      const [row] = await this.#all<{ stamp: string }>(
        `SELECT schema_version || ' ' || user_version AS stamp
          FROM pragma_schema_version, pragma_user_version`,
      );
      const stamp = row?.stamp ?? "";
      if (stamp !== this.#stamp) await this.sync();
      this.#stamp = stamp;
      try {
        return await body();
      } catch (error) {
        // A column added in here goes with the rest.
        this.#stamp = "";
        throw error;
      }
    });
  }

  close(): Promise<void> {
    return this.connection.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #put(clients: readonly Client[]): Promise<void> {
    if (clients.length === 0) return;
    for (const client of clients) assertValidClient(client);
    // Of two with the same id the later one counts.
    const byId = new Map(clients.map((client) => [client.client_id, client]));
    await this.#sizeCache(smallestCache);
    await this.transaction(async () => {
      for (const row of await this.#rowsById([...byId.keys()])) {
        const client = byId.get(Number(row.exact_id));
        if (client === undefined) continue;
        await this.#replace(row, client);
        byId.delete(client.client_id);
      }
      await this.#insert([...byId.values()]);
    });
  }

  async #insert(clients: readonly Client[]): Promise<void> {
    const statements = new Map<string, Statement>();
    const running: Promise<unknown>[] = [];
    try {
      for (let start = 0; start < clients.length; start += rowsAStatement) {
        const rows = clients
          .slice(start, start + rowsAStatement)
          .map((client) => encodeRow(client, this.#schema));
        await this.#makeRoom(rows);
        const { sql, params } = insertion([...this.#schema.columns], rows);
        let statement = statements.get(sql);
        if (statement === undefined) {
          statement = await this.connection.prepare(sql);
          statements.set(sql, statement);
        }
        const run = statement.run(params);
        // What it fails with is thrown where it is awaited.
        run.catch(() => undefined);
        running.push(run);
        // While one is written the next is made ready.
        await running.at(-2);
      }
    } finally {
      // None may be left when the transaction ends.
      await allDone(running);
      for (const statement of statements.values()) await statement.finalize();
    }
  }

  async #replace(row: Row, client: Client): Promise<void> {
    await this.#update(client.client_id, changedColumns(row, client, this.#schema));
  }

  async #update(clientId: number, values: Values): Promise<void> {
    await this.#makeRoom([values]);
    const columns = [...this.#schema.columns].filter((column) => Object.hasOwn(values, column));
    if (columns.length === 0) return;
    const assignments = columns.map((column) => `${column} = ?`);
    await this.#run(`UPDATE clients SET ${assignments.join(", ")} WHERE client_id = ?`, [
      ...columns.map((column) => values[column] ?? null),
      clientId,
    ]);
  }

  /** Gives a released hub's table the column for metadata, if there is metadata to write. */
  async #makeRoom(rows: readonly Values[]): Promise<void> {
    if (this.#schema.columns.has("metadata")) return;
    if (!rows.some(({ metadata = "{}" }) => metadata !== "{}")) return;
    await addMetadataColumn(this.connection);
    await this.sync();
  }

  async #rowById(clientId: number): Promise<Row | undefined> {
    const [row] = await this.#all<Row>(`${select} WHERE client_id = ?`, [clientId]);
    return row;
  }

  #rowsById(clientIds: readonly number[]): Promise<Row[]> {
    return this.#rows("WHERE client_id IN (SELECT value FROM json_each(?))", [
      JSON.stringify(clientIds),
    ]);
  }

  /**
   * Many rows, packed; as they are where they cannot be, which also says what else is wrong.
   *
   * @param lane 0 or 1, for two such queries that are to go on side by side: a statement begins anew only when all that
   *   was done at once with its last answer is done.
   */
  async #rows(selection: string, params: readonly SqlValue[] = [], lane = 0): Promise<Row[]> {
    const columns = [...this.#schema.columns];
    const sql = packedRows(columns, selection);
    const [packed] = await this.#all<PackedRows>(sql, params, lane).catch(() => []);
    const rows = packed && unpackRows(columns, packed);
    return rows ?? this.#all<Row>(`${select} ${selection}`, params, lane);
  }

  /** Of several with the same key, the one with the lowest id. */
  async #rowsByApiKey(apiKeys: readonly string[], lane: number): Promise<ReadonlyMap<string, Row>> {
    await this.#sizeCache(largestCache);
    const selection = "WHERE api_key IN (SELECT value FROM json_each(?))";
    const rows = await this.#rows(selection, [JSON.stringify(apiKeys)], lane);
    const byKey = new Map<string, Row>();
    for (const row of rows) {
      const apiKey = String(row.api_key);
      const known = byKey.get(apiKey);
      // An id that was rounded is refused when its row is decoded.
      const isFirst = known === undefined || Number(row.client_id) < Number(known.client_id);
      if (isFirst) byKey.set(apiKey, row);
    }
    return byKey;
  }

  /**
   * Lets SQLite keep pages that lookups and writes come back to: each that it reads anew is deciphered and checked
   * anew. Not for what reads a table once, from end to end, which would fill memory for nothing.
   */
  async #sizeCache(limit: number): Promise<void> {
    if (limit <= this.#cacheLimit) return;
    this.#cacheLimit = limit;
    const [row] = await this.#all<{ bytes: number }>(
      "SELECT page_count * page_size AS bytes FROM pragma_page_count, pragma_page_size",
    );
    const wanted = Math.max(row?.bytes ?? 0, smallestCache);
    const bytes = Math.min(wanted, limit, memoryOfMachine() / 8);
    await this.connection.all(`PRAGMA cache_size = ${-Math.floor(bytes / 1024)}`);
  }

  async #all<Result>(sql: string, params: readonly SqlValue[] = [], lane = 0): Promise<Result[]> {
    return (await this.#statement(sql, lane)).all<Result>(params);
  }

  async #run(sql: string, params: readonly SqlValue[]): Promise<void> {
    await (await this.#statement(sql)).run(params);
  }

  #statement(sql: string, lane = 0): Promise<Statement> {
    const name = `${lane} ${sql}`;
    const known = this.#statements.get(name);
    if (known !== undefined) return known;
    const statement = this.connection.prepare(sql);
    this.#statements.set(name, statement);
    statement.catch(() => this.#statements.delete(name));
    return statement;
  }
}

/** One INSERT of several rows. Binding a value costs more than writing it: what all rows share is bound once. */
function insertion(columns: readonly Column[], rows: readonly Values[]) {
  const [first] = rows;
  const boundBy = (row: Values | undefined, column: Column) => row?.[column] ?? null;
  const isShared = (column: Column) =>
    rows.every((row) => boundBy(row, column) === boundBy(first, column));
  const shared = columns.filter(isShared);
  const own = columns.filter((column) => !shared.includes(column));
  const params = shared.map((column) => boundBy(first, column));
  const sharedPlaces = shared.map((_, index) => `?${index + 1}`);
  const values = rows.map((row) => {
    const places = own.map((column) => `?${params.push(boundBy(row, column))}`);
    return `(${[...sharedPlaces, ...places].join(", ")})`;
  });
  const sql = `INSERT INTO clients (${[...shared, ...own].join(", ")}) VALUES ${values.join(", ")}`;
  return { sql, params };
}

/** Waits for all, whatever becomes of each; then throws what the first of them failed with. */
async function allDone(work: readonly Promise<unknown>[]): Promise<void> {
  const outcomes = await Promise.allSettled(work);
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed) throw failed.reason;
}

/** Bytes, as far as this process may use them. */
function memoryOfMachine(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

function noSuchClient(clientId: number): StoreError {
  return new StoreError("notFound", `there is no client ${clientId}`);
}
