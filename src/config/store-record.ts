/**
 * Records of a store in `$XDG_STATE_HOME/hivemind-sqlcipher`: one file for each store and subject,
 * named after a hash of the store's path, without secrets. A lost record loses no data.
 */
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { sha256Hex } from "../fs/read.js";
import type * as z from "../schema.js";
import { stateHome } from "./paths.js";

/**
 * Reads a record. Returns undefined if there is none, if it is damaged, or if it belongs to another
 * store.
 *
 * @param storePath - with every symbolic link resolved
 * @param subject - the first part of the file's name
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function readStoreRecord<Contents extends { readonly store: string }>(
  storePath: string,
  subject: string,
  schema: z.ZodMiniType<Contents>,
): Promise<Contents | undefined> {
  const path = recordPathOf(storePath, subject);
  try {
    const { data } = schema.safeParse(JSON.parse(await readFile(path, "utf8")));
    return data?.store === storePath ? data : undefined;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR") || error instanceof SyntaxError) return undefined;
    throw systemError(error, `cannot read ${path}`);
  }
}

/**
 * Writes a record. Ignores a failure, for example an unwritable state directory, because the
 * operation that is recorded has succeeded.
 */
export async function writeStoreRecord(
  storePath: string,
  subject: string,
  contents: Readonly<Record<string, unknown>>,
): Promise<void> {
  const path = recordPathOf(storePath, subject);
  try {
    await makeDirectory(dirname(path));
    await replaceFile(path, `${JSON.stringify({ store: storePath, ...contents })}\n`);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
  }
}

function recordPathOf(storePath: string, subject: string): string {
  const name = sha256Hex(storePath).slice(0, 16);
  return join(stateHome(), "hivemind-sqlcipher", `${subject}-${name}.json`);
}
