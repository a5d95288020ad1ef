/** Writes many clients with few statements, in transactions short enough for a running hub. */
import { setImmediate } from "node:timers/promises";
import type { Values } from "./client-row.js";
import type { Connection, Statement } from "./connection.js";
import type { Column } from "./schema.js";

/**
 * Items in a batch: as many as take `batchMs` to write, within these limits, and at most twice as
 * many as in the batch before.
 */
const minBatch = 500;
const maxBatch = 5_000;
const batchMs = 250;

/** Yields to the event loop after this many items, so that the previous batch is written. */
const yieldEvery = 100;

/**
 * Rows in an INSERT. With 500 rows, a row takes 18 µs of CPU time; with one row, 110 µs. (A JSON
 * text of all rows would be as fast, but SQLite rounds the last digit of some numbers in JSON.)
 */
const rowsPerStatement = 500;

/**
 * Collects items into batches and passes each to `write`, which runs while the next batch is
 * collected.
 *
 * @returns the number of items
 */
export async function writeInBatches<Item>(
  items: Iterable<Item> | AsyncIterable<Item>,
  write: (batch: readonly Item[]) => Promise<void>,
): Promise<number> {
  let count = 0;
  let size = minBatch;
  let batch: Item[] = [];
  let written = Promise.resolve(size);
  try {
    for await (const item of items) {
      batch.push(item);
      count += 1;
      if (batch.length % yieldEvery === 0) await setImmediate();
      if (batch.length < size) continue;
      size = await written;
      written = writeTimed(batch, write);
      // The next `await written` throws the error. Prevent an unhandled rejection before it.
      written.catch(() => undefined);
      batch = [];
    }
  } finally {
    await written;
  }
  await write(batch);
  return count;
}

/** Writes a batch. Returns the size at which the next batch should take `batchMs`. */
async function writeTimed<Item>(
  batch: readonly Item[],
  write: (batch: readonly Item[]) => Promise<void>,
): Promise<number> {
  const start = performance.now();
  await write(batch);
  const fitting = (batch.length * batchMs) / (performance.now() - start);
  return Math.max(minBatch, Math.min(maxBatch, 2 * batch.length, Math.floor(fitting)));
}

/** Rows to insert, and the columns of the table. */
export interface EncodedRows {
  readonly columns: readonly Column[];
  readonly rows: readonly Values[];
}

/**
 * Inserts clients into the table. Encodes the next rows while SQLite runs the previous INSERT.
 *
 * @param encode - called with at most `rowsPerStatement` items. It may add a column to the table,
 *   and so returns the columns each time.
 */
export async function insertRows<Item>(
  connection: Connection,
  items: readonly Item[],
  encode: (items: readonly Item[]) => Promise<EncodedRows>,
): Promise<void> {
  const statements = new Map<string, Statement>();
  const running: Promise<unknown>[] = [];
  try {
    for (let start = 0; start < items.length; start += rowsPerStatement) {
      const encoded = await encode(items.slice(start, start + rowsPerStatement));
      const { sql, params } = buildInsert(encoded);
      const statement = statements.get(sql) ?? (await connection.prepare(sql));
      statements.set(sql, statement);
      const run = statement.run(params);
      run.catch(() => undefined);
      running.push(run);
      // At most two statements are queued: one runs, and one waits.
      await running.at(-2);
    }
  } finally {
    // The transaction ends next, so no statement may still be running.
    await Promise.allSettled(running);
    for (const statement of statements.values()) await statement.finalize();
  }
  await Promise.all(running);
}

/** Returns an INSERT of several rows. A value common to all rows is bound once: binding is slow. */
function buildInsert({ columns, rows }: EncodedRows) {
  const boundValue = (row: Values | undefined, column: Column) => row?.[column] ?? null;
  const shared = columns.filter((column) =>
    rows.every((row) => boundValue(row, column) === boundValue(rows[0], column)),
  );
  const own = columns.filter((column) => !shared.includes(column));
  const params = shared.map((column) => boundValue(rows[0], column));
  const sharedPlaceholders = shared.map((_, index) => `?${index + 1}`);
  const values = rows.map((row) => {
    const placeholders = own.map((column) => `?${params.push(boundValue(row, column))}`);
    return `(${[...sharedPlaceholders, ...placeholders].join(", ")})`;
  });
  const sql = `INSERT INTO clients (${[...shared, ...own].join(", ")}) VALUES ${values.join(", ")}`;
  return { sql, params };
}
