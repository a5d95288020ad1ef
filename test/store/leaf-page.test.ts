/** Pages that SQLite has written are parsed in test/restore/comparison.test.ts. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { parseLeaf } from "../../src/store/leaf-page.js";

/** Returns a page of 976 bytes with the cells at its end. */
function pageOf(...cells: readonly number[][]): Buffer {
  const page = Buffer.alloc(976);
  page.writeUInt8(0x0d, 0);
  page.writeUInt16BE(cells.length, 3);
  let end = page.length;
  for (const [index, cell] of cells.entries()) {
    end -= cell.length;
    page.set(cell, end);
    page.writeUInt16BE(end, 8 + 2 * index);
  }
  return page;
}

const bytes = (count: number) => Array.from({ length: count }, () => 1);
const highestId = [0x8f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];

test("the ids of a leaf and the overflow pages of its long rows are found", () => {
  const short = [2, 5, 1, 1];
  // 941 bytes fit, with 942 the row continues after 97: the numbers of SQLite's documentation.
  const fitting = [0x87, 0x2d, 6, ...bytes(941)];
  const long = [0x87, 0x2e, 0x81, 0x00, ...bytes(97), 0, 0, 1, 2];
  expect(parseLeaf(pageOf(short, long))).toEqual({ first: 5, last: 128, overflows: [258] });
  expect(parseLeaf(pageOf(fitting))).toEqual({ first: 6, last: 6, overflows: [] });
  const negative = [1, ...Array.from({ length: 9 }, () => 0xff), 1];
  const last = Number.MAX_SAFE_INTEGER;
  expect(parseLeaf(pageOf(negative, [1, ...highestId, 1]))).toMatchObject({ first: -1, last });
});

test("a page without rows, with ids out of order, or with a cell beyond its end is not understood", () => {
  expect(parseLeaf(pageOf())).toBeUndefined();
  expect(parseLeaf(pageOf([1, 5, 1], [1, 5, 1]))).toBeUndefined();
  expect(parseLeaf(pageOf([3, 5, 1, 1]))).toBeUndefined();
  expect(parseLeaf(pageOf([1, 0x90, ...highestId.slice(1, -1), 0x80, 0x00, 1]))).toBeUndefined();
});

test("any bytes are parsed or rejected", () => {
  // SQLite's pages have at least 480 usable bytes.
  const page = fc.uint8Array({ minLength: 480, maxLength: 976 });
  fc.assert(fc.property(page, (content) => void parseLeaf(Buffer.from(content))));
});
