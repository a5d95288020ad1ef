/** Copies of `server.json` in memory, for the password of a hub that `run` does not start. */
import { chmod, chown, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { systemError } from "../errors.js";
import { createFile, makeDirectory, replaceFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { assertPrivateMemory, isInMemory } from "./memory.js";
import { readServerJson } from "./server-json.js";

/** A copy of `server.json` in memory, which a container mounts over the hub's own file. */
export interface ServerJsonCopy {
  readonly path: string;
  /** The hub's own file, and the owner of the copy: the copy is lost at a reboot. */
  readonly original?:
    | { readonly path: string; readonly uid: number; readonly gid: number }
    | undefined;
}

/**
 * Creates the directory of a copy with mode 0700, if it is missing and in memory.
 *
 * @throws {@link StoreError} refused - if the directory exists, and is not in memory or not private
 * @throws {@link StoreError} io - if the directory is missing and would not be in memory
 */
export async function makeCopyDirectory(directory: string): Promise<void> {
  if (await isInMemory(directory).catch(() => false)) await makeDirectory(directory);
  await assertPrivateMemory(directory);
}

/** Creates a copy that was lost at a reboot, without its password. */
export async function restoreLostCopy({ path, original }: ServerJsonCopy): Promise<void> {
  if (original === undefined || (await lstatIfExists(path))) return;
  const { text } = await readServerJson(original.path);
  await makeCopyDirectory(dirname(path));
  await createFile(path, text);
  await giveTo(path, original);
}

/** Writes a copy of `server.json` with the same text, owner and mode. */
export async function writeUnchangedCopy(serverJson: string, path: string): Promise<void> {
  const { text, file } = await readServerJson(serverJson);
  await makeCopyDirectory(dirname(path));
  await replaceFile(path, text);
  const { uid, gid, mode } = await stat(file);
  await giveTo(path, { uid, gid });
  await chmod(path, mode & 0o777);
}

export async function giveTo(
  path: string,
  { uid, gid }: { uid: number; gid: number },
): Promise<void> {
  try {
    await chown(path, uid, gid);
  } catch (error) {
    throw systemError(error, `cannot give ${path} to user ${uid}`);
  }
}
