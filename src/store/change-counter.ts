/** Reads SQLite's file change counter from an encrypted file without opening it as a database. */
import { open } from "node:fs/promises";
import { systemError } from "../errors.js";
import { readUpTo } from "../fs/read.js";
import type { StoreKey } from "./cipher.js";
import { PageCipher, saltBytes } from "./page-cipher.js";

/** The offset of the counter in SQLite's header. */
const counterOffset = 24;

/**
 * Returns the file change counter of a copy that no process writes to, or undefined for a file
 * shorter than a page.
 *
 * SQLite increases the counter with each transaction; in WAL mode only if the transaction changes
 * the first page. So the counter never decreases from an earlier copy of a file to a later copy.
 *
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function readChangeCounter(path: string, key: StoreKey): Promise<number | undefined> {
  const cipher = new PageCipher(key);
  const page = Buffer.alloc(cipher.layout.pageBytes);
  try {
    await using file = await open(path);
    if ((await readUpTo(file, page, 0)) < page.length) return undefined;
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
  return cipher.decrypt(page, 1).readUInt32BE(counterOffset - saltBytes);
}
