/** Copies files and syncs them to the disk. */
import { constants } from "node:fs";
import { type FileHandle, link, open, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { StoreError, systemError } from "../errors.js";
import {
  claimName,
  createFile,
  isLinkUnsupported,
  removeFile,
  stagedName,
  syncDirectory,
} from "./atomic.js";
import { type ByteRange, readChunks } from "./read.js";

interface CopyOptions {
  /** The range may end beyond the end of the file. */
  readonly range?: ByteRange | undefined;
  /** Interrupts the copy. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Copies a file to a new file as `copyUnsynced`, and syncs it.
 *
 * @throws {@link StoreError} io - if the system fails
 * @throws what `copyUnsynced` throws
 */
export async function copyFile(from: string, to: string, options: CopyOptions = {}): Promise<void> {
  await copyUnsynced(from, to, options);
  await syncFile(to);
}

/**
 * Copies a file to a new file with mode 0600. The caller must verify the copy, and not the
 * original, because other users may be able to write to the original. A failure leaves an
 * incomplete copy.
 *
 * @throws {@link StoreError} refused - if the new name is taken
 * @throws {@link StoreError} io - if the system fails
 * @throws the signal's reason if it is aborted
 */
export async function copyUnsynced(
  from: string,
  to: string,
  { range, signal }: CopyOptions = {},
): Promise<void> {
  await createFile(to, "");
  try {
    // O_NOFOLLOW: the file just created could have been replaced by a link.
    await using copy = await open(to, constants.O_WRONLY | constants.O_NOFOLLOW);
    await using original = await open(from);
    let size = 0;
    for await (const bytes of readChunks(original, range)) {
      signal?.throwIfAborted();
      await writeAll(copy, bytes, size);
      size += bytes.length;
    }
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw systemError(error, `cannot copy ${from}`);
  }
}

export async function writeAll(file: FileHandle, bytes: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done, offset + done)).bytesWritten;
  }
}

/**
 * Gives a file a second name in its directory. Where hard links are not possible, copies the file:
 * the second name appears only with a complete copy.
 *
 * @throws {@link StoreError} refused, io - if the second name is taken, or the system fails
 */
export async function linkOrCopy(path: string, second: string): Promise<void> {
  try {
    await link(path, second);
  } catch (error) {
    if (!isLinkUnsupported(error)) throw systemError(error, `cannot create ${second}`);
    const staged = stagedName(path);
    try {
      await copyFile(path, staged);
      await claimName(staged, second);
    } catch (failure) {
      await removeFile(staged).catch(() => undefined);
      throw failure;
    }
  }
  await syncDirectory(dirname(second));
}

/** Syncs a file that was written by other code, such as SQLite, and its name. */
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
