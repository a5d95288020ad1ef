/** Whose a new file is and who may use it, which takes the place of another. */
import { type BigIntStats, constants } from "node:fs";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { hasAccessList } from "./access-list.js";
import { notOwnedError } from "./atomic.js";
import { lstatIfExists } from "./lstat.js";

/**
 * What a new file would not have.
 *
 * @throws StoreError `refused` for an access control list, and for a second name, which would go on naming the old file.
 */
export async function assertMetadataCopyable(path: string, before: BigIntStats): Promise<void> {
  if (await hasAccessList(path, before)) {
    throw new StoreError(
      "refused",
      `${path} has an access control list, which a new file would not have`,
      {
        hint: `getfacl '${path}' shows it; setfacl -b '${path}' takes it off: see then that its mode is right, and give it anew afterwards`,
      },
    );
  }
  if (before.nlink > 1n) {
    throw new StoreError(
      "refused",
      `${path} has another name (a hard link), under which the old file would stay`,
      {
        hint: `find its other names: find FOLDER -samefile '${path}'; remove those, or use a symbolic link`,
      },
    );
  }
}

/**
 * Gives the new file the old one's owner, group and mode, or refuses while nothing has happened yet. Where there was
 * none, and root puts one into another user's folder, it is for that user.
 *
 * @throws StoreError `refused` if this user may not, or if the folder would widen it; `io`.
 */
export async function copyMetadata(storePath: string, staged: string): Promise<void> {
  const before = await lstatIfExists(storePath);
  const isRoot = process.geteuid?.() === 0;
  const owner = before ?? (isRoot ? await lstatIfExists(dirname(storePath)) : undefined);
  if (!owner) return;
  try {
    // Through a descriptor: whoever owns the folder could put a link in the file's place meanwhile.
    await using file = await open(staged, constants.O_RDONLY | constants.O_NOFOLLOW);
    const { uid, gid, nlink } = await file.stat({ bigint: true });
    if (nlink !== 1n) throw notOwnedError(staged);
    if (owner.uid !== uid || (before && owner.gid !== gid)) {
      await file.chown(Number(owner.uid), Number(owner.gid));
    }
    if (before) await file.chmod(Number(before.mode & 0o7777n));
  } catch (error) {
    if (!hasCode(error, "EPERM")) throw systemError(error, `cannot prepare ${staged}`);
    throw new StoreError(
      "refused",
      `${storePath} belongs to user ${owner.uid} and group ${owner.gid}, and a new file could not`,
      { hint: "run this as that user, who must be in that group, or as root", cause: error },
    );
  }
  if (before && (await hasAccessList(staged, before))) {
    throw new StoreError(
      "refused",
      `${dirname(storePath)} gives every new file an access control list, and the store has none`,
      { hint: `setfacl -k '${dirname(storePath)}' takes that from the folder` },
    );
  }
}
