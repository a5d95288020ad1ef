/** Copies the owner, group and mode of a file to its replacement. */
import { execFile } from "node:child_process";
import { type BigIntStats, constants, type Stats } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { dirname } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { shellQuote } from "../text/escape.js";
import { lstatIfExists } from "./read.js";
import { isRoot } from "./user.js";

/**
 * Returns whether a file has an effective access control list.
 *
 * The group bits of such a file's mode are the mask of the list, not the group's permissions.
 * Another file of the same mode without the list would be open to the whole group. Node has no call
 * for access control lists; `ls -l` prints a `+` after the mode.
 */
export async function hasAccessList(path: string, { mode }: Stats | BigIntStats): Promise<boolean> {
  // An empty mask grants nothing.
  if ((Number(mode) & 0o070) === 0) return false;
  return new Promise((resolve) => {
    execFile("ls", ["-ld", "--", path], (error, listed) =>
      resolve(error === null && /^\S{10}\+/.test(listed)),
    );
  });
}

/**
 * Throws if a replacement of this file would lose an access control list or a hard link.
 *
 * @throws {@link StoreError} refused - for either
 */
export async function assertMetadataCopyable(path: string, before: BigIntStats): Promise<void> {
  await assertNoAccessList(path, before);
  if (before.nlink > 1n) {
    throw new StoreError(
      "refused",
      `${path} has another name (a hard link), which would keep the old file`,
      {
        hint: `List all its names, this one included, with: find DIRECTORY -xdev -samefile ${shellQuote(path)}. Remove the others, or replace them by symbolic links.`,
      },
    );
  }
}

/** @throws {@link StoreError} refused - if the file has an access control list */
export async function assertNoAccessList(path: string, stats: Stats | BigIntStats): Promise<void> {
  if (!(await hasAccessList(path, stats))) return;
  throw new StoreError(
    "refused",
    `${path} has an access control list, which the file that replaces it would not have`,
    {
      hint: `See the list with: getfacl ${shellQuote(path)}. Remove it with: setfacl -b ${shellQuote(path)}, check the mode, and run this again. Then set the list on the new file.`,
    },
  );
}

/**
 * Copies owner, group and mode from a file to its replacement.
 *
 * If there is no such file yet and root creates it in another user's directory, the directory's
 * owner becomes the file's owner.
 *
 * @throws {@link StoreError} refused - if this user lacks permission, or if the directory's default
 *   access control list would open the new file to others
 * @throws {@link StoreError} io - if the system fails
 */
export async function copyMetadata(path: string, staged: string): Promise<void> {
  const before = await lstatIfExists(path);
  const owner = before ?? (isRoot() ? await lstatIfExists(dirname(path)) : undefined);
  if (!owner) return;
  try {
    await using file = await openOwn(staged);
    const { uid, gid, mode } = await file.stat({ bigint: true });
    if (owner.uid !== uid || (before && owner.gid !== gid)) {
      await file.chown(Number(owner.uid), Number(owner.gid));
    }
    // Only a different mode: a file system without modes may refuse every change.
    if (before && before.mode !== mode) await file.chmod(Number(before.mode & 0o7777n));
  } catch (error) {
    if (!hasCode(error, "EPERM")) throw systemError(error, `cannot prepare ${staged}`);
    throw new StoreError(
      "refused",
      `${path} must belong to user ${owner.uid} and group ${owner.gid}, and this user cannot create such a file`,
      { hint: "Run this as root, or as that user if it is a member of that group.", cause: error },
    );
  }
  if (before && (await hasAccessList(staged, before))) {
    throw new StoreError(
      "refused",
      `${dirname(path)} gives each new file an access control list, and ${path} has none`,
      { hint: `Remove that default from the directory: setfacl -k ${shellQuote(dirname(path))}.` },
    );
  }
}

/**
 * Opens a file created by this process, to change its owner through the descriptor.
 *
 * A chown by path would follow a link that the directory's owner created at this path. Refuses a
 * file with a second hard link: chown would give that file to the user who created the link.
 */
async function openOwn(path: string): Promise<FileHandle> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  if ((await file.stat()).nlink === 1) return file;
  await file.close();
  throw new StoreError("refused", `${path} has a second hard link`, {
    hint: `Another user can write to ${dirname(path)}: see ls -ld, restrict it to its owner, and run this again.`,
  });
}
