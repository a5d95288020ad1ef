/**
 * Compares two databases inside SQLite: the type and value of every column, the rows of every
 * table, and the schema. Only counts leave SQLite, so memory does not grow with the store.
 */
import { StoreError } from "../errors.js";
import { throwIfAborted } from "../process/abort.js";
import type { Connection } from "./connection.js";

/** The number of row id ranges in a table, shared by the connections. */
const rangesPerTable = 64;

/** The name of the attached other database. */
export type Attached = "replaced" | "staged";

/**
 * Compares the main database of a connection with an attached database. Further connections with
 * the same two databases share the work.
 *
 * @throws {@link StoreError} corrupted - if they differ; the message names the first difference
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function compareDatabases(
  connections: readonly [Connection, ...Connection[]],
  other: Attached,
  signal: AbortSignal,
): Promise<void> {
  const [connection] = connections;
  await compareSchema(connection, other);
  for (const table of await findTables(connection)) {
    const rows = await countRows(connection, table, other);
    let same = 0;
    const ranges = await splitIntoRanges(connection, table);
    const work = connections.map(async (worker) => {
      for (let range = ranges.shift(); range !== undefined; range = ranges.shift()) {
        throwIfAborted(signal);
        // `same += await …` would read `same` before the await, and lose the other workers' counts.
        const found = await countSame(worker, table, other, range);
        same += found;
      }
    });
    await Promise.all(work);
    if (rows.main !== rows.other || same !== rows.main) {
      throw new StoreError(
        "corrupted",
        `the table ${table.name} was not copied completely: it has ${rows.other} and ${rows.main} rows in the two files, and ${same} of them are equal`,
      );
    }
  }
}

interface Table {
  readonly name: string;
  readonly columns: readonly string[];
  /**
   * Columns that identify a row: the row id if a column is an alias of it, or the primary key of a
   * WITHOUT ROWID table. Otherwise empty: an export renumbers the rows, so their contents are
   * compared.
   */
  readonly key: readonly string[];
  /** Whether `key` is the row id. */
  readonly isKeyRowId: boolean;
}

async function compareSchema(connection: Connection, other: Attached): Promise<void> {
  const difference = (left: string, right: string) =>
    connection.get<{ name: string }>(
      `SELECT type, name, tbl_name, sql FROM ${left}.sqlite_schema
       EXCEPT SELECT type, name, tbl_name, sql FROM ${right}.sqlite_schema`,
    );
  const found = (await difference("main", other)) ?? (await difference(other, "main"));
  if (found) {
    throw new StoreError(
      "corrupted",
      `the schema was not copied completely: ${found.name} differs`,
    );
  }
  for (const pragma of ["user_version", "application_id"]) {
    const read = async (schema: string) =>
      (await connection.get<Record<string, number>>(`PRAGMA ${schema}.${pragma}`))?.[pragma];
    if ((await read("main")) !== (await read(other))) {
      throw new StoreError("corrupted", `the schema was not copied completely: ${pragma} differs`);
    }
  }
}

/**
 * Returns the tables that store rows, also those that store the rows of virtual tables, without the
 * planner's statistics.
 */
async function findTables(connection: Connection): Promise<Table[]> {
  const found = await connection.all<{ name: string; wr: number }>(
    `SELECT name, wr FROM pragma_table_list
     WHERE schema = 'main' AND type IN ('table', 'shadow')
       AND name <> 'sqlite_schema' AND name NOT GLOB 'sqlite_stat*'`,
  );
  const tables: Table[] = [];
  for (const { name, wr } of found) {
    const columns = await connection.all<{ name: string; type: string; pk: number }>(
      "SELECT name, type, pk FROM pragma_table_xinfo(?, 'main') WHERE hidden = 0",
      [name],
    );
    const names = columns.map((column) => column.name);
    // A column may have one of the three names of the row id, and hides it.
    const rowId = ["_rowid_", "rowid", "oid"].find(
      (alias) => !names.some((column) => column.toLowerCase() === alias),
    );
    const primaryKey = columns.filter(({ pk }) => pk > 0);
    // A primary key of one INTEGER column is the row id itself, unless it is declared DESC: SQLite
    // then creates an index for it.
    const isRowId = primaryKey.length === 1 && primaryKey[0]?.type.toUpperCase() === "INTEGER";
    const isKeyRowId =
      wr === 0 && rowId !== undefined && isRowId && !(await hasKeyIndex(connection, name));
    const keyNames = wr === 0 ? [] : primaryKey.map((column) => column.name);
    tables.push({ name, columns: names, key: isKeyRowId ? [rowId] : keyNames, isKeyRowId });
  }
  return tables;
}

