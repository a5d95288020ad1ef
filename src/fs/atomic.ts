/**
 * Writing files so that a crash leaves either the old state or the new one, and nobody else can read them.
 *
 * Every file this project writes for keeps goes through here. A new file is 0600 and created exclusively, so it
 * is never written through a symbolic link; it is fsynced, and so is its folder; and it gets its final name only
 * when it is whole.
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, link, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { hasAccessList } from "./access-list.js";
import { lstatIfExists } from "./lstat.js";

const newFile = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/** Makes a folder and its parents, 0700 each and synced; an existing folder is left as it is. */
export async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, 0o700);
  } catch (error) {
    if (hasCode(error, "EEXIST") && (await isDirectory(path))) return;
    if (!hasCode(error, "ENOENT") || (await isDirectory(dirname(path)))) {
      throw systemError(error, `cannot make the folder ${path}`);
    }
    // Not Node's own `recursive`, which tries for ever where the folder above is there and still nothing can be made.
    await makeDirectory(dirname(path));
    return await makeDirectory(path);
  }
  await syncDirectory(dirname(path));
}

/** What is said where a file that was just made has been exchanged, or given a second name. */
export function notOwnedError(path: string): StoreError {
  return new StoreError("refused", `${path} is not the file that was made here`, {
    hint: `somebody else works in ${dirname(path)}: ls -ld says who may; keep it to its owner, and run this again`,
  });
}

async function isDirectory(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}

/** Makes the names in a folder (files created, renamed, removed) survive a power cut. */
export async function syncDirectory(path: string): Promise<void> {
  let folder: FileHandle;
  try {
    folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    throw systemError(error, `cannot sync ${path}`);
  }
  try {
    await folder.sync();
  } catch (error) {
    // Some network and FUSE file systems cannot sync a folder; there is nothing more to be done there.
    if (!hasCode(error, "EINVAL", "ENOTSUP")) throw systemError(error, `cannot sync ${path}`);
  } finally {
    await folder.close();
  }
}

/**
 * Creates a file that must not exist yet, whole and synced, or not at all.
 *
 * @throws StoreError `refused` if something has that name, `io` for anything the system refuses.
 */
export async function createFile(
  path: string,
  contents: string | Uint8Array,
  mode = 0o600,
): Promise<void> {
  let file: FileHandle;
  try {
    file = await open(path, newFile, mode);
  } catch (error) {
    if (hasCode(error, "EEXIST")) throw alreadyExistsError(path);
    throw systemError(error, `cannot create ${path}`);
  }
  try {
    await file.writeFile(contents);
    await file.chmod(mode);
    await file.sync();
  } catch (error) {
    await discard(path);
    throw systemError(error, `cannot write ${path}`);
  } finally {
    await file.close();
  }
  await syncDirectory(dirname(path));
}

/**
 * Gives a finished, synced file its final name, on the same file system, without ever replacing what has that
 * name. Afterwards `staged` is gone.
 *
 * @throws StoreError `refused` if the final name is taken; `staged` then still exists.
 */
export async function claimName(staged: string, final: string): Promise<void> {
  try {
    await link(staged, final);
    await rm(staged);
  } catch (error) {
    if (hasCode(error, "EEXIST")) throw alreadyExistsError(final);
    if (!hasCode(error, "EPERM", "ENOTSUP", "ENOSYS", "EMLINK")) {
      throw systemError(error, `cannot name ${final}`);
    }
    // A file system without hard links (FAT, some network shares): take the name empty, then rename over our own.
    await createFile(final, "");
    await rename(staged, final);
  }
  await syncDirectory(dirname(final));
}

/** Removes what could not be finished. That it could not be is what is wrong, and is reported, not this. */
async function discard(path: string): Promise<void> {
  await rm(path, { force: true }).catch(() => undefined);
}

function alreadyExistsError(path: string): StoreError {
  return new StoreError("refused", `${path} exists already`, {
    hint: "name another file, or move that one away",
  });
}

/** Removes a file that may be gone already. @throws StoreError `io`. */
export async function removeFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw systemError(error, `cannot remove ${path}`);
  }
}

/** Gives a file another name, in the place of what may have it. @throws StoreError `io`. */
export async function moveFile(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    throw systemError(error, `cannot move ${from} to ${to}`);
  }
}

/** A name beside `path` for a file that is not finished: hidden, and nobody else's. */
export function stagedName(path: string): string {
  return join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}.partial`);
}

/**
 * Removes what writers of `path` that were killed have left beside it. Only for whoever knows that none is at work.
 *
 * @returns whether there was anything.
 */
export async function removePartials(path: string): Promise<boolean> {
  const folder = dirname(path);
  const prefix = `.${basename(path)}.`;
  let found = false;
  try {
    for (const name of await readdir(folder)) {
      if (!name.startsWith(prefix) || !/^[0-9a-f]{12}\.partial$/.test(name.slice(prefix.length))) {
        continue;
      }
      await rm(join(folder, name), { force: true });
      found = true;
    }
  } catch (error) {
    if (hasCode(error, "ENOENT")) return false;
    throw systemError(error, `cannot tidy up ${folder}`);
  }
  return found;
}

/**
 * Replaces a file's contents in one step, keeping its owner and mode; makes it (0600) if it does not exist.
 * A reader sees the old contents or the new, never a part.
 */
export async function replaceFile(path: string, contents: string | Uint8Array): Promise<void> {
  const staged = await stageReplacement(path, contents);
  try {
    await rename(staged, path);
  } catch (error) {
    await discard(staged);
    throw systemError(error, `cannot replace ${path}`);
  }
  await syncDirectory(dirname(path));
}

/**
 * Does everything that replacing a file takes but the replacing: that the folder may be written to, and that a new file
 * may have the old one's owner and mode.
 *
 * @throws StoreError as `replaceFile`.
 */
export async function assertReplaceable(path: string): Promise<void> {
  const staged = await stageReplacement(path, "");
  try {
    await rm(staged);
  } catch (error) {
    throw systemError(error, `cannot replace ${path}`);
  }
  await syncDirectory(dirname(path));
}

/** Writes what is to take a file's place, under another name beside it, with that file's owner and mode. */
async function stageReplacement(path: string, contents: string | Uint8Array): Promise<string> {
  const staged = stagedName(path);
  const before = await lstatIfExists(path);
  if (before && !before.isFile()) throw new StoreError("refused", `${path} is not a regular file`);
  if (before && (await hasAccessList(path, before))) {
    throw new StoreError(
      "refused",
      `${path} has an access control list, which the file that replaces it would not have`,
      { hint: `getfacl '${path}' shows it; setfacl -b '${path}' takes it off` },
    );
  }
  await createFile(staged, contents, before ? Number(before.mode) & 0o777 : 0o600);
  try {
    if (before) await copyOwner(staged, Number(before.uid), Number(before.gid));
  } catch (error) {
    await discard(staged);
    throw systemError(error, `cannot replace ${path}`);
  }
  return staged;
}

async function copyOwner(path: string, uid: number, gid: number): Promise<void> {
  if (process.geteuid?.() === uid && process.getegid?.() === gid) return;
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    // A second name for it would be somebody's who wants a file of ours for their own.
    if ((await file.stat()).nlink !== 1) {
      throw notOwnedError(path);
    }
    await file.chown(uid, gid);
  } finally {
    await file.close();
  }
}
