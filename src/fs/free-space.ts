/** How much a folder's file system still takes. */
import { statfs } from "node:fs/promises";
import { StoreError, systemError } from "../errors.js";

/**
 * Sees that a file of this size has room where a folder is.
 *
 * @param what the file, in words.
 * @param hint what to do if it has not.
 * @throws StoreError `io` if there is no room, or if the folder's file system does not answer.
 */
export async function assertFreeSpace(
  folder: string,
  bytes: number,
  what: string,
  hint: string,
): Promise<void> {
  let free: number;
  try {
    const { bavail, bsize } = await statfs(folder);
    free = bavail * bsize;
  } catch (error) {
    throw systemError(error, `cannot look into ${folder}`);
  }
  if (free >= bytes) return;
  throw new StoreError(
    "io",
    `no space left in ${folder}: ${what} needs ${bytes} bytes, and ${free} are free`,
    { hint },
  );
}
