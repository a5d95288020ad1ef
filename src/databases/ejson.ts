/**
 * The encrypted form of HiveMind's JSON store, `clients.ejson`, as Python's `json_database` writes
 * it: JSON text, compressed with zlib, encrypted with AES-GCM. The key is the UTF-8 form of a
 * password of 16 characters. The nonce has 16 bytes. Ciphertext, tag and nonce are in hexadecimal.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { deflateSync, inflateSync } from "node:zlib";
import { isJsonObject, type JsonObject, type JsonValue } from "../client/json.js";
import { StoreError } from "../errors.js";

const passwordCharacters = 16;
const nonceBytes = 16;
const tagBytes = 16;
/**
 * The maximum size of the decompressed text in bytes. Without a limit, a small file that was made
 * for this purpose could fill the memory.
 */
const maxTextBytes = 256_000_000;

/** The ciphers by key length in bytes. 16 characters have over 16 bytes if some are not ASCII. */
const algorithms: Record<number, "aes-128-gcm" | "aes-192-gcm" | "aes-256-gcm"> = {
  16: "aes-128-gcm",
  24: "aes-192-gcm",
  32: "aes-256-gcm",
};

/**
 * Returns the AES key of a password.
 *
 * @throws {@link StoreError} usage - if the password is no AES key, so that the hub cannot use it
 */
export function keyOf(password: string): {
  key: Buffer;
  algorithm: (typeof algorithms)[number];
} {
  const key = Buffer.from(password);
  const algorithm = algorithms[key.length];
  if ([...password].length !== passwordCharacters) {
    throw new StoreError(
      "usage",
      `the password of an encrypted JSON store must have exactly ${passwordCharacters} characters`,
    );
  }
  if (algorithm === undefined) {
    throw new StoreError(
      "usage",
      "the password of an encrypted JSON store must have 16, 24 or 32 bytes in UTF-8",
      { hint: "Use a password of 16 ASCII characters." },
    );
  }
  return { key, algorithm };
}

export function encryptText(text: string, password: string): JsonObject {
  const { key, algorithm } = keyOf(password);
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv(algorithm, key, nonce, { authTagLength: tagBytes });
  const ciphertext = Buffer.concat([cipher.update(deflateSync(text)), cipher.final()]);
  return {
    ciphertext: ciphertext.toString("hex"),
    tag: cipher.getAuthTag().toString("hex"),
    nonce: nonce.toString("hex"),
  };
}

/**
 * @throws {@link StoreError} usage - as `keyOf`
 * @throws {@link StoreError} corrupted - if the envelope or its text is malformed
 * @throws {@link StoreError} wrongPassphrase - if decryption fails, also for a damaged envelope
 */
export function decryptText(envelope: JsonValue, password: string, path: string): string {
  const { key, algorithm } = keyOf(password);
  if (!isJsonObject(envelope)) throw envelopeError(path);
  const ciphertext = parseHex(envelope.ciphertext, path);
  const nonce = parseHex(envelope.nonce, path);
  // The browsers' Web Crypto writes no separate tag: it appends the tag to the ciphertext.
  const hasTag = typeof envelope.tag === "string";
  const tag = hasTag ? parseHex(envelope.tag, path) : ciphertext.subarray(-tagBytes);
  const body = hasTag ? ciphertext : ciphertext.subarray(0, -tagBytes);
  if (tag.length !== tagBytes || nonce.length === 0) throw envelopeError(path);
  const decipher = createDecipheriv(algorithm, key, nonce, { authTagLength: tagBytes });
  decipher.setAuthTag(tag);
  let compressed: Buffer;
  try {
    compressed = Buffer.concat([decipher.update(body), decipher.final()]);
  } catch (error) {
    throw new StoreError("wrongPassphrase", `${path}: wrong password, or the file is damaged`, {
      cause: error,
    });
  }
  return inflate(compressed, path);
}

function inflate(compressed: Buffer, path: string): string {
  try {
    const text = inflateSync(compressed, { maxOutputLength: maxTextBytes });
    return new TextDecoder("utf-8", { fatal: true }).decode(text);
  } catch (error) {
    throw new StoreError("corrupted", `${path}: the decrypted content is not a JSON store`, {
      cause: error,
    });
  }
}

function parseHex(value: JsonValue | undefined, path: string): Buffer {
  if (typeof value !== "string" || !/^(?:[0-9a-fA-F]{2})*$/.test(value)) throw envelopeError(path);
  return Buffer.from(value, "hex");
}

function envelopeError(path: string): StoreError {
  return new StoreError("corrupted", `${path} is not an encrypted JSON store`);
}
