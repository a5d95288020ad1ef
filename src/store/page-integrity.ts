/**
 * Verifies the HMAC of each page of an encrypted database (docs/reference/formats.md, section 1).
 *
 * SQLCipher's own `PRAGMA cipher_integrity_check` takes three times as long. It also counts bytes
 * in 32 bits, so it reports every page beyond 4 GiB as bad.
 */
import { createHmac, createSecretKey, type KeyObject, pbkdf2Sync } from "node:crypto";
import { open } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { systemError } from "../errors.js";
import { readUpTo } from "../fs/read.js";
import type { StoreKey } from "./cipher.js";

/** The end of a page by format, with SQLCipher's defaults: an IV and an HMAC within the reserve. */
export const pageLayouts = {
  3: { pageBytes: 1024, digest: "sha1", hmacBytes: 20, reserveBytes: 48 },
  4: { pageBytes: 4096, digest: "sha512", hmacBytes: 64, reserveBytes: 80 },
} as const;

type PageLayout = (typeof pageLayouts)[keyof typeof pageLayouts];

export const ivBytes = 16;
/** The salt replaces the first bytes of the first page. */
export const saltBytes = 16;
/** The offset of SQLite's lock page, which is never written. */
const lockPageAt = 1 << 30;
/** Bytes in a read. Their HMACs take about two milliseconds. */
const chunkBytes = 1 << 20;

/**
 * Returns a message for each bad page of a file.
 *
 * Only for copies: closing a file open as a database in this process drops SQLite's locks on it.
 *
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function pageErrors(path: string, key: StoreKey): Promise<string[]> {
  const layout = pageLayouts[key.cipherCompatibility];
  const hmacKey = hmacKeyOf(key, layout);
  const errors: string[] = [];
  try {
    await using file = await open(path, "r");
    const buffer = Buffer.alloc(chunkBytes);
    for (let at = 0; ; ) {
      const found = await readUpTo(file, buffer, at);
      if (found === 0) return errors;
      const rest = found % layout.pageBytes;
      if (rest > 0) errors.push(`the last page has ${rest} bytes of ${layout.pageBytes}`);
      const chunk = buffer.subarray(0, found - rest);
      for (let start = 0; start < chunk.length; start += layout.pageBytes, at += layout.pageBytes) {
        const page = chunk.subarray(start, start + layout.pageBytes);
        if (isAuthentic(page, at, layout, hmacKey)) continue;
        errors.push(`HMAC verification failed for page ${at / layout.pageBytes + 1}`);
      }
      if (rest > 0) return errors;
      // Yield to other work: with the file in the page cache, this loop would run without a pause.
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

function isAuthentic(page: Buffer, at: number, layout: PageLayout, hmacKey: KeyObject): boolean {
  if (at === lockPageAt && page.every((byte) => byte === 0)) return true;
  const hmacAt = layout.pageBytes - layout.reserveBytes + ivBytes;
  const number = Buffer.alloc(4);
  number.writeUInt32LE(at / layout.pageBytes + 1);
  const hmac = createHmac(layout.digest, hmacKey)
    .update(page.subarray(at === 0 ? saltBytes : 0, hmacAt))
    .update(number)
    .digest();
  return hmac.equals(page.subarray(hmacAt, hmacAt + layout.hmacBytes));
}
