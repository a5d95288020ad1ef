/**
 * Finds the clients changed by other connections, from the pages in the write-ahead log: the cost
 * depends on the number of changes, not on the size of the store.
 *
 * The result is the ids in written leaf pages. It may contain unchanged rows, but misses no changed
 * row:
 *
 * - A row is in one leaf page and its overflow pages. If none was written, the row is the same. If
 *   its leaf was written, the leaf contains its id.
 * - If only an overflow page of a row was written, its leaf is not in the log, and the row would be
 *   missed. Such a page is neither on the list of a row in a written leaf nor on the list of free
 *   pages. If there is such a page, the result is undefined.
 * - A deleted row is not in any page. But the interior pages divide all possible ids into ranges, a
 *   range for each leaf. SQLite writes a leaf when it deletes a row of the leaf or changes its
 *   range. So a deleted id is in the range of a written leaf. `findRangesAround` covers the range:
 *   from the row before the leaf's first row to the row after its last row.
 *
 * The result is also undefined if the log was restarted and so does not contain all changes, if the
 * schema has changed, or if the store has another format than expected.
 * docs/design/swap-and-recovery.md has the whole argument.
 */
import { readSync } from "node:fs";
import { type FileHandle, realpath } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { openIfExists } from "../fs/read.js";
import type { StoreKey } from "./cipher.js";
import type { Connection } from "./connection.js";
import type { DatabaseHeader } from "./database-header.js";
import { type LeafPage, pageKinds, parseLeaf } from "./leaf-page.js";
import { PageCipher, saltBytes } from "./page-cipher.js";
import type { IdRange } from "./row-reader.js";
import { isCurrent, readWal, type WalChanges, type WalPosition } from "./wal.js";

/** The lowest and the highest id of the rows in a written leaf. */
export type IdSpan = Pick<LeafPage, "first" | "last">;

/** Offsets in the content of the first page: the first free page, and SQLite's schema counter. */
const freeListAt = 32 - saltBytes;
const schemaCounterAt = 40 - saltBytes;
/**
 * From this number of pages, 64 GiB, the first byte of a page number may equal the kind of a page.
 */
const maxPages = 1 << 24;
/** Pages between two pauses for other work: a few milliseconds. */
const pagesBetweenPauses = 256;

export class RowChanges {
  readonly #connection: Connection;
  readonly #key: StoreKey;
  readonly #header: DatabaseHeader;
  #position: WalPosition | undefined;

  /**
   * @param key - of the open store, with the default parameters of its format
   * @param header - of the store's file, read before the connection was opened. While its schema
   *   counter is current, so is its reserve: only VACUUM changes the reserve, and it increases the
   *   counter.
   */
  constructor(connection: Connection, key: StoreKey, header: DatabaseHeader) {
    this.#connection = connection;
    this.#key = key;
    this.#header = header;
  }

