/**
 * Whether every page of an encrypted database file is as it was written: each carries an HMAC of itself and its number
 * (docs/reference/formats.md, section 1), which Node's OpenSSL computes again here.
 *
 * SQLCipher's own `PRAGMA cipher_integrity_check` takes three times as long, and looks for the pages beyond 4 GiB in the
 * wrong places, since it counts bytes in 32 bits: it finds all of them bad.
 */
import { createHmac, createSecretKey, type KeyObject, pbkdf2Sync } from "node:crypto";
import { open } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { systemError } from "../errors.js";
import { readUpTo } from "../fs/read.js";
import type { StoreKey } from "./cipher.js";

/** What is at the end of a page: an IV, then its HMAC, in so many bytes together; SQLCipher's defaults by format. */
const seals = {
  3: { pageBytes: 1024, digest: "sha1", hmacBytes: 20, reserveBytes: 48 },
  4: { pageBytes: 4096, digest: "sha512", hmacBytes: 64, reserveBytes: 80 },
} as const;

type PageLayout = (typeof seals)[keyof typeof seals];

const ivBytes = 16;
const saltBytes = 16;
/** SQLite locks bytes of the page at this place, and never writes it. */
const lockPageAt = 1 << 30;
/** Read at a time: 1 MiB, whose HMACs take some two milliseconds. */
const chunkBytes = 1 << 20;

/**
 * What is wrong with the pages of a file, in words; empty if nothing is. For copies alone, not for a store that this process
 * has open: closing the file would drop the locks that SQLite holds on it.
 *
 * @throws StoreError `io` if it cannot be read.
 */
export async function pageErrors(path: string, key: StoreKey): Promise<string[]> {
  const seal = seals[key.cipherCompatibility];
  const hmacKey = hmacKeyOf(key, seal);
  const errors: string[] = [];
  try {
    await using file = await open(path, "r");
    const buffer = Buffer.alloc(chunkBytes);
    for (let at = 0; ; ) {
      const found = await readUpTo(file, buffer, at);
      if (found === 0) return errors;
      const rest = found % seal.pageBytes;
      if (rest > 0) errors.push(`the last page has ${rest} bytes of ${seal.pageBytes}`);
      const chunk = buffer.subarray(0, found - rest);
      for (let start = 0; start < chunk.length; start += seal.pageBytes, at += seal.pageBytes) {
        const page = chunk.subarray(start, start + seal.pageBytes);
        if (isAuthentic(page, at, seal, hmacKey)) continue;
        errors.push(`HMAC verification failed for page ${at / seal.pageBytes + 1}`);
      }
      if (rest > 0) return errors;
      // Others have their turn: this would keep them waiting for as long as the file is in memory.
      await setImmediate();
    }
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
}

function hmacKeyOf({ key, salt }: StoreKey, { digest }: PageLayout): KeyObject {
  const hmacSalt = salt.map((byte) => byte ^ 0x3a);
  return createSecretKey(pbkdf2Sync(key, hmacSalt, 2, key.length, digest));
}

function isAuthentic(page: Buffer, at: number, seal: PageLayout, hmacKey: KeyObject): boolean {
  if (at === lockPageAt && page.every((byte) => byte === 0)) return true;
  const hmacAt = seal.pageBytes - seal.reserveBytes + ivBytes;
  const number = Buffer.alloc(4);
  number.writeUInt32LE(at / seal.pageBytes + 1);
  const hmac = createHmac(seal.digest, hmacKey)
    .update(page.subarray(at === 0 ? saltBytes : 0, hmacAt))
    .update(number)
    .digest();
  return hmac.equals(page.subarray(hmacAt, hmacAt + seal.hmacBytes));
}
