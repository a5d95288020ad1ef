/** Reads SQLite's file change counter from an encrypted file without opening it as a database. */
import { createDecipheriv } from "node:crypto";
import { open } from "node:fs/promises";
import { systemError } from "../errors.js";
import { readUpTo } from "../fs/read.js";
import type { StoreKey } from "./cipher.js";
import { ivBytes, pageLayouts, saltBytes } from "./page-integrity.js";

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
  const { pageBytes, reserveBytes } = pageLayouts[key.cipherCompatibility];
  const page = Buffer.alloc(pageBytes);
  try {
    await using file = await open(path);
    if ((await readUpTo(file, page, 0)) < pageBytes) return undefined;
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
  const ivOffset = pageBytes - reserveBytes;
  const iv = page.subarray(ivOffset, ivOffset + ivBytes);
  const decipher = createDecipheriv("aes-256-cbc", key.key, iv).setAutoPadding(false);
  const header = decipher.update(page.subarray(saltBytes, ivOffset));
  return header.readUInt32BE(counterOffset - saltBytes);
}
