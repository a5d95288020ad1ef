/**
 * When a backup was last tried the way it will be needed: `verify` with a bundle and the key that opens it, or a
 * `restore`. Kept in `$XDG_STATE_HOME/hivemind-sqlcipher`, one file a store, with no secret in it; `doctor` asks for it.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { stateHome } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import * as z from "../schema.js";

const rehearsalSchema = z.object({
  /** The store's resolved path. */
  store: z.string(),
  at: z.iso.datetime(),
  how: z.enum(["verify", "restore"]),
  backup: z.string(),
  key_id: z.string(),
});

export type RestoreTest = z.infer<typeof rehearsalSchema>;

/**
 * Remembers that a backup of a store was tried just now. Where that cannot be kept, it is not known later; the trial was a
 * success all the same.
 */
export async function recordRestoreTest(
  store: string,
  tried: Omit<RestoreTest, "store" | "at">,
): Promise<void> {
  const path = recordOf(store);
  const record: RestoreTest = { store, at: new Date().toISOString(), ...tried };
  try {
    await makeDirectory(dirname(path));
    await replaceFile(path, `${JSON.stringify(record)}\n`);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
  }
}

/** The last time a backup of a store was tried; undefined if that is not known. @throws StoreError `io`. */
export async function findLastRestoreTest(store: string): Promise<RestoreTest | undefined> {
  const path = recordOf(store);
  try {
    const { data } = rehearsalSchema.safeParse(JSON.parse(await readFile(path, "utf8")));
    return data?.store === store ? data : undefined;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR") || error instanceof SyntaxError) return undefined;
    throw systemError(error, `cannot read ${path}`);
  }
}

function recordOf(store: string): string {
  const name = createHash("sha256").update(store).digest("hex").slice(0, 16);
  return join(stateHome(), "hivemind-sqlcipher", `rehearsal-${name}.json`);
}
