/** Copies files onto the disk. */
import { constants, createReadStream } from "node:fs";
import { open, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import { StoreError, systemError } from "../errors.js";
import { createFile, syncDirectory } from "./atomic.js";

const copyChunkBytes = 1 << 20;

/** The part of a file to copy, and what interrupts the copying. */
interface CopyOptions {
  /** The first and the last byte; the end may be beyond the file's. */
  readonly range?: { readonly start: number; readonly end: number } | undefined;
  readonly signal?: AbortSignal;
}

/**
 * Copies a file to a new file with mode 0600 and syncs it. The caller verifies the copy, not the
 * original, because other users may be able to write to the original.
 *
 * @throws {@link StoreError} refused - if the new name is taken
 * @throws {@link StoreError} io - if the system fails
 * @throws the signal's reason if it is aborted
 */
export async function copyFile(
  from: string,
  to: string,
  { range, signal }: CopyOptions = {},
): Promise<void> {
  await createFile(to, "");
  try {
    // O_NOFOLLOW: the file just created could have been replaced by a link.
    await using copy = await open(to, constants.O_WRONLY | constants.O_NOFOLLOW);
    const contents = createReadStream(from, { highWaterMark: copyChunkBytes, ...range });
    await pipeline(contents, copy.createWriteStream(), { ...(signal && { signal }) });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw systemError(error, `cannot copy ${from}`);
  }
  await syncFile(to);
}

/** Syncs a file written by other means, such as SQLite, and its name. */
export async function syncFile(path: string): Promise<void> {
  try {
    await using file = await open(path, "r+");
    await file.sync();
  } catch (error) {
    throw systemError(error, `cannot sync ${path}`);
  }
  await syncDirectory(dirname(path));
}

/**
 * Throws if the file system of a directory has no space for a file.
 *
 * @param bytes - size of the file
 * @param what - the file, for the message: `the copy of the store`
 * @param hint - the hint of the error
 * @throws {@link StoreError} io - if there is no space, or the free space cannot be determined
 */
export async function assertFreeSpace(
  directory: string,
  bytes: number,
  what: string,
  hint: string,
): Promise<void> {
  let free: number;
  try {
    const { bavail, bsize } = await statfs(directory);
    free = bavail * bsize;
  } catch (error) {
    throw systemError(error, `cannot determine the free space of ${directory}`);
  }
  if (free >= bytes) return;
  throw new StoreError(
    "io",
    `no space left on device: ${what} needs ${bytes} bytes in ${directory}, and ${free} are free`,
    { hint },
  );
}
