/**
 * Checks that a directory is in memory, where the passphrase may be in plain text while the hub
 * runs.
 */
import { stat, statfs } from "node:fs/promises";
import { StoreError, systemError } from "../errors.js";

/** statfs types of file systems in memory: tmpfs and ramfs. */
const memoryTypes = [0x01021994, 0x858458f6];

/**
 * Checks that a directory is in memory and private to this user.
 *
 * @throws {@link StoreError} refused - it is not; io - it cannot be examined
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
