/** Whole files, onto the disk. */
import { constants, createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import { systemError } from "../errors.js";
import { createFile, syncDirectory } from "./atomic.js";

/** How much is copied at a time: 1 MiB. */
const copyChunkBytes = 1 << 20;

/**
 * Copies a file to one that must not exist yet, 0600, onto the disk. Whether it is what was meant is to be asked of the
 * copy: others may write to where the first one is.
 *
 * @throws StoreError `refused` if something has that name; `io`.
 */
export async function copyFile(from: string, to: string): Promise<void> {
  await createFile(to, "");
  try {
    // Not by name: a link in its place would be followed.
    await using copy = await open(to, constants.O_WRONLY | constants.O_NOFOLLOW);
    const contents = createReadStream(from, { highWaterMark: copyChunkBytes });
    await pipeline(contents, copy.createWriteStream());
  } catch (error) {
    throw systemError(error, `cannot copy ${from}`);
  }
  await syncFile(to);
}

/** Puts a file, written by SQLite or by others, and its name on the disk. */
export async function syncFile(path: string): Promise<void> {
  try {
    await using file = await open(path, "r+");
    await file.sync();
  } catch (error) {
    throw systemError(error, `cannot sync ${path}`);
  }
  await syncDirectory(dirname(path));
}
