/** How much a folder's file system still takes. */
import { statfs } from "node:fs/promises";
import { systemError } from "../errors.js";

/**
 * The bytes that are free for this user where a folder is.
 *
 * @throws StoreError `io` if the folder's file system does not answer.
 */
export async function roomIn(folder: string): Promise<number> {
  try {
    const { bavail, bsize } = await statfs(folder);
    return bavail * bsize;
  } catch (error) {
    throw systemError(error, `cannot look into ${folder}`);
  }
}