  /**
   * Returns the spans of ids in the leaves written since the last call, or undefined if they are
   * not known, as at the first call.
   *
   * Rows read later are at least as new as these changes. While a read transaction is open, the
   * log is not restarted, except once if its pages were all in the main file when the transaction
   * began. The changes are then not known.
   */
  async next(): Promise<readonly IdSpan[] | undefined> {
    const since = this.#position;
    this.#position = undefined;
    const { path } = this.#connection;
    await using log = await openIfExists(`${await realpath(path)}-wal`);
    if (!log) return undefined;
    const changes = await readWal(log, since);
    const read = changes === "restarted" ? await readWal(log) : changes;
    if (typeof read === "string") return undefined;
    this.#position = read.position;
    if (since === undefined || changes === "restarted") return undefined;
    const spans = await new LogPages(log, read, this.#key, this.#header).spans();
    if (!(await isCurrent(log, read.position))) return undefined;
    // Read through SQLite: the log contains the schema counter only if the first page was written,
    // and does not contain the table's definition if it is unchanged.
    return (await readSchemaCounter(this.#connection)) === this.#header.schemaCounter
      ? spans
      : undefined;
  }
}

/** The pages of a log between two positions. */
class LogPages {
  readonly #log: FileHandle;
  readonly #offsets: ReadonlyMap<number, number>;
  readonly #end: WalPosition;
  readonly #cipher: PageCipher;
  readonly #page: Buffer;
  readonly #header: DatabaseHeader;
  /** Pages on the list of free pages, and written overflow pages of rows in written leaves. */
  readonly #explained = new Set<number>();

  constructor(
    log: FileHandle,
    { pages, position }: WalChanges,
    key: StoreKey,
    header: DatabaseHeader,
  ) {
    this.#log = log;
    this.#offsets = pages;
    this.#end = position;
    this.#cipher = new PageCipher(key);
    this.#page = Buffer.alloc(this.#cipher.layout.pageBytes);
    this.#header = header;
  }

  /** @returns undefined if a page is not understood */
  async spans(): Promise<IdSpan[] | undefined> {
    const { pageSize, databasePages = 0 } = this.#end;
    if (pageSize !== this.#page.length || databasePages >= maxPages) return undefined;
    if (this.#offsets.has(1) && !this.#explainFreePages()) return undefined;
    const spans: IdSpan[] = [];
    const linked: number[] = [];
    let read = 0;
    for (const number of this.#offsets.keys()) {
      if (++read % pagesBetweenPauses === 0) await setImmediate();
      if (number === 1 || number > databasePages || this.#explained.has(number)) continue;
      const page = this.#read(number);
      switch (page?.[0]) {
        case pageKinds.tableLeaf: {
          const leaf = parseLeaf(page);
          if (leaf === undefined) return undefined;
          spans.push(leaf);
          for (const overflow of leaf.overflows) this.#explainOverflow(overflow);
          break;
        }
        case pageKinds.linked:
          linked.push(number);
          break;
        case pageKinds.indexInterior:
        case pageKinds.indexLeaf:
        case pageKinds.tableInterior:
          break;
        default:
          return undefined;
      }
    }
    return linked.every((number) => this.#explained.has(number)) ? spans : undefined;
  }

  /**
   * Reads the list of free pages from the first page. SQLite adds and takes pages at the beginning
   * of the list only, so the written pages of the list precede the others.
   *
   * @returns whether the schema is the same, and the list is understood
   */
  #explainFreePages(): boolean {
    const header = this.#read(1);
    if (header?.readUInt32BE(schemaCounterAt) !== this.#header.schemaCounter) return false;
    let trunk = header.readUInt32BE(freeListAt);
    while (this.#offsets.has(trunk) && !this.#explained.has(trunk)) {
      const page = this.#read(trunk);
      const count = page?.readUInt32BE(4) ?? 0;
      if (page === undefined || 8 + 4 * count > page.length) return false;
      this.#explained.add(trunk);
      for (let index = 0; index < count; index++) {
        this.#explained.add(page.readUInt32BE(8 + 4 * index));
      }
      trunk = page.readUInt32BE(0);
    }
    return true;
  }

  #explainOverflow(first: number): void {
    let number = first;
    while (this.#offsets.has(number) && !this.#explained.has(number)) {
      this.#explained.add(number);
      number = this.#read(number)?.readUInt32BE(0) ?? 0;
    }
  }

  /** @returns undefined if the page is not authentic */
  #read(number: number): Buffer | undefined {
    const offset = this.#offsets.get(number);
    if (offset === undefined) return undefined;
    const bytes = readSync(this.#log.fd, this.#page, 0, this.#page.length, offset);
    const isWhole = bytes === this.#page.length && this.#cipher.isAuthentic(this.#page, number);
    if (!isWhole) return undefined;
    const content = this.#cipher.decrypt(this.#page, number);
    // The reserve may be larger than the cipher requires.
    const usable = this.#page.length - this.#header.reserveBytes;
    return number === 1 ? content : content.subarray(0, usable);
  }
}

/**
 * Returns SQLite's schema counter, or undefined if rows are not stored by their `client_id`, or
 * the file contains further kinds of pages (auto-vacuum).
 */
async function readSchemaCounter(connection: Connection): Promise<number | undefined> {
  const row = await connection.get<{ schema: number }>(
    `SELECT schema_version AS schema
     FROM pragma_schema_version, pragma_auto_vacuum, pragma_table_list AS tables,
       pragma_table_info('clients', 'main') AS id
     WHERE auto_vacuum = 0
       AND tables.schema = 'main' AND tables.name = 'clients'
       AND tables.type = 'table' AND tables.wr = 0
       AND id.name = 'client_id' AND id.type = 'INTEGER' AND id.pk = 1
       AND NOT EXISTS (SELECT 1 FROM pragma_table_info('clients', 'main') WHERE pk > 1)
       AND NOT EXISTS (SELECT 1 FROM pragma_index_list('clients', 'main') WHERE origin = 'pk')`,
  );
  return row?.schema;
}

/**
 * Returns the ranges from the row before each span to the row after it, in the order of ids,
 * without overlaps.
 */
export async function findRangesAround(
  connection: Connection,
  spans: readonly IdSpan[],
): Promise<IdRange[]> {
  const rows = await connection.all<{ after: number | null; before: number | null }>(
    `SELECT (SELECT max(client_id) FROM clients WHERE client_id < span.value ->> 0) AS after,
       (SELECT min(client_id) FROM clients WHERE client_id > span.value ->> 1) AS before
     FROM json_each(?) AS span ORDER BY span.value ->> 0`,
    [JSON.stringify(spans.map(({ first, last }) => [first, last]))],
  );
  const ranges: IdRange[] = [];
  for (const row of rows) {
    const [after, before] = [row.after ?? undefined, row.before ?? undefined];
    const last = ranges.at(-1);
    if (last && overlap(last.before, after)) {
      ranges[ranges.length - 1] = { after: last.after, before: furthest(last.before, before) };
    } else {
      ranges.push({ after, before });
    }
  }
  return ranges;
}

function overlap(end: number | undefined, start: number | undefined): boolean {
  return end === undefined || start === undefined || start < end;
}

function furthest(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : Math.max(a, b);
}
