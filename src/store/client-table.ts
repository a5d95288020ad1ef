/**
 * The Database contract over a table of clients in SQLite, encrypted or not.
 *
 * What is not being changed keeps its bytes. A record that takes another's place is compared with it field by field,
 * and only the columns of fields that differ are written: a NULL stays a NULL, and JSON that says the same stays as
 * its writer spelled it.
 */
import { type Client, revoked, revokedApiKey } from "../client/client.js";
import type { Database } from "../client/database.js";
import { StoreError } from "../errors.js";
import {
  changedColumns,
  decodeRow,
  encodeRow,
  exactInteger,
  type Row,
  requireValid,
  rowColumns,
  type Values,
} from "./client-row.js";
import type { Connection, SqlValue, Statement } from "./connection.js";
import { type PackedRows, packedRows, unpackRows } from "./packed-rows.js";
import {
  addMetadataColumn,
  checkSchema,
  migrateSchema,
  newestSchema,
  pageRows,
  type Schema,
} from "./schema.js";

/**
 * Rows that one INSERT takes when there are many: a call for each would cost five times as much. (A JSON text of
 * them all would be as fast, but SQLite rounds the last digit of some numbers in it.)
 */
const rowsAStatement = 100;

const select = `SELECT ${rowColumns} FROM clients`;

export class ClientTable implements Database {
  readonly connection: Connection;
  #schema: Schema;
  /** SQLite's count of changes to the tables' shape, and the schema's number, when `#schema` was read. */
  #stamp = "";
  /** By their SQL; kept for the life of the store. */
  readonly #statements = new Map<string, Promise<Statement>>();

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

  /** Each batch is a transaction of its own, of some milliseconds, so that a hub at work is not held up. */
  async addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number> {
    let count = 0;
    let batch: Client[] = [];
    for await (const client of clients) {
      batch.push(client);
      count += 1;
      if (batch.length < pageRows) continue;
      await this.#put(batch);
      batch = [];
    }
    await this.#put(batch);
    return count;
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
    requireValid(changes);
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

  async getClientByApiKey(apiKey: string): Promise<Client | undefined> {
    const [first] = await this.searchByValue("api_key", apiKey);
    return first;
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

  /**
   * In the order of their ids, a page at a time; the next one is read while this one is used. No read is left open
   * between two, so writers are not held up.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<Client> {
    const order = `ORDER BY client_id LIMIT ${pageRows}`;
    let next = this.#rows(order);
    try {
      for (;;) {
        const page = await next;
        const last = page.at(-1)?.exact_id;
        if (last === undefined) return;
        next = this.#rows(`WHERE client_id > CAST(? AS INTEGER) ${order}`, [last]);
        for (const row of page) yield decodeRow(row);
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
    for (const client of clients) requireValid(client);
    // Of two with the same id the later one counts.
    const byId = new Map(clients.map((client) => [client.client_id, client]));
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
    const rows = clients.map((client) => encodeRow(client, this.#schema));
    for (const row of rows) await this.#makeRoom(row);
    const columns = [...this.#schema.columns];
    const placeholders = `(${columns.map(() => "?").join(", ")})`;
    for (let start = 0; start < rows.length; ) {
      const count = rows.length - start < rowsAStatement ? 1 : rowsAStatement;
      const inserted = rows.slice(start, start + count);
      await this.#run(
        `INSERT INTO clients (${columns.join(", ")}) VALUES ${Array(count).fill(placeholders).join(", ")}`,
        inserted.flatMap((row) => columns.map((column) => row[column] ?? null)),
      );
      start += count;
    }
  }

  async #replace(row: Row, client: Client): Promise<void> {
    await this.#update(client.client_id, changedColumns(row, client, this.#schema));
  }

  async #update(clientId: number, values: Values): Promise<void> {
    await this.#makeRoom(values);
    const columns = [...this.#schema.columns].filter((column) => Object.hasOwn(values, column));
    if (columns.length === 0) return;
    const assignments = columns.map((column) => `${column} = ?`);
    await this.#run(`UPDATE clients SET ${assignments.join(", ")} WHERE client_id = ?`, [
      ...columns.map((column) => values[column] ?? null),
      clientId,
    ]);
  }

  /** Gives a released hub's table the column for metadata, if there is metadata to write. */
  async #makeRoom(values: Values): Promise<void> {
    const { metadata = "{}" } = values;
    if (metadata === "{}" || this.#schema.columns.has("metadata")) return;
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

  /** Many rows, packed; as they are where they cannot be, which also says what else is wrong. */
  async #rows(selection: string, params: readonly SqlValue[] = []): Promise<Row[]> {
    const columns = [...this.#schema.columns];
    const sql = packedRows(columns, selection);
    const [packed] = await this.#all<PackedRows>(sql, params).catch(() => []);
    const rows = packed && unpackRows(columns, packed);
    return rows ?? this.#all<Row>(`${select} ${selection}`, params);
  }

  async #all<Result>(sql: string, params: readonly SqlValue[] = []): Promise<Result[]> {
    return (await this.#statement(sql)).all<Result>(params);
  }

  async #run(sql: string, params: readonly SqlValue[]): Promise<void> {
    await (await this.#statement(sql)).run(params);
  }

  #statement(sql: string): Promise<Statement> {
    const known = this.#statements.get(sql);
    if (known !== undefined) return known;
    const statement = this.connection.prepare(sql);
    this.#statements.set(sql, statement);
    statement.catch(() => this.#statements.delete(sql));
    return statement;
  }
}

function noSuchClient(clientId: number): StoreError {
  return new StoreError("notFound", `there is no client ${clientId}`);
}
