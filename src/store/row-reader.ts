/**
 * Reads many rows of the table of clients: packed, by prepared statements, with a sized page cache.
 */
import { totalmem } from "node:os";
import { revokedApiKey } from "../client/client.js";
import type { StatementQueue } from "./batch-loader.js";
import { exactLastSeen, type Row, rowColumns } from "./client-row.js";
import type { Connection, SqlValue, Statement } from "./connection.js";
import { buildPackedSelect, type PackedRows, unpackRows } from "./packed-rows.js";
import { type Column, pageRows } from "./schema.js";

/**
 * Sizes of SQLite's page cache, in bytes. With SQLite's default of 2 MB, a page is decrypted and
 * verified again each time a lookup returns to it.
 */
export const writeCacheBytes = 32 << 20;
export const lookupCacheBytes = 256 << 20;
/** The cache's largest share of the machine's memory. */
const cacheMemoryShare = 1 / 8;

/** The ids between two ids, without these; undefined is no limit. */
export interface IdRange {
  readonly after: number | undefined;
  readonly before: number | undefined;
}

export const allIds: IdRange = { after: undefined, before: undefined };

const lowestId = "-9223372036854775808";
/** Ids in a page: about 100 kilobytes. */
const idPageRows = 10_000;

export interface IdPage {
  /** A list in JSON. */
  readonly ids: string;
  readonly revoked: number;
  /** The digits of an id. */
  readonly lowest: string;
  readonly highest: string;
  /** As in `Row`, of any row in the page. */
  readonly exact_last_seen: string | null;
}

export class RowReader {
  readonly #connection: Connection;
  readonly #columns: () => readonly Column[];
  /** Statements by queue and SQL. The connection finalizes them. */
  readonly #statements = new Map<string, Promise<Statement>>();
  #cacheLimit = 0;

  /** @param columns - returns the known columns of the table */
  constructor(connection: Connection, columns: () => readonly Column[]) {
    this.#connection = connection;
    this.#columns = columns;
  }

  /**
   * Returns the selected rows.
   *
   * @param queue - overlapping queries need different queues, because a statement cannot run again
   *   before its last rows are decoded
   */
  async rows(
    selection: string,
    params: readonly SqlValue[] = [],
    queue: StatementQueue = 0,
  ): Promise<Row[]> {
    const columns = this.#columns();
    const sql = buildPackedSelect(columns, selection);
    // An error of any kind occurs again in the plain query.
    const [packed] = await this.all<PackedRows>(sql, params, queue).catch(() => []);
    const rows = packed && unpackRows(columns, packed);
    if (rows) return rows;
    return this.all<Row>(`SELECT ${rowColumns} FROM clients ${selection}`, params, queue);
  }

  /**
   * Returns the text of the selected rows, as `packRows` does, or undefined if they cannot be read,
   * or if the table has other columns now.
   */
  async packed(selection: string, params: readonly SqlValue[]): Promise<string | undefined> {
    const columns = this.#columns();
    const sql = buildPackedSelect(columns, selection);
    // An error of any kind occurs again when the rows are read.
    const [row] = await this.all<PackedRows>(sql, params).catch(() => []);
    return row?.known === columns.length ? row.packed : undefined;
  }

  /**
   * Yields the rows of a range in the order of their ids, a page at a time, and reads the next page
   * while the last is in use. No read stays open between two pages, so writers are not blocked.
   */
  async *pages({ after, before }: IdRange = allIds): AsyncGenerator<Row[]> {
    const end = before === undefined ? "" : "AND client_id < ?";
    const order = `${end} ORDER BY client_id LIMIT ${pageRows}`;
    const limits = before === undefined ? [] : [before];
    const rowsAfter = (id: string, queue: StatementQueue) =>
      this.rows(`WHERE client_id > CAST(? AS INTEGER) ${order}`, [id, ...limits], queue);
    let next =
      after === undefined ? this.rows(`WHERE 1 ${order}`, limits) : rowsAfter(String(after), 0);
    try {
      for (let queue: StatementQueue = 1; ; queue = queue === 1 ? 0 : 1) {
        const page = await next;
        const last = page.at(-1)?.exact_id;
        if (last === undefined) return;
        next = rowsAfter(last, queue);
        // A failure is thrown where it is awaited.
        next.catch(() => undefined);
        yield page;
      }
    } finally {
      // The consumer may close the connection next.
      await next.catch(() => undefined);
    }
  }

  /** Yields the ids of all rows in ascending order. */
  async *idPages(): AsyncGenerator<IdPage> {
    // Reading all columns verifies the pages that a long value continues on.
    const lengths = this.#columns().map((column) => `length(${column})`);
    const sql = `SELECT json_group_array(client_id) AS ids,
      count(*) FILTER (WHERE CAST(api_key AS TEXT) = ?) AS revoked,
      CAST(min(client_id) AS TEXT) AS lowest, CAST(max(client_id) AS TEXT) AS highest,
      max(${exactLastSeen}) AS exact_last_seen, max(max(${lengths.join(", ")})) AS longest
      FROM (SELECT * FROM clients WHERE client_id >= CAST(? AS INTEGER) ORDER BY client_id LIMIT ${idPageRows})`;
    let from = lowestId;
    for (;;) {
      const [page] = await this.all<IdPage>(sql, [revokedApiKey, from]);
      // The minimum of no rows is NULL.
      if (!page?.highest) return;
      yield page;
      from = String(BigInt(page.highest) + 1n);
    }
  }

  /**
   * Grows the page cache to the size of the store, at most to `limit`. A single pass over the table
   * does not need this, because it uses no page again.
   */
  async growCache(limit: number): Promise<void> {
    if (limit <= this.#cacheLimit) return;
    this.#cacheLimit = limit;
    const [row] = await this.all<{ bytes: number }>(
      "SELECT page_count * page_size AS bytes FROM pragma_page_count, pragma_page_size",
    );
    const wanted = Math.max(row?.bytes ?? 0, writeCacheBytes);
    const bytes = Math.min(wanted, limit, availableMemory() * cacheMemoryShare);
    await this.#connection.all(`PRAGMA cache_size = ${-Math.floor(bytes / 1024)}`);
  }

  async all<Result>(
    sql: string,
    params: readonly SqlValue[] = [],
    queue: StatementQueue = 0,
  ): Promise<Result[]> {
    return (await this.#prepare(sql, queue)).all<Result>(params);
  }

  async run(sql: string, params: readonly SqlValue[]): Promise<void> {
    await (await this.#prepare(sql, 0)).run(params);
  }

  #prepare(sql: string, queue: StatementQueue): Promise<Statement> {
    const name = `${queue} ${sql}`;
    const known = this.#statements.get(name);
    if (known !== undefined) return known;
    const statement = this.#connection.prepare(sql);
    this.#statements.set(name, statement);
    statement.catch(() => this.#statements.delete(name));
    return statement;
  }
}

/** Returns the memory available to this process, in bytes. */
function availableMemory(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}
