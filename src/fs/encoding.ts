/** Decodes text files. Windows editors and shells write UTF-16 with a byte order mark. */

type Encoding = "utf-8" | "utf-16le" | "utf-16be";

/** Returns the encoding that a byte order mark at the beginning names; UTF-8 without one. */
export function detectEncoding(bytes: Uint8Array): Encoding {
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return "utf-16le";
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return "utf-16be";
  return "utf-8";
}

/**
 * Decodes the text of a file. Keeps the byte order mark of UTF-8, which may belong to a passphrase.
 *
 * @param options.isCut - whether the bytes may end within a character
 * @throws TypeError if the bytes are not text in the encoding
 */
export function decodeText(bytes: Uint8Array, { isCut = false } = {}): string {
  const encoding = detectEncoding(bytes);
  const decoder = new TextDecoder(encoding, { fatal: true, ignoreBOM: encoding === "utf-8" });
  return decoder.decode(bytes, { stream: isCut });
}
