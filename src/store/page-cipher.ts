/**
 * Encrypts and decrypts single pages of a store as SQLCipher does (docs/reference/formats.md,
 * section 1). Each page has its own IV and HMAC and does not depend on any other page.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  type KeyObject,
  pbkdf2Sync,
} from "node:crypto";
import type { StoreKey } from "./cipher.js";

/** The end of a page by format, with SQLCipher's defaults: an IV and an HMAC within the reserve. */
export const pageLayouts = {
  3: { pageBytes: 1024, digest: "sha1", hmacBytes: 20, reserveBytes: 48 },
  4: { pageBytes: 4096, digest: "sha512", hmacBytes: 64, reserveBytes: 80 },
} as const;

export type PageLayout = (typeof pageLayouts)[keyof typeof pageLayouts];

export const ivBytes = 16;
/** The salt replaces the first bytes of the first page. */
export const saltBytes = 16;
/** The offset of SQLite's lock page, which is never written. */
export const lockPageOffset = 1 << 30;
const algorithm = "aes-256-cbc";

/** The cipher of a file with the default parameters of its format. Pages are counted from 1. */
export class PageCipher {
  readonly layout: PageLayout;
  readonly #salt: Buffer;
  readonly #key: KeyObject;
  readonly #hmacKey: KeyObject;

  constructor({ key, salt, cipherCompatibility }: StoreKey) {
    this.layout = pageLayouts[cipherCompatibility];
    this.#salt = salt;
    this.#key = createSecretKey(key);
    const hmacSalt = salt.map((byte) => byte ^ 0x3a);
    this.#hmacKey = createSecretKey(pbkdf2Sync(key, hmacSalt, 2, key.length, this.layout.digest));
  }

  /** Returns whether a page was written under this key with this number. */
  isAuthentic(page: Buffer, number: number): boolean {
    const at = this.#ivOffset + ivBytes;
    return this.#hmacOf(page, number).equals(page.subarray(at, at + this.layout.hmacBytes));
  }

  /** Returns the content of an authentic page, without salt and reserve. */
  decrypt(page: Buffer, number: number): Buffer {
    const iv = page.subarray(this.#ivOffset, this.#ivOffset + ivBytes);
    const decipher = createDecipheriv(algorithm, this.#key, iv).setAutoPadding(false);
    return decipher.update(page.subarray(contentOffset(number), this.#ivOffset));
  }

  /**
   * Writes a page with a new IV.
   *
   * @param content - as `decrypt` returns it
   * @param reserve - random bytes for the end of the page: the IV, and what the HMAC leaves over
   * @param page - where the page is written
   */
  encrypt(content: Buffer, number: number, reserve: Buffer, page: Buffer): void {
    reserve.copy(page, this.#ivOffset);
    const iv = reserve.subarray(0, ivBytes);
    if (number === 1) this.#salt.copy(page);
    const cipher = createCipheriv(algorithm, this.#key, iv).setAutoPadding(false);
    cipher.update(content).copy(page, contentOffset(number));
    this.#hmacOf(page, number).copy(page, this.#ivOffset + ivBytes);
  }

  get #ivOffset(): number {
    return this.layout.pageBytes - this.layout.reserveBytes;
  }

  #hmacOf(page: Buffer, number: number): Buffer {
    const counted = Buffer.alloc(4);
    counted.writeUInt32LE(number);
    return createHmac(this.layout.digest, this.#hmacKey)
      .update(page.subarray(contentOffset(number), this.#ivOffset + ivBytes))
      .update(counted)
      .digest();
  }
}

/** Returns whether a page is SQLite's lock page. It is all zeros, and never encrypted. */
export function isLockPage(page: Buffer, number: number): boolean {
  return (number - 1) * page.length === lockPageOffset && page.every((byte) => byte === 0);
}

function contentOffset(number: number): number {
  return number === 1 ? saltBytes : 0;
}
