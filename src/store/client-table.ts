/**
 * HiveMind's database contract over a table of clients in SQLite, encrypted or not.
 *
 * Unchanged values keep their bytes: a record is compared field by field with the row it replaces,
 * and only columns of changed fields are written. NULL stays NULL, and equal JSON keeps its
 * formatting.
 */
import { createHash } from "node:crypto";
import {
  assertValidChanges,
  assertValidClient,
  type Client,
  type ClientCounts,
  revoked,
  revokedApiKey,
} from "../client/client.js";
import {
  type Database,
  type IdBatch,
  noSuchClient,
  type VerifiableRead,
} from "../client/database.js";
import { BatchLoader, type StatementQueue } from "./batch-loader.js";
import { insertRows, writeInBatches } from "./batch-writer.js";
import {
  decodeRow,
  decodeText,
  encodeRow,
  findChangedColumns,
  parseExactInteger,
  type Row,
  rowColumns,
  type Values,
} from "./client-row.js";
import type { Connection } from "./connection.js";
import { packRows } from "./packed-rows.js";
import {
  allIds,
  type IdRange,
  lookupCacheBytes,
  RowReader,
  writeCacheBytes,
} from "./row-reader.js";
import {
  addMetadataColumn,
  migrateSchema,
  newestSchema,
  pageRows,
  readSchema,
  type Schema,
} from "./schema.js";

const withIds = "WHERE client_id IN (SELECT value FROM json_each(?))";

/** A batch of clients after it was written. */
interface WrittenBatch {
  /** The ids of all its clients, a list in JSON. */
  readonly ids: string;
  /**
   * The digest of the inserted rows. If other rows were updated, the rows read back have
   * another digest.
   */
  readonly digest: string;
}

function digestOf(packed: string): string {
  return createHash("sha256").update(packed).digest("hex");
}

const select = `SELECT ${rowColumns} FROM clients`;

