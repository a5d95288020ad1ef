/**
 * The directories of backups and bundles. Their disks may be unmounted.
 *
 * A directory that was used before is never created again: backups on the root disk, under an empty
 * mount point, would be missed on the day they are needed. A file for each store in
 * `$XDG_STATE_HOME/hivemind-sqlcipher` records the directories that the store has used, and the
 * mount points of their file systems.
 */
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { isKind, StoreError, systemError } from "../errors.js";
import { makeDirectory } from "../fs/atomic.js";
import { statIfExists } from "../fs/read.js";
import type { Reporter } from "../reporter.js";
import * as z from "../schema.js";
import { shellQuote } from "../text/escape.js";
import { realPath } from "./paths.js";
import { readStoreRecord, writeStoreRecord } from "./store-record.js";

const recordSchema = z.object({
  /** The mount point of each directory. */
  directories: z.record(z.string(), z.string()),
});

type MountPoints = Readonly<Record<string, string>>;

export interface DirectoryOptions {
  readonly storePath: string;
  /** Directories in the settings. They are never created. */
  readonly known: readonly string[];
  readonly reporter: Pick<Reporter, "notice" | "confirmOnTerminal">;
}

/** A missing directory, or one on another file system than before. */
export interface MissingDirectory {
  readonly path: string;
  readonly message: string;
  /** The former mount point of its file system; undefined if unknown. */
  readonly mountPoint: string | undefined;
  /** Whether the directory exists, on another file system. */
  readonly exists: boolean;
}

/**
 * Checks that directories exist on the same file systems as before, then records them. Creates a
 * directory only if neither the settings nor an earlier operation knows it.
 *
 * @throws {@link StoreError} io - if a known directory is missing, its disk is not mounted, or the
 *   user cannot be asked whether it has moved
 * @throws {@link StoreError} refused - if the user does not confirm the move to another file system
 */
export async function prepareDirectories(
  paths: readonly string[],
  options: DirectoryOptions,
): Promise<void> {
  await createDirectories(paths, options);
  await recordDirectories(paths, options.storePath);
}

/** Checks and creates directories like `prepareDirectories`, but does not record them. */
export async function createDirectories(
  paths: readonly string[],
  { storePath, known, reporter }: DirectoryOptions,
): Promise<void> {
  for (const missing of await findMissingDirectories(paths, storePath, known)) {
    if (missing.exists) await confirmMove(missing, reporter);
    else throw missingError(missing);
  }
  for (const path of paths) {
    if (await statIfExists(path)) continue;
    reporter.notice(`creating the directory ${path}`);
    await makeDirectory(path);
  }
}

export async function recordDirectories(
  paths: readonly string[],
  storePath: string,
): Promise<void> {
  const recorded = await readRecord(storePath);
  const directories: Record<string, string> = { ...recorded };
  for (const path of paths) directories[path] = await mountPointOf(path);
  if (isDeepStrictEqual(directories, recorded)) return;
  await writeStoreRecord(storePath, "directories", { directories });
}

/**
 * Checks that directories are not missing.
 *
 * @param known - as for `findMissingDirectories`
 * @throws {@link StoreError} io - if a directory is missing
 */
export async function assertNotMissing(
  paths: readonly string[],
  storePath: string,
  known?: readonly string[],
): Promise<void> {
  const [missing] = await findMissingDirectories(paths, storePath, known);
  if (missing) throw missingError(missing);
}

/**
 * Checks as `assertNotMissing` that a directory of an interrupted operation is not missing. The
 * hint does not name a confirmed move, because a recovery cannot ask the user to confirm.
 */
export async function assertMounted(path: string, storePath: string): Promise<void> {
  const [missing] = await findMissingDirectories([path], storePath);
  if (missing) throw new StoreError("io", missing.message, { hint: `${mountHint(missing)}.` });
}

/**
 * Returns the directories that are missing, or that are not on the file system where they were
 * used.
 *
 * @param known - the paths that are in the settings; any other path is missing only if it was used
 *   before. Default: all paths.
 * @throws {@link StoreError} io - if a directory or the record cannot be read
 */
