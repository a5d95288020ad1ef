/** Checks that a directory for the plaintext passphrase is in memory and private. */
import { stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { shellQuote } from "../text/escape.js";

/** statfs(2) types of file systems in memory: tmpfs and ramfs. */
const memoryTypes = [0x01021994, 0x858458f6];

/**
 * Checks that a directory is in memory and private to this user.
 *
 * @throws {@link StoreError} refused - if it is not
 * @throws {@link StoreError} io - if it does not exist or cannot be accessed
 */
export async function assertPrivateMemory(directory: string): Promise<void> {
  try {
    const { mode, uid } = await stat(directory);
    const isOwned = uid === process.geteuid?.();
    if (!isOwned || (mode & 0o077) !== 0) {
      throw new StoreError("refused", `${directory} is not private to this user`, {
        hint: isOwned
          ? `Remove the access of other users: chmod 700 ${shellQuote(directory)}`
          : "Name a directory of this user, because it will contain the passphrase.",
      });
    }
    if (await isInMemory(directory)) return;
  } catch (error) {
    throw systemError(error, `cannot access ${directory}`);
  }
  throw new StoreError("refused", `${directory} is on a disk, not in memory`, {
    hint: "Name a directory on a tmpfs, because it will contain the passphrase in plain text.",
  });
}

/**
 * Returns whether a path is on a file system in memory. Tests the nearest existing directory if the
 * path does not exist, as after a reboot, when a tmpfs is empty.
 *
 * @throws the system's error - if the path cannot be accessed
 */
export async function isInMemory(path: string): Promise<boolean> {
  try {
    return memoryTypes.includes((await statfs(path)).type);
  } catch (error) {
    if (!hasCode(error, "ENOENT", "ENOTDIR") || dirname(path) === path) throw error;
    return isInMemory(dirname(path));
  }
}
