/**
 * Records in `$XDG_STATE_HOME/hivemind-sqlcipher`, without secrets. A lost record loses no data.
 * Each store has a file for each subject, named after a hash of the store's path.
 */
import { dirname, join } from "node:path";
import { StoreError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { readTextIfExists, sha256Hex } from "../fs/read.js";
import type * as z from "../schema.js";
import { type Environment, stateHome } from "./paths.js";

/**
 * Reads a record. Returns undefined if there is none, if it is damaged, or if it belongs to another
 * store.
 *
 * @param storePath - with every symbolic link resolved
 * @param subject - the first part of the file's name
 * @param schema - of the record without the store's path
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function readStoreRecord<Contents>(
  storePath: string,
  subject: string,
  schema: z.ZodMiniType<Contents>,
): Promise<Contents | undefined> {
  const text = await readTextIfExists(statePath(subject, storePath));
  try {
    const record = JSON.parse(text ?? "");
    return record?.store === storePath ? schema.safeParse(record).data : undefined;
  } catch {
    return undefined; // missing, or not JSON
  }
}

/** Writes a record of a store, as {@link writeState} does. */
export async function writeStoreRecord(
  storePath: string,
  subject: string,
  contents: Readonly<Record<string, unknown>>,
): Promise<void> {
  await writeState(statePath(subject, storePath), { store: storePath, ...contents });
}

/**
 * Writes a file of the state directory. Ignores a failure, for example an unwritable directory,
 * because what is recorded has succeeded.
 */
export async function writeState(path: string, contents: object): Promise<void> {
  try {
    await makeDirectory(dirname(path));
    await replaceFile(path, `${JSON.stringify(contents)}\n`);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
  }
}

/** Returns the path of a file in the state directory. Its name has a hash of `key`. */
export function statePath(subject: string, key: string, environment?: Environment): string {
  const name = `${subject}-${sha256Hex(key).slice(0, 16)}.json`;
  return join(stateHome(environment), "hivemind-sqlcipher", name);
}
