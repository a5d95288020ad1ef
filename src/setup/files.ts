/** Inspects files without changing anything, not even the times of a directory. */
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { dirname } from "node:path";
import { readMountPoints } from "../fs/mount.js";
import { lstatIfExists, statIfExists } from "../fs/read.js";

export async function isWritable(path: string): Promise<boolean> {
  return access(path, constants.W_OK).then(
    () => true,
    () => false,
  );
}

/**
 * Returns whether a file can be replaced: its directory is writable, and the file is neither a
 * mount point nor marked read-only, as a tool that manages it does.
 *
 * @param file - a real path
 */
export async function isReplaceable(file: string): Promise<boolean> {
  const mode = Number((await lstatIfExists(file))?.mode ?? 0);
  if ((mode & 0o200) === 0 || (await readMountPoints()).has(file)) return false;
  return (await isWritable(dirname(file))) && (await isWritable(file));
}

/** Returns the path, or the nearest directory above it that exists. */
export async function findExistingAncestor(path: string): Promise<string> {
  let current = path;
  while (!(await statIfExists(current))) current = dirname(current);
  return current;
}

export async function readSize(path: string): Promise<number> {
  return (await statIfExists(path))?.size ?? 0;
}
