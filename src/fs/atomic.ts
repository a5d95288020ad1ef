/**
 * Writes files so that a crash leaves either the old contents or the new, readable only by the
 * owner.
 *
 * Every file of this project is written here: with mode 0600, created exclusively (so never through
 * a symbolic link), synced together with its directory, and named only when it is complete.
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, link, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { assertNoAccessList, copyMetadata } from "./metadata.js";
import { assertNotMountPoint } from "./mount.js";
import { lstatIfExists, statIfExists } from "./read.js";

const newFile = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/**
 * Creates a directory and its parents with mode 0700, and syncs them. Leaves an existing directory
 * unchanged.
 */
export async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, 0o700);
  } catch (error) {
    if (hasCode(error, "EEXIST")) return await assertDirectory(path);
    if (!hasCode(error, "ENOENT") || (await isDirectory(dirname(path)))) {
      throw systemError(error, `cannot create the directory ${path}`);
    }
    // Node's own `recursive` never returns below /proc, where the parent exists and mkdir fails.
    await makeDirectory(dirname(path));
    return await makeDirectory(path);
  }
  await syncDirectory(dirname(path));
}

/** @throws {@link StoreError} io - if the path is another kind of file, or a link to nothing */
async function assertDirectory(path: string): Promise<void> {
  if (await isDirectory(path)) return;
  const isDangling = (await statIfExists(path).catch(() => null)) === undefined;
  const why = isDangling ? "is a link to a missing directory" : "is not a directory";
  throw new StoreError("io", `${path} ${why}`);
}

async function isDirectory(path: string): Promise<boolean> {
  const stats = await statIfExists(path).catch(() => undefined);
  return stats?.isDirectory() ?? false;
}

/**
 * Syncs the names in a directory, so that files created, renamed or removed there survive a power
 * failure.
 */
export async function syncDirectory(path: string): Promise<void> {
  try {
    await using directory = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
    await directory.sync();
  } catch (error) {
    // Some network and FUSE file systems cannot sync a directory.
    if (!hasCode(error, "EINVAL", "ENOTSUP")) throw systemError(error, `cannot sync ${path}`);
  }
}

/**
 * Creates a complete, synced file, or none.
 *
 * @throws {@link StoreError} refused - if the name is taken
 * @throws {@link StoreError} io - if the system fails
 */
export async function createFile(
  path: string,
  contents: string | Uint8Array,
  mode = 0o600,
): Promise<void> {
  await using file = await openNew(path, mode);
  try {
    await file.writeFile(contents);
    await setMode(file, mode);
    await file.sync();
  } catch (error) {
    await discard(path);
    throw systemError(error, `cannot write ${path}`);
  }
  await syncDirectory(dirname(path));
}

async function openNew(path: string, mode: number): Promise<FileHandle> {
  try {
    return await open(path, newFile, mode);
  } catch (error) {
    if (hasCode(error, "EEXIST")) throw alreadyExistsError(path);
    throw systemError(error, `cannot create ${path}`);
  }
}

/**
 * Sets the mode of a new file, because the umask has removed bits from it.
 *
 * On a file system without modes (FAT, exFAT, NTFS), every file has the permissions of the mount.
 * Some drivers ignore the call there, others fail.
 */
async function setMode(file: FileHandle, mode: number): Promise<void> {
  try {
    await file.chmod(mode);
  } catch (error) {
    if (!hasCode(error, "EPERM", "ENOTSUP", "ENOSYS")) throw error;
    if (((await file.stat()).mode & mode) !== mode) throw error;
  }
}

/**
 * Gives a complete, synced file its final name on the same file system, unless the name is taken.
 *
 * @throws {@link StoreError} refused - if the final name is taken; `staged` then still exists
 */
export async function claimName(staged: string, final: string): Promise<void> {
  try {
    await link(staged, final);
    await rm(staged);
  } catch (error) {
    if (hasCode(error, "EEXIST")) throw alreadyExistsError(final);
    if (!hasCode(error, "EPERM", "ENOTSUP", "ENOSYS", "EMLINK")) {
      throw systemError(error, `cannot create ${final}`);
    }
    // A file system without hard links (FAT, some network shares): reserve the name with an empty
    // file, then rename over it.
    await createFile(final, "");
    await rename(staged, final);
  }
  await syncDirectory(dirname(final));
}

