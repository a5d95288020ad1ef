/**
 * Verifies the HMAC of each page of an encrypted database (docs/reference/formats.md, section 1).
 *
 * SQLCipher's own `PRAGMA cipher_integrity_check` takes three times as long. It also counts bytes
 * in 32 bits, so it reports every page beyond 4 GiB as bad.
 */
import type { Hash } from "node:crypto";
import { open, stat } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { systemError } from "../errors.js";
import { readUpTo } from "../fs/read.js";
import type { StoreKey } from "./cipher.js";
import type { Connection } from "./connection.js";
import { isLockPage, lockPageOffset, PageCipher } from "./page-cipher.js";

/** Bytes in a read. Their HMACs take about two milliseconds. */
const chunkBytes = 1 << 20;

export interface PageCheck {
  /** Is updated with the bytes of the file, so that the file is read once. */
  readonly hash?: Hash | undefined;
  /** Checks only the lock page: see {@link isReadByIntegrityCheck}. */
  readonly onlyLockPage?: boolean;
}

/**
 * Returns a message for each bad page of a file.
 *
 * Only for copies: closing a file open as a database in this process drops SQLite's locks on it.
 *
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function findPageErrors(
  path: string,
  key: StoreKey,
  { hash, onlyLockPage = false }: PageCheck = {},
): Promise<string[]> {
  const cipher = new PageCipher(key);
  const { pageBytes } = cipher.layout;
  const errors: string[] = [];
  const isOnePage = onlyLockPage && !hash;
  try {
    await using file = await open(path, "r");
    const buffer = Buffer.alloc(isOnePage ? pageBytes : chunkBytes);
    for (let at = isOnePage ? lockPageOffset : 0; ; ) {
      const found = await readUpTo(file, buffer, at);
      if (found === 0) return errors;
      hash?.update(buffer.subarray(0, found));
      const rest = found % pageBytes;
      if (rest > 0) errors.push(`the last page has ${rest} bytes of ${pageBytes}`);
      for (let start = 0; start < found - rest; start += pageBytes, at += pageBytes) {
        if (onlyLockPage && at !== lockPageOffset) continue;
        const page = buffer.subarray(start, start + pageBytes);
        const number = at / pageBytes + 1;
        if (cipher.isAuthentic(page, number) || isLockPage(page, number)) continue;
        errors.push(`HMAC verification failed for page ${number}`);
      }
      if (rest > 0 || isOnePage) return errors;
      // Yield to other work: with the file in the page cache, this loop would run without a pause.
      await setImmediate();
    }
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
}

/**
 * Returns whether `PRAGMA integrity_check` reads every page of an immutable file except the lock
 * page, if it finds no error. SQLCipher authenticates each page that SQLite reads, so the HMACs
 * need not be computed a second time.
 *
 * SQLite follows every tree and every list of overflow pages, and reports a page that belongs to
 * none of them. It does not read free pages, nor bytes after the last page, and SQLCipher accepts a
 * page of zeros in a database with auto-vacuum.
 */
export async function isReadByIntegrityCheck(connection: Connection): Promise<boolean> {
  const row = await connection.get<{ bytes: number }>(
    `SELECT page_count * page_size AS bytes
     FROM pragma_page_count, pragma_page_size, pragma_freelist_count, pragma_auto_vacuum
     WHERE freelist_count = 0 AND auto_vacuum = 0`,
  );
  return row !== undefined && row.bytes === (await stat(connection.path)).size;
}
