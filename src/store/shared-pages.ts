/**
 * Compares copies of an encrypted store with the store page by page, to order the copies by age.
 *
 * SQLCipher writes each page with a new random IV. A page with the same IV in a copy and in the
 * store was therefore not written after the copy was made, and is the same in every later copy. So
 * the later of two copies shares at least as many pages with the store.
 */
import { type FileHandle, open } from "node:fs/promises";
import { hasCode, systemError } from "../errors.js";
import { readUpTo } from "../fs/read.js";
import type { CipherCompatibility } from "./cipher.js";
import { ivBytes, pageLayouts } from "./page-cipher.js";
import { readWal } from "./wal.js";

/** The IV of each page of a file, one after the other. */
export type PageIvs = Buffer;

/** Pages read at a time. */
const pagesAtOnce = 256;

/**
 * Returns the IVs of a store that other processes may have open. Reads the log before the file: a
 * page that a checkpoint moves between the two reads is then found in the file.
 *
 * Must not be called while this process has the store open: closing a descriptor of its file drops
 * SQLite's locks on it.
 *
 * @throws {@link StoreError} io - if a file cannot be read
 */
export async function readStoreIvs(path: string, format: CipherCompatibility): Promise<PageIvs> {
  const logged = await readLoggedIvs(`${path}-wal`, format);
  const ivs = await readCopyIvs(path, format);
  let pages = ivs.length / ivBytes;
  for (const page of logged.keys()) pages = Math.max(pages, page);
  const all = Buffer.concat([ivs], pages * ivBytes);
  for (const [page, iv] of logged) iv.copy(all, (page - 1) * ivBytes);
  return all;
}

/**
 * Returns the IVs of a copy that no process writes to.
 *
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function readCopyIvs(path: string, format: CipherCompatibility): Promise<PageIvs> {
  const { pageBytes } = pageLayouts[format];
  const ivs: Buffer[] = [];
  try {
    await using file = await open(path);
    const buffer = Buffer.alloc(pageBytes * pagesAtOnce);
    for (let at = 0; ; at += buffer.length) {
      const bytes = await readUpTo(file, buffer, at);
      for (let end = pageBytes; end <= bytes; end += pageBytes) {
        ivs.push(Buffer.from(ivOf(buffer.subarray(end - pageBytes, end), format)));
      }
      if (bytes < buffer.length) return Buffer.concat(ivs);
    }
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
}

/** Returns the number of pages common to both files. */
export function countSharedPages(a: PageIvs, b: PageIvs): number {
  let shared = 0;
  for (let at = 0; at < Math.min(a.length, b.length); at += ivBytes) {
    if (a.compare(b, at, at + ivBytes, at, at + ivBytes) === 0) shared += 1;
  }
  return shared;
}

/** Returns the IVs of the pages in a log, by page number; none without a log. */
async function readLoggedIvs(
  path: string,
  format: CipherCompatibility,
): Promise<Map<number, Buffer>> {
  try {
    await using log = await open(path);
    const changes = await readWal(log);
    if (typeof changes === "string") return new Map();
    return await readIvs(log, changes.pages, format);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return new Map();
    throw systemError(error, `cannot read ${path}`);
  }
}

async function readIvs(
  log: FileHandle,
  pages: ReadonlyMap<number, number>,
  format: CipherCompatibility,
): Promise<Map<number, Buffer>> {
  const ivs = new Map<number, Buffer>();
  const content = Buffer.alloc(pageLayouts[format].pageBytes);
  for (const [page, at] of pages) {
    await readUpTo(log, content, at);
    ivs.set(page, Buffer.from(ivOf(content, format)));
  }
  return ivs;
}

function ivOf(page: Buffer, format: CipherCompatibility): Buffer {
  const { pageBytes, reserveBytes } = pageLayouts[format];
  return page.subarray(pageBytes - reserveBytes, pageBytes - reserveBytes + ivBytes);
}
