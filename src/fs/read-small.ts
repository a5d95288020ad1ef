/**
 * Reading small files from places where others may put something else: a pipe, which would keep the reader waiting for
 * good, a device, or a file that fills the memory.
 */
import { constants, type Stats } from "node:fs";
import { open } from "node:fs/promises";
import { StoreError } from "../errors.js";
import { readUpTo } from "./read.js";

/**
 * A regular file, whole.
 *
 * @param longest bytes; a longer file is not read.
 * @throws StoreError `corrupted` if it is longer, or no regular file; the system's own error if it cannot be opened or
 *   read, as when it is not there.
 */
export async function readSmallFile(
  path: string,
  longest: number,
): Promise<{ bytes: Buffer; stats: Stats }> {
  await using file = await open(
    path,
    constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY,
  );
  const stats = await file.stat();
  if (!stats.isFile()) throw new StoreError("corrupted", `${path} is not a regular file`);
  const bytes = Buffer.alloc(Math.min(stats.size, longest) + 1);
  const length = await readUpTo(file, bytes, 0);
  if (length < bytes.length) return { bytes: bytes.subarray(0, length), stats };
  throw new StoreError("corrupted", `${path} is too long, or is being written`);
}
