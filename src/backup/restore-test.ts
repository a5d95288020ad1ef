/**
 * Records the last restore tests of a store: `drill`, `restore`, and `verify` with a bundle.
 * `doctor` warns if there was none.
 *
 * A drill with the keyring tests the backup, but not the bundle and the recovery key, which are
 * needed if the machine is lost. So the last test with a bundle is recorded separately.
 */
import { readStoreRecord, writeStoreRecord } from "../config/store-record.js";
import * as z from "../schema.js";

/** The first part of the file's name since version 0.1.0. */
const subject = "rehearsal";

const restoreTestSchema = z.object({
  at: z.iso.datetime(),
  how: z.enum(["verify", "restore", "drill"]),
  backup: z.string(),
  key_id: z.string(),
});

const recordSchema = z.extend(restoreTestSchema, {
  /**
   * The last test with a bundle and its key, or null. Absent in records of version 0.1.0, which
   * recorded `verify` only with a bundle, but `restore` also without.
   */
  with_bundle: z.optional(z.nullable(restoreTestSchema)),
});

export type RestoreTest = z.infer<typeof restoreTestSchema>;

export interface RestoreTests {
  readonly last: RestoreTest | undefined;
  /** The last test in which a bundle was opened with its key. */
  readonly withBundle: RestoreTest | undefined;
}

export async function recordRestoreTest(
  store: string,
  details: Omit<RestoreTest, "at">,
  { withBundle }: { readonly withBundle: boolean },
): Promise<void> {
  const test = { at: new Date().toISOString(), ...details };
  const earlier = await findLastRestoreTests(store);
  const with_bundle = withBundle ? test : (earlier.withBundle ?? null);
  await writeStoreRecord(store, subject, { ...test, with_bundle });
}

/**
 * Returns a store's last restore tests.
 *
 * @throws {@link StoreError} io - if the record cannot be read
 */
export async function findLastRestoreTests(store: string): Promise<RestoreTests> {
  const record = await readStoreRecord(store, subject, recordSchema);
  if (record === undefined) return { last: undefined, withBundle: undefined };
  const { with_bundle: recorded, ...last } = record;
  const withBundle = recorded === undefined && last.how === "verify" ? last : recorded;
  return { last, withBundle: withBundle ?? undefined };
}
