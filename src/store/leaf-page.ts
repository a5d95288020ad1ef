/**
 * Parses the leaf pages of an SQLite table: which rows they contain, and where a long row
 * continues.
 *
 * The format is https://www.sqlite.org/fileformat2.html#b_tree_pages. A leaf of a table begins with
 * a header of 8 bytes, and the offsets of its cells in the order of their row ids. A cell consists
 * of the row's size, the row's id, and the row. If a row does not fit into its cell, the cell ends
 * with the number of the first of a list of overflow pages, on which the row continues.
 */

export const pageKinds = {
  /**
   * An overflow page, or a page of the list of free pages. Both begin with the number of the next
   * page in their list. Its first byte is 0 in a database of fewer than 2^24 pages.
   */
  linked: 0x00,
  indexInterior: 0x02,
  tableInterior: 0x05,
  indexLeaf: 0x0a,
  tableLeaf: 0x0d,
} as const;

const headerBytes = 8;
const cellCountAt = 3;

export interface LeafPage {
  /** The lowest and the highest row id. */
  readonly first: number;
  readonly last: number;
  /** The first overflow pages of long rows. */
  readonly overflows: readonly number[];
}

/**
 * Returns what a leaf page contains, or undefined if it has no rows, a row id beyond 2^53 - 1, or
 * another format.
 *
 * @param page - the content of a page other than the first, without its reserve
 */
export function parseLeaf(page: Buffer): LeafPage | undefined {
  const count = page.readUInt16BE(cellCountAt);
  const ids: number[] = [];
  const overflows: number[] = [];
  for (let index = 0; index < count; index++) {
    const pointer = headerBytes + 2 * index;
    if (pointer + 2 > page.length) return undefined;
    const cell = parseCell(page, page.readUInt16BE(pointer));
    if (cell === undefined) return undefined;
    ids.push(cell.id);
    if (cell.overflow !== undefined) overflows.push(cell.overflow);
  }
  if (ids.some((id, index) => index > 0 && id <= (ids[index - 1] ?? id))) return undefined;
  const [first] = ids;
  const last = ids.at(-1);
  return first === undefined || last === undefined ? undefined : { first, last, overflows };
}

function parseCell(page: Buffer, at: number): { id: number; overflow?: number } | undefined {
  const size = readVarint(page, at);
  const rowId = size && readVarint(page, size.end);
  if (!rowId) return undefined;
  const id = Number(BigInt.asIntN(64, rowId.value));
  const bytes = Number(size.value);
  if (!Number.isSafeInteger(id) || !Number.isSafeInteger(bytes)) return undefined;
  const local = localBytes(bytes, page.length);
  const end = rowId.end + local;
  if (local === bytes) return end <= page.length ? { id } : undefined;
  return end + 4 <= page.length ? { id, overflow: page.readUInt32BE(end) } : undefined;
}

/** Returns how many bytes of a row of this size are in its leaf page. */
function localBytes(size: number, usable: number): number {
  if (size <= usable - 35) return size;
  const least = Math.trunc(((usable - 12) * 32) / 255) - 23;
  const fitting = least + ((size - least) % (usable - 4));
  return fitting <= usable - 35 ? fitting : least;
}

/** Reads an integer of 1 to 9 bytes: 7 bits of each, and 8 of the ninth. */
function readVarint(page: Buffer, at: number): { value: bigint; end: number } | undefined {
  let value = 0n;
  for (let end = at; end < page.length; ) {
    const byte = page[end++] ?? 0;
    if (end - at === 9) return { value: (value << 8n) | BigInt(byte), end };
    value = (value << 7n) | BigInt(byte & 0x7f);
    if (byte < 0x80) return { value, end };
  }
  return undefined;
}