export class ClientTable implements Database {
  readonly connection: Connection;
  #schema: Schema;
  /**
   * SQLite's counter of schema changes (`PRAGMA schema_version`) and the store's schema version
   * (`PRAGMA user_version`) at the last transaction. Empty if the next transaction must read the
   * schema again.
   */
  #stamp = "";
  readonly #reader: RowReader;
  readonly #byApiKey = new BatchLoader(
    (keys: readonly string[], queue: StatementQueue) => this.#rowsByApiKey(keys, queue),
    decodeRow,
  );

  /** @param schema - the result of `readSchema` on this connection */
  constructor(connection: Connection, schema: Schema) {
    this.connection = connection;
    this.#schema = schema;
    this.#reader = new RowReader(connection, () => [...this.#schema.columns]);
  }

  /** 0, 1 or 2. Determines where blacklists are written. */
  get schemaVersion(): number {
    return this.#schema.version;
  }

  async addItem(client: Client): Promise<void> {
    await this.#put([client]);
  }

  /** Adds many clients, each batch in a transaction short enough for a running hub. */
  addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number> {
    return writeInBatches(clients, async (batch) => {
      await this.#put(batch);
    });
  }

  async addVerifiable(clients: readonly Client[]): Promise<() => Promise<boolean>> {
    const written: WrittenBatch[] = [];
    await writeInBatches(clients, async (batch) => {
      written.push(await this.#put(batch));
    });
    return async () => {
      for (const { ids, digest } of written) {
        const packed = await this.#reader.packed(withIds, [ids]);
        if (packed === undefined || digestOf(packed) !== digest) return false;
      }
      return true;
    };
  }

  async deleteItem(clientId: number): Promise<void> {
    await this.transaction(async () => {
      const row = await this.#rowById(clientId);
      if (row === undefined) throw noSuchClient(clientId);
      // Write every known column, so none of them keeps a value of the client.
      await this.#update(clientId, encodeRow(revoked(clientId), this.#schema));
    });
  }

  async updateItem(client: Client): Promise<void> {
    assertValidClient(client);
    await this.updateClient(client.client_id, client);
  }

  /**
   * Changes fields of a client, and returns the changed client. A field that `changes` does not
   * have keeps its value.
   *
   * @throws {@link StoreError} notFound - if there is no such client
   * @throws {@link StoreError} refused - if a change is invalid, as undefined is for every field
   */
  async updateClient(clientId: number, changes: Partial<Client>): Promise<Client> {
    assertValidChanges(changes);
    return this.transaction(async () => {
      const row = await this.#rowById(clientId);
      if (row === undefined) throw noSuchClient(clientId);
      const client = { ...decodeRow(row), ...changes, client_id: clientId };
      await this.#replace(row, client);
      return client;
    });
  }

  /**
   * Writes the replacement at once, or before it revokes `old`: a lookup on this connection sees
   * each statement of the transaction, and would find neither client in between.
   */
  async replaceItem(old: Client, replacement: Client): Promise<void> {
    assertValidClient(replacement);
    const { client_id: id } = replacement;
    await this.transaction(async () => {
      if ((await this.#rowById(old.client_id)) === undefined) throw noSuchClient(old.client_id);
      if (id === old.client_id) return this.#update(id, encodeRow(replacement, this.#schema));
      await this.#put([replacement]);
      await this.deleteItem(old.client_id);
    });
  }

  /**
   * Compares stored values, as HiveMind's own plugin does: JSON columns as text, permissions as 0
   * and 1. NULL equals nothing.
   */
  async searchByValue(key: string, value: string | number | boolean | null): Promise<Client[]> {
    if (key === "api_key" && value === revokedApiKey) return [];
    const column = [...this.#schema.columns].find((name) => name === key);
    if (column === undefined) return [];
    const rows = await this.#reader.all<Row>(`${select} WHERE ${column} = ? ORDER BY client_id`, [
      value,
    ]);
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

  /** Combines concurrent calls, as with `Promise.all`, into a few queries. */
  getClientByApiKey(apiKey: string): Promise<Client | undefined> {
    if (apiKey === revokedApiKey) return Promise.resolve(undefined);
    return this.#byApiKey.load(apiKey);
  }

  refresh(clientId: number): Promise<Client | undefined> {
    return this.getClientById(clientId);
  }

  async size(): Promise<number> {
    const [row] = await this.#reader.all<{ size: number }>("SELECT count(*) AS size FROM clients");
    return row?.size ?? 0;
  }

  async counts(): Promise<ClientCounts> {
    const [row] = await this.#reader.all<ClientCounts>(
      `SELECT count(*) FILTER (WHERE api_key <> ?1) AS active,
        count(*) FILTER (WHERE api_key = ?1) AS revoked FROM clients`,
      [revokedApiKey],
    );
    return row ?? { active: 0, revoked: 0 };
  }

  /**
   * Returns the administrators as a hub reads the column, in the order of their ids. Any value
   * except NULL, zero, the empty text and the empty blob counts.
   *
   * @throws {@link StoreError} refused - if an id would be rounded
   */
  async admins(): Promise<Pick<Client, "client_id" | "name">[]> {
    const rows = await this.#reader.all<Pick<Row, "exact_id" | "name">>(
      `SELECT CAST(client_id AS TEXT) AS exact_id, name FROM clients
        WHERE is_admin NOT IN (0, '', x'') ORDER BY client_id`,
    );
    return rows.map(({ exact_id, name }) => ({
      client_id: parseExactInteger(exact_id, "a client_id"),
      name: decodeText(name),
    }));
  }

  /**
   * Returns the highest id plus one, so ids of revoked clients are not reused. Must be called in
   * the transaction that uses the id.
   *
   * @throws {@link StoreError} refused - if the id would be rounded
   */
  async nextClientId(): Promise<number> {
    const [row] = await this.#reader.all<{ next: string }>(
      "SELECT CAST(coalesce(max(client_id), 0) + 1 AS TEXT) AS next FROM clients",
    );
    return parseExactInteger(row?.next ?? "1", "the next client_id");
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Client> {
    for await (const batch of this.batches()) yield* batch;
  }

  async *batches(): AsyncGenerator<Client[]> {
    for await (const page of this.pages()) yield page.map(decodeRow);
  }

  /** Checks the ids and times for which `decodeRow` throws. */
  async *idBatches(): AsyncGenerator<IdBatch> {
    for await (const page of this.#reader.idPages()) {
      for (const digits of [page.lowest, page.highest]) parseExactInteger(digits, "a client_id");
      if (page.exact_last_seen !== null) parseExactInteger(page.exact_last_seen, "a last_seen");
      yield { ids: JSON.parse(page.ids) as number[], revoked: page.revoked };
    }
  }

  async readVerifiable(): Promise<VerifiableRead> {
    const mark = await this.#changeMark();
    const isUnchanged = async () => (await this.#changeMark()) === mark;
    return { batches: this.batches(), isUnchanged };
  }

  /** Combines the commits of other connections and the row changes of this connection. */
  async #changeMark(): Promise<string> {
    const [row] = await this.#reader.all<{ mark: string }>(
      "SELECT data_version || ' ' || total_changes() AS mark FROM pragma_data_version",
    );
    return String(row?.mark);
  }

  /** Yields the rows of a range in the order of their ids, a page at a time. */
  pages(range: IdRange = allIds): AsyncGenerator<Row[]> {
    return this.#reader.pages(range);
  }

  /** Has no effect: a change is committed when its promise resolves. */
  async commit(): Promise<void> {}

  /** Reads the table's columns again, because another program may have changed them. */
  async sync(): Promise<void> {
    this.#schema = await readSchema(this.connection);
  }

  /** Migrates the table to the newest schema. HiveMind 4 does not enforce the blacklists there. */
  async migrate(fromVersion: number): Promise<void> {
    if (fromVersion >= newestSchema) return;
    await migrateSchema(this.connection);
    await this.sync();
  }

  /**
   * Runs `body` in a transaction, rolled back if it throws.
   *
   * Reads the schema first if it has changed: after a migration by a hub, blacklists in the old
   * columns would have no effect.
   */
  transaction<T>(body: () => Promise<T>): Promise<T> {
    return this.connection.transaction(async () => {
      const [row] = await this.#reader.all<{ stamp: string }>(
        `SELECT schema_version || ' ' || user_version AS stamp
          FROM pragma_schema_version, pragma_user_version`,
      );
      const stamp = row?.stamp ?? "";
      if (stamp !== this.#stamp) await this.sync();
      this.#stamp = stamp;
      try {
        return await body();
      } catch (error) {
        // A column added by `body` is rolled back as well.
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

  async #put(clients: readonly Client[]): Promise<WrittenBatch> {
    for (const client of clients) assertValidClient(client);
    // The last of several clients with the same id wins.
    const byId = new Map(clients.map((client) => [client.client_id, client]));
    await this.#reader.growCache(writeCacheBytes);
    const ids = JSON.stringify([...byId.keys()]);
    const inserted: Values[] = [];
    await this.transaction(async () => {
      for (const row of await this.#rowsById([...byId.keys()])) {
        const client = byId.get(Number(row.exact_id));
        if (client === undefined) continue;
        await this.#replace(row, client);
        byId.delete(client.client_id);
      }
      await insertRows(this.connection, [...byId.values()], async (some) => {
        const rows = some.map((client) => encodeRow(client, this.#schema));
        await this.#ensureMetadataColumn(rows);
        inserted.push(...rows);
        return { columns: [...this.#schema.columns], rows };
      });
    });
    return { ids, digest: digestOf(packRows([...this.#schema.columns], inserted)) };
  }

  async #replace(row: Row, client: Client): Promise<void> {
    await this.#update(client.client_id, findChangedColumns(row, client, this.#schema));
  }

  async #update(clientId: number, values: Values): Promise<void> {
    await this.#ensureMetadataColumn([values]);
    const columns = [...this.#schema.columns].filter((column) => Object.hasOwn(values, column));
    if (columns.length === 0) return;
    const assignments = columns.map((column) => `${column} = ?`);
    await this.#reader.run(`UPDATE clients SET ${assignments.join(", ")} WHERE client_id = ?`, [
      ...columns.map((column) => values[column] ?? null),
      clientId,
    ]);
  }

  /** Adds the column missing from HiveMind 4's table if there is metadata to write. */
  async #ensureMetadataColumn(rows: readonly Values[]): Promise<void> {
    if (this.#schema.columns.has("metadata")) return;
    if (!rows.some(({ metadata = "{}" }) => metadata !== "{}")) return;
    await addMetadataColumn(this.connection);
    await this.sync();
  }

  async #rowById(clientId: number): Promise<Row | undefined> {
    const [row] = await this.#reader.all<Row>(`${select} WHERE client_id = ?`, [clientId]);
    return row;
  }

  #rowsById(clientIds: readonly number[]): Promise<Row[]> {
    return this.#reader.rows(withIds, [JSON.stringify(clientIds)]);
  }

  /** Finds rows by api_key: for each key, the row with the lowest id. */
  async #rowsByApiKey(
    apiKeys: readonly string[],
    queue: StatementQueue,
  ): Promise<ReadonlyMap<string, Row>> {
    await this.#reader.growCache(lookupCacheBytes);
    const selection = "WHERE api_key IN (SELECT value FROM json_each(?))";
    const rows = await this.#reader.rows(selection, [JSON.stringify(apiKeys)], queue);
    const byKey = new Map<string, Row>();
    for (const row of rows) {
      const apiKey = String(row.api_key);
      const known = byKey.get(apiKey);
      // Two large ids may round to the same number here. `decodeRow` then throws for the row.
      const isFirst = known === undefined || Number(row.client_id) < Number(known.client_id);
      if (isFirst) byKey.set(apiKey, row);
    }
    return byKey;
  }
}
