/** Reads SQLite's header from an encrypted file without opening it as a database. */
import { open } from "node:fs/promises";
import { systemError } from "../errors.js";
import { readUpTo } from "../fs/read.js";
import type { StoreKey } from "./cipher.js";
import { PageCipher, saltBytes } from "./page-cipher.js";

export interface DatabaseHeader {
  /**
   * SQLite increases it with each transaction; in WAL mode only if the transaction changes the
   * first page. So it never decreases from an earlier copy of a file to a later copy.
   */
  readonly changeCounter: number;
  /** Increases with each change of the schema, and with VACUUM. */
  readonly schemaCounter: number;
  /** Unused bytes at the end of each page. */
  readonly reserveBytes: number;
}

/**
 * Returns the header of a file, or undefined if its first page is not complete, as during a
 * checkpoint, or was not written under this key.
 *
 * Only for files not open as a database in this process: closing a file drops SQLite's
 * locks on it.
 *
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function readHeader(path: string, key: StoreKey): Promise<DatabaseHeader | undefined> {
  const cipher = new PageCipher(key);
  const page = Buffer.alloc(cipher.layout.pageBytes);
  try {
    await using file = await open(path);
    if ((await readUpTo(file, page, 0)) < page.length) return undefined;
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
  if (!cipher.isAuthentic(page, 1)) return undefined;
  const header = cipher.decrypt(page, 1);
  return {
    changeCounter: header.readUInt32BE(24 - saltBytes),
    schemaCounter: header.readUInt32BE(40 - saltBytes),
    reserveBytes: header.readUInt8(20 - saltBytes),
  };
}
