/**
 * Records the last restore test of a store: `verify` with a bundle and its recovery key, or a
 * `restore`. `doctor` warns if there was none. One file for each store in
 * `$XDG_STATE_HOME/hivemind-sqlcipher`, without secrets.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { stateHome } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import * as z from "../schema.js";

const restoreTestSchema = z.object({
  /** The store's resolved path. */
  store: z.string(),
  at: z.iso.datetime(),
  how: z.enum(["verify", "restore"]),
  backup: z.string(),
  key_id: z.string(),
});

export type RestoreTest = z.infer<typeof restoreTestSchema>;

/**
 * Records the trial of a backup of a store, with the current time. A failure to write the record is
 * ignored: the trial itself succeeded.
 */
export async function recordRestoreTest(
  store: string,
  tried: Omit<RestoreTest, "store" | "at">,
): Promise<void> {
  const path = recordPath(store);
  const record: RestoreTest = { store, at: new Date().toISOString(), ...tried };
  try {
    await makeDirectory(dirname(path));
    await replaceFile(path, `${JSON.stringify(record)}\n`);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
  }
}

/**
 * Returns the record of a store's last restore test; undefined if there is none.
 *
 * @throws {@link StoreError} io - if the record cannot be read
 */
export async function findLastRestoreTest(store: string): Promise<RestoreTest | undefined> {
  const path = recordPath(store);
  try {
    const { data } = restoreTestSchema.safeParse(JSON.parse(await readFile(path, "utf8")));
    return data?.store === store ? data : undefined;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR") || error instanceof SyntaxError) return undefined;
    throw systemError(error, `cannot read ${path}`);
  }
}

function recordPath(store: string): string {
  const name = createHash("sha256").update(store).digest("hex").slice(0, 16);
  return join(stateHome(), "hivemind-sqlcipher", `rehearsal-${name}.json`);
}
