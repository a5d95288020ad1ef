/** Checks directories for the plaintext passphrase while the hub runs: they must be in memory. */
import { stat, statfs } from "node:fs/promises";
import { StoreError, systemError } from "../errors.js";

/** statfs(2) types of file systems in memory: tmpfs and ramfs. */
const memoryTypes = [0x01021994, 0x858458f6];

/**
 * Checks that a directory is in memory and private to this user.
 *
 * @throws {@link StoreError} refused - if it is not
 * @throws {@link StoreError} io - if it cannot be accessed
 */
export async function assertPrivateMemory(directory: string): Promise<void> {
  try {
    const { mode, uid } = await stat(directory);
    if (uid !== process.geteuid?.() || (mode & 0o077) !== 0) {
      throw new StoreError("refused", `${directory} is not private to this user`, {
        hint: `Run chmod 700 ${directory} as its owner, because it will contain the passphrase.`,
      });
    }
    if (process.platform !== "linux" || memoryTypes.includes((await statfs(directory)).type)) {
      return;
    }
  } catch (error) {
    throw systemError(error, `cannot access ${directory}`);
  }
  throw new StoreError("refused", `${directory} is on a disk, not in memory`, {
    hint: "Name a directory on a tmpfs: the passphrase will be there in plain text.",
  });
}
