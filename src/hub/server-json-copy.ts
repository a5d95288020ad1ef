/** Copies of `server.json` with the password, in memory, for hubs that `run` does not start. */
import { chmod, chown, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { systemError } from "../errors.js";
import { createFile, makeDirectory, replaceFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { assertPrivateMemory, isInMemory } from "./memory.js";
import { readServerJson } from "./server-json.js";

/** A copy of `server.json` in memory, mounted by a container. */
export interface ServerJsonCopy {
  readonly path: string;
  /** The hub's own file and the copy's owner, to write the copy again after a reboot. */
  readonly original?:
    | { readonly path: string; readonly uid: number; readonly gid: number }
    | undefined;
}

/**
 * Creates the directory of a copy with mode 0700, if it is missing and in memory.
 *
 * @throws {@link StoreError} refused - if the directory is not in memory or not private
 */
export async function makeCopyDirectory(directory: string): Promise<void> {
  if (await isInMemory(directory).catch(() => false)) await makeDirectory(directory);
  await assertPrivateMemory(directory);
}

/** Creates a copy again after a reboot, without its password. */
export async function restoreLostCopy({ path, original }: ServerJsonCopy): Promise<void> {
  if (original === undefined || (await lstatIfExists(path))) return;
  const { text } = await readServerJson(original.path);
  await makeCopyDirectory(dirname(path));
  await createFile(path, text);
  await giveTo(path, original);
}

/** Writes a copy of `server.json` with its text, owner and mode. */
export async function copyUnchanged(serverJson: string, path: string): Promise<void> {
  const { text, file } = await readServerJson(serverJson);
  await makeCopyDirectory(dirname(path));
  await replaceFile(path, text);
  const { uid, gid, mode } = await stat(file);
  await giveTo(path, { uid, gid });
  await chmod(path, mode & 0o777);
}

/** Gives a copy to the user as whom the hub runs. */
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
