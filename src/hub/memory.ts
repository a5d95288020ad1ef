/** Folders that are memory, where the passphrase may stand in plain text for as long as the hub runs. */
import { stat, statfs } from "node:fs/promises";
import { StoreError, systemError } from "../errors.js";

/** statfs types of the file systems that are memory: tmpfs and ramfs. */
const memoryTypes = [0x01021994, 0x858458f6];

/**
 * Sees that a folder is memory and this user's alone. Only Linux says whether a file system is memory; elsewhere
 * whoever names the folder vouches for that.
 *
 * @throws StoreError `refused` if it is not, `io` if it cannot be looked at.
 */
export async function assertPrivateMemory(folder: string): Promise<void> {
  try {
    const { mode, uid } = await stat(folder);
    if (uid !== process.geteuid?.() || (mode & 0o077) !== 0) {
      throw new StoreError("refused", `${folder} is not this user's alone`, {
        hint: `the passphrase will stand in it: chmod 700 ${folder}, as its owner`,
      });
    }
    if (process.platform !== "linux" || memoryTypes.includes((await statfs(folder)).type)) return;
  } catch (error) {
    throw systemError(error, `cannot look at ${folder}`);
  }
  throw new StoreError("refused", `${folder} is on a disk, not in memory`, {
    hint: "the passphrase would be written there in plain text: name a folder on a tmpfs",
  });
}