export async function findMissingDirectories(
  paths: readonly string[],
  storePath: string,
  known = paths,
): Promise<MissingDirectory[]> {
  const mountPoints = await readRecord(storePath);
  const missing = paths.map((path) => findMissing(path, mountPoints, known.includes(path)));
  return (await Promise.all(missing)).filter((directory) => directory !== undefined);
}

/** Returns the directories used by earlier operations on a store. They may no longer exist. */
export async function readUsedDirectories(storePath: string): Promise<string[]> {
  return Object.keys(await readRecord(storePath));
}

async function findMissing(
  path: string,
  mountPoints: MountPoints,
  isInSettings: boolean,
): Promise<MissingDirectory | undefined> {
  const mountPoint = await recordedMountPoint(path, mountPoints);
  if (!(await statIfExists(path))) {
    if (!isInSettings && mountPoint === undefined) return undefined;
    return { path, message: `${path}: no such file or directory`, mountPoint, exists: false };
  }
  if (mountPoint === undefined || !isBelow(mountPoint, await mountPointOf(path))) return undefined;
  const message = `${path} is not on the file system that was mounted at ${mountPoint}`;
  return { path, message, mountPoint, exists: true };
}

/** Returns the recorded mount point of a directory. The recorded path may be a link to it. */
async function recordedMountPoint(
  path: string,
  mountPoints: MountPoints,
): Promise<string | undefined> {
  if (mountPoints[path] !== undefined) return mountPoints[path];
  const resolve = (each: string) => realPath(each).catch(() => each);
  const resolved = await resolve(path);
  for (const [recorded, mountPoint] of Object.entries(mountPoints)) {
    if ((await resolve(recorded)) === resolved) return mountPoint;
  }
  return undefined;
}

function missingError(missing: MissingDirectory): StoreError {
  return new StoreError("io", missing.message, { hint: missingHint(missing) });
}

export function missingHint(missing: MissingDirectory): string {
  const { path, exists } = missing;
  const otherwise = exists
    ? "if the directory has moved to this file system, run backup on a terminal and confirm the move; --yes does not confirm it."
    : `if it was not on a disk of its own, create the directory: mkdir -p -m 700 ${shellQuote(path)}`;
  return `${mountHint(missing)}; or, ${otherwise}`;
}

function mountHint({ mountPoint }: MissingDirectory): string {
  const isKnown = mountPoint !== undefined && mountPoint !== "/";
  return isKnown ? `Mount its disk, which was at ${mountPoint}` : "Mount its disk";
}

/**
 * Throws unless the user confirms on a terminal that the directory has moved to another file
 * system. Ignores --yes: a script passes it for other questions, and would confirm this question on
 * the day that a disk is not mounted.
 */
async function confirmMove(
  missing: MissingDirectory,
  reporter: DirectoryOptions["reporter"],
): Promise<void> {
  const { path, message } = missing;
  if (!reporter.confirmOnTerminal) throw missingError(missing);
  try {
    await reporter.confirmOnTerminal(`${message}.\nHas the directory moved to this file system?`);
  } catch (error) {
    throw isKind(error, "usage") ? missingError(missing) : error;
  }
  reporter.notice(`the new file system of ${path} is recorded`);
}

async function mountPointOf(path: string): Promise<string> {
  let current = await realPath(path);
  try {
    const { dev } = await stat(current);
    for (;;) {
      const parent = dirname(current);
      if (parent === current || (await stat(parent)).dev !== dev) return current;
      current = parent;
    }
  } catch (error) {
    throw systemError(error, `cannot read the metadata of ${current}`);
  }
}

function isBelow(path: string, ancestor: string): boolean {
  return path !== ancestor && path.startsWith(ancestor === "/" ? "/" : `${ancestor}/`);
}

async function readRecord(storePath: string): Promise<MountPoints> {
  return (await readStoreRecord(storePath, "directories", recordSchema))?.directories ?? {};
}
