/**
 * Creates, replaces and removes files so that a power failure does not undo it.
 *
 * A new file is readable only by its owner, is created exclusively (so never through a symbolic
 * link), and is synced together with its directory. `replaceFile` renames a complete file, so that
 * a crash leaves either the old contents or the new. A failure of the system is a `StoreError` of
 * kind `io`.
 */
import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, link, mkdir, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { assertNoAccessList, copyMetadata } from "./metadata.js";
import { assertNotMountPoint } from "./mount.js";
import { listDirectory, lstatIfExists, statIfExists } from "./read.js";

const newFile = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/**
 * Creates a directory and its missing parents with mode 0700, and syncs them. Leaves an existing
 * directory unchanged.
 *
 * @throws {@link StoreError} io - if the path is not a directory
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
 * Creates and syncs a file. Removes it again after a failure, but a killed process can leave an
 * incomplete file.
 *
 * @throws {@link StoreError} refused - if the name is taken
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
 * Renames a complete, synced file to its final name on the same file system. Never replaces a file.
 *
 * @throws {@link StoreError} refused - if the final name is taken; `staged` then still exists
 */
export async function claimName(staged: string, final: string): Promise<void> {
  try {
    await link(staged, final);
    await rm(staged);
  } catch (error) {
    if (hasCode(error, "EEXIST")) throw alreadyExistsError(final);
    if (!isLinkUnsupported(error)) throw systemError(error, `cannot create ${final}`);
    // Reserve the name with an empty file, then rename over it.
    await createFile(final, "");
    await moveFile(staged, final);
  }
  await syncDirectory(dirname(final));
}

/**
 * Creates a file with `write`, which gets the path of a staged file. The file gets its name when it
 * is complete. In another user's directory, a file of root gets the owner of the directory.
 *
 * @returns what `write` returns
 * @throws {@link StoreError} refused - if the name is taken
 * @throws what `copyMetadata` and `write` throw
 */
export async function createStaged<Result>(
  path: string,
  write: (staged: string) => Promise<Result>,
): Promise<Result> {
  const staged = stagedName(path);
  try {
    const result = await write(staged);
    await copyMetadata(path, staged);
    await claimName(staged, path);
    return result;
  } finally {
    await rm(staged, { force: true });
  }
}

/**
 * Returns whether an error of `link` means that the file system has no hard links (FAT, some
 * network shares), or does not allow one here.
 */
export function isLinkUnsupported(error: unknown): boolean {
  return hasCode(error, "EPERM", "ENOTSUP", "ENOSYS", "EMLINK");
}

/** Removes an unfinished file. Ignores errors: the caller reports the first error. */
async function discard(path: string): Promise<void> {
  await rm(path, { force: true }).catch(() => undefined);
}

function alreadyExistsError(path: string): StoreError {
  return new StoreError("refused", `file exists: ${path}`, {
    hint: "Name another file, or move the existing file away.",
  });
}

/** Removes a file if it exists. */
export async function removeFile(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    throw systemError(error, `cannot remove ${path}`);
  }
}

/** Renames a file, replacing an existing file of the new name. */
export async function moveFile(from: string, to: string): Promise<void> {
  try {
    await rename(from, to);
  } catch (error) {
    throw systemError(error, `cannot rename ${from} to ${to}`);
  }
}

/**
 * Returns a new path with a hidden name next to `path`, for an unfinished replacement of the file.
 */
export function stagedName(path: string): string {
  return join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}.partial`);
}

/**
 * Returns a free path next to a file, to which the file can be moved away. The name contains the
 * time.
 *
 * @param why - the reason, which the name contains before the time
 */
export async function replacedName(path: string, why = "replaced"): Promise<string> {
  for (let second = Date.now(); ; second += 1000) {
    const when = new Date(second).toISOString().slice(0, 19).replaceAll(":", "-");
    const name = `${path}.${why}.${when}Z`;
    if (!(await lstatIfExists(name))) return name;
  }
}

/** Matches the end of a name of `stagedName`, also of the sidecar files of a staged database. */
const stagedEnding = /^[0-9a-f]{12}\.partial(?:-journal|-wal|-shm)?$/;

/**
 * Removes the staged files of `path` that killed processes have left. Must not run while a process
 * writes `path`.
 */
export async function removePartials(path: string): Promise<void> {
  const partials = await findPartials(path);
  try {
    for (const partial of partials) await rm(partial, { force: true });
  } catch (error) {
    throw systemError(error, `cannot remove unfinished files from ${dirname(path)}`);
  }
}

/** Returns the paths of the staged files of `path`. A running process may be writing them. */
export async function findPartials(path: string): Promise<string[]> {
  const directory = dirname(path);
  const prefix = `.${basename(path)}.`;
  const names = (await listDirectory(directory)) ?? [];
  return names
    .filter((name) => name.startsWith(prefix) && stagedEnding.test(name.slice(prefix.length)))
    .map((name) => join(directory, name));
}

/**
 * Replaces a file's contents in one step, with the same owner and mode. Creates it with `mode` if
 * it does not exist. A reader sees either the old contents or the new.
 *
 * @throws {@link StoreError} refused - if it is not a regular file, has an access control list, or
 *   belongs to another user
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
 * @throws {@link StoreError} refused - if the path is a mount point
 */
export async function assertReplaceable(path: string): Promise<void> {
  await assertNotMountPoint(path);
  const staged = await stageReplacement(path, "");
  try {
    // Another process may have removed it with `removePartials`.
    await rm(staged, { force: true });
  } catch (error) {
    throw systemError(error, `cannot replace ${path}`);
  }
  await syncDirectory(dirname(path));
}

/**
 * Writes the new contents to a staged file with the owner, group and mode of the existing file.
 * Sets owner, group and mode before it writes the contents: a directory may give new files another
 * group, or an access control list. Keeps the file open, because its mode may forbid opening it
 * again.
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