async function hasKeyIndex(connection: Connection, table: string): Promise<boolean> {
  const indexes = await connection.all(
    "SELECT name FROM pragma_index_list(?, 'main') WHERE origin = 'pk'",
    [table],
  );
  return indexes.length > 0;
}

async function countRows(connection: Connection, { name }: Table, other: Attached) {
  const row = await connection.get<{ main: number; other: number }>(
    `SELECT (SELECT count(*) FROM main.${quoteName(name)}) AS main,
            (SELECT count(*) FROM ${other}.${quoteName(name)}) AS other`,
  );
  return row ?? { main: 0, other: 0 };
}

/** Returns SQL conditions on rows of `main` that partition the table. */
async function splitIntoRanges(connection: Connection, table: Table): Promise<string[]> {
  if (!table.isKeyRowId) return ["1"];
  const [rowId = ""] = table.key;
  // Read the ids as text: a JavaScript number does not have the 64 bits of a row id.
  const bounds = await connection.get<{ low: string | null; high: string | null }>(
    `SELECT CAST(min(${rowId}) AS TEXT) AS low, CAST(max(${rowId}) AS TEXT) AS high
     FROM main.${quoteName(table.name)}`,
  );
  if (!bounds?.low || !bounds.high) return ["1"];
  const low = BigInt(bounds.low);
  const high = BigInt(bounds.high);
  const step = (high - low) / BigInt(rangesPerTable) + 1n;
  const ranges: string[] = [];
  for (let from = low; from <= high; from += step) {
    const to = from + step - 1n < high ? from + step - 1n : high;
    ranges.push(`a.${rowId} BETWEEN ${from} AND ${to}`);
  }
  return ranges;
}

async function countSame(
  connection: Connection,
  table: Table,
  other: Attached,
  range: string,
): Promise<number> {
  const name = quoteName(table.name);
  if (table.key.length === 0) return countSameContents(connection, table, other);
  // Do not quote a row id, because SQLite would treat it as a column.
  const quotedKey = table.key.map((key) => (table.isKeyRowId ? key : quoteName(key)));
  const sameKey = quotedKey.map((key) => `b.${key} IS a.${key}`);
  const sameValues = table.columns.map(
    (name) =>
      `typeof(a.${quoteName(name)}) = typeof(b.${quoteName(name)})
       AND a.${quoteName(name)} IS b.${quoteName(name)} COLLATE BINARY`,
  );
  const row = await connection.get<{ same: number }>(
    `SELECT count(*) AS same FROM main.${name} AS a CROSS JOIN ${other}.${name} AS b
     WHERE ${[range, ...sameKey, ...sameValues].join(" AND ")}`,
  );
  return row?.same ?? 0;
}

/**
 * Counts the rows with an equal number of occurrences in both databases, for a table without key.
 */
async function countSameContents(
  connection: Connection,
  table: Table,
  other: Attached,
): Promise<number> {
  const values = table.columns.flatMap((column) => [
    `typeof(${quoteName(column)})`,
    `${quoteName(column)} COLLATE BINARY`,
  ]);
  const counted = (database: string) =>
    `SELECT count(*) AS times, ${values.join(", ")} FROM ${database}.${quoteName(table.name)} GROUP BY ${values.join(", ")}`;
  const row = await connection.get<{ same: number }>(
    `SELECT ifnull(sum(times), 0) AS same FROM (${counted("main")} INTERSECT ${counted(other)})`,
  );
  return row?.same ?? 0;
}

function quoteName(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
