/**
 * Records the last restore test of a store: `verify` or `drill` with a bundle and its recovery key,
 * or a `restore`. `doctor` warns if there was none.
 */
import { readStoreRecord, writeStoreRecord } from "../config/store-record.js";
import * as z from "../schema.js";

/** The first part of the file's name since version 0.1.0. */
const subject = "rehearsal";

const restoreTestSchema = z.object({
  /** The store's resolved path. */
  store: z.string(),
  at: z.iso.datetime(),
  how: z.enum(["verify", "restore", "drill"]),
  backup: z.string(),
  key_id: z.string(),
});

export type RestoreTest = z.infer<typeof restoreTestSchema>;

/** Records the trial of a backup of a store, with the current time. */
export async function recordRestoreTest(
  store: string,
  tried: Omit<RestoreTest, "store" | "at">,
): Promise<void> {
  await writeStoreRecord(store, subject, { at: new Date().toISOString(), ...tried });
}

/**
 * Returns the record of a store's last restore test; undefined if there is none.
 *
 * @throws {@link StoreError} io - if the record cannot be read
 */
export function findLastRestoreTest(store: string): Promise<RestoreTest | undefined> {
  return readStoreRecord(store, subject, restoreTestSchema);
}
