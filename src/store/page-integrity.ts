/**
 * Verifies the HMAC of each page of an encrypted database (docs/reference/formats.md, section 1).
 *
 * SQLCipher's own `PRAGMA cipher_integrity_check` takes three times as long. It also counts bytes
 * in 32 bits, so it reports every page beyond 4 GiB as bad.
 */
import type { Hash } from "node:crypto";
import { open } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { systemError } from "../errors.js";
import { readUpTo } from "../fs/read.js";
import type { StoreKey } from "./cipher.js";
import { isLockPage, PageCipher } from "./page-cipher.js";

/** Bytes in a read. Their HMACs take about two milliseconds. */
const chunkBytes = 1 << 20;

/**
 * Returns a message for each bad page of a file.
 *
 * Only for copies: closing a file open as a database in this process drops SQLite's locks on it.
 *
 * @param hash - is updated with the bytes that were checked, so that the file is read once
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function findPageErrors(path: string, key: StoreKey, hash?: Hash): Promise<string[]> {
  const cipher = new PageCipher(key);
  const { pageBytes } = cipher.layout;
  const errors: string[] = [];
  try {
    await using file = await open(path, "r");
    const buffer = Buffer.alloc(chunkBytes);
    for (let at = 0; ; ) {
      const found = await readUpTo(file, buffer, at);
      if (found === 0) return errors;
      hash?.update(buffer.subarray(0, found));
      const rest = found % pageBytes;
      if (rest > 0) errors.push(`the last page has ${rest} bytes of ${pageBytes}`);
      for (let start = 0; start < found - rest; start += pageBytes, at += pageBytes) {
        const page = buffer.subarray(start, start + pageBytes);
        const number = at / pageBytes + 1;
        if (cipher.isAuthentic(page, number) || isLockPage(page, number)) continue;
        errors.push(`HMAC verification failed for page ${number}`);
      }
      if (rest > 0) return errors;
      // Yield to other work: with the file in the page cache, this loop would run without a pause.
      await setImmediate();
    }
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
}