/** Removes an unfinished file. Ignores errors: the caller reports why the file is unfinished. */
async function discard(path: string): Promise<void> {
  await rm(path, { force: true }).catch(() => undefined);
}

function alreadyExistsError(path: string): StoreError {
  return new StoreError("refused", `file exists: ${path}`, {
    hint: "Name another file, or move the existing file away.",
  });
}

/**
 * Removes a file if it exists.
 *
 * @throws {@link StoreError} io - if the system fails
 */
export async function removeFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw systemError(error, `cannot remove ${path}`);
  }
}

/**
 * Renames a file, replacing an existing file of the new name.
 *
 * @throws {@link StoreError} io - if the system fails
 */
export async function moveFile(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    throw systemError(error, `cannot rename ${from} to ${to}`);
  }
}

/** Returns a new hidden name in the directory of `path`, for its unfinished replacement. */
export function stagedName(path: string): string {
  return join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}.partial`);
}

/**
 * Returns a free path next to a file, for the old file when another file replaces it. The name
 * contains the time.
 *
 * @param why - the part of the name before the time
 */
export async function replacedName(path: string, why = "replaced"): Promise<string> {
  for (let second = Date.now(); ; second += 1000) {
    const when = new Date(second).toISOString().slice(0, 19).replaceAll(":", "-");
    const name = `${path}.${why}.${when}Z`;
    if (!(await lstatIfExists(name))) return name;
  }
}

/** The end of a staged file's name. A staged database may have a sidecar file of SQLite. */
const stagedEnding = /^[0-9a-f]{12}\.partial(?:-journal|-wal|-shm)?$/;

/**
 * Removes staged files of `path` left by killed processes. No process may be writing `path`.
 *
 * @returns whether there were any
 */
export async function removePartials(path: string): Promise<boolean> {
  const directory = dirname(path);
  const prefix = `.${basename(path)}.`;
  let found = false;
  try {
    for (const name of await readdir(directory)) {
      if (!name.startsWith(prefix) || !stagedEnding.test(name.slice(prefix.length))) {
        continue;
      }
      await rm(join(directory, name), { force: true });
      found = true;
    }
  } catch (error) {
    if (hasCode(error, "ENOENT")) return false;
    throw systemError(error, `cannot remove unfinished files from ${directory}`);
  }
  return found;
}

/**
 * Replaces a file's contents in one step, with the same owner and mode. Creates it with `mode` if
 * it does not exist. A reader sees either the old contents or the new.
 *
 * @throws {@link StoreError} refused - if it is not a regular file, has an access control list, or
 *   belongs to another user
 * @throws {@link StoreError} io - if the system fails
 */
export async function replaceFile(
  path: string,
  contents: string | Uint8Array,
  mode = 0o600,
): Promise<void> {
  const staged = await stageReplacement(path, contents, mode);
  try {
    await rename(staged, path);
  } catch (error) {
    await discard(staged);
    throw systemError(error, `cannot replace ${path}`);
  }
  await syncDirectory(dirname(path));
}

/**
 * Tries every step of `replaceFile` except the rename: the directory must be writable, and it must
 * be possible to give a new file the owner and mode of the old file.
 *
 * @throws {@link StoreError} as `replaceFile`
 * @throws {@link StoreError} refused - if the path is a mount point
 */
export async function assertReplaceable(path: string): Promise<void> {
  await assertNotMountPoint(path);
  const staged = await stageReplacement(path, "");
  try {
    await rm(staged);
  } catch (error) {
    throw systemError(error, `cannot replace ${path}`);
  }
  await syncDirectory(dirname(path));
}

/**
 * Writes the new contents to a staged file with the owner, group and mode of the existing file. The
 * file gets them before the contents: a directory may give new files another group, or an access
 * control list. The staged file stays open in between, because its mode may forbid writing.
 */
async function stageReplacement(
  path: string,
  contents: string | Uint8Array,
  mode = 0o600,
): Promise<string> {
  const staged = stagedName(path);
  const before = await lstatIfExists(path);
  if (before && !before.isFile()) throw new StoreError("refused", `${path} is not a regular file`);
  if (before) await assertNoAccessList(path, before);
  await using file = await openNew(staged, mode);
  try {
    if (before) await copyMetadata(path, staged);
    else await setMode(file, mode);
    await file.writeFile(contents);
    await file.sync();
  } catch (error) {
    await discard(staged);
    throw systemError(error, `cannot replace ${path}`);
  }
  return staged;
}
