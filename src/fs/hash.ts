/** Checksums. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { systemError } from "../errors.js";

/**
 * The SHA-256 of a file, in hex.
 *
 * @throws StoreError `io` if it cannot be read.
 */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash("sha256");
  try {
    await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
  return hash.digest("hex");
}

/** The sha256 of what is in memory, in hex. Of a text it is that of its UTF-8. */
export function sha256Hex(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}
