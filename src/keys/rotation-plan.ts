/**
 * The passphrases in the keyring while a store's file is replaced.
 *
 * The new passphrase is stored as `#pending` before any file is encrypted with it. The old file's
 * passphrase is stored as `#previous:<key_id>` before the file is removed. The new passphrase
 * becomes the current passphrase only after that. After a kill at any point, a passphrase in the
 * keyring opens the store.
 */
import { randomBytes } from "node:crypto";
import { StoreError } from "../errors.js";
import type { Reporter } from "../reporter.js";
import * as z from "../schema.js";
import { deleteEntry, getEntry, isSlotOf, listEntries, nameInSlot, setEntry } from "./keyring.js";
import {
  describeSource,
  type Generation,
  hasPassphrase,
  type PassphraseSource,
  readPassphrases,
} from "./source.js";

/** The keyring changes of a swap. Journaled, so that recovery can finish or undo them. */
export const keyringPlanSchema = z.strictObject({
  /**
   * The current passphrase is kept as `#previous:` and this name; null without a current
   * passphrase.
   */
  previous: z.nullable(z.string()),
  /** Whether the `#previous:` entry stays after the swap. */
  keep_previous: z.boolean(),
  /** Whether a new passphrase becomes current. If not, the store is decrypted and needs none. */
  pending: z.boolean(),
});

export type KeyringPlan = z.infer<typeof keyringPlanSchema>;

/**
 * Plans the keyring's changes for a store with a new passphrase.
 *
 * @param source - the passphrase's source; only the keyring needs changes
 * @param next - the new passphrase; undefined for a store that will not be encrypted
 * @param replaced - the replaced file's key_id and its passphrase, if known
 * @param keepPrevious - whether the replaced file's passphrase stays, for older backups
 * @returns undefined if the keyring needs no change
 */
export async function planRotation(
  storePath: string,
  source: PassphraseSource,
  next: string | undefined,
  replaced: { keyId?: string | undefined; passphrase?: string | undefined },
  keepPrevious: boolean,
): Promise<KeyringPlan | undefined> {
  if (source.kind !== "keyring") return undefined;
  const current = await getEntry(storePath, "current");
  if (current === next) return undefined;
  const pending = next !== undefined;
  if (current === undefined) return { previous: null, keep_previous: false, pending };
  const { keyId } = replaced;
  if (keyId !== undefined && current === replaced.passphrase) {
    const existing = await getEntry(storePath, `previous:${keyId}`);
    if (existing === undefined) return { previous: keyId, keep_previous: keepPrevious, pending };
    if (existing === current) return { previous: keyId, keep_previous: true, pending };
  }
  // The current passphrase does not open this file, or the entry of this key_id has another
  // passphrase. The current passphrase may open another file, so it is always kept.
  return { previous: await resolvePreviousName(storePath, current), keep_previous: true, pending };
}

/**
 * Makes a pending passphrase current if it opened the store.
 *
 * @param generation - of the passphrase that opened the store; undefined if none was needed
 */
export async function adoptPending(
  storePath: string,
  generation: Generation | undefined,
  reporter: Pick<Reporter, "notice">,
): Promise<void> {
  if (generation !== "pending") return;
  await makePendingCurrent(storePath);
  reporter.notice("the pending passphrase opens the store, and is now the current passphrase");
}

/** Makes the pending passphrase current if it equals `passphrase`, which opens the store. */
export async function adoptPendingIfEqual(storePath: string, passphrase: string): Promise<void> {
  if ((await getEntry(storePath, "pending")) === passphrase) await makePendingCurrent(storePath);
}

/** Makes the pending passphrase current, and keeps the current passphrase as a previous one. */
export async function makePendingCurrent(storePath: string): Promise<void> {
  const pending = await getEntry(storePath, "pending");
  const plan = await planRotation(storePath, { kind: "keyring" }, pending, {}, true);
  if (!plan) return;
  await keepCurrent(storePath, plan);
  await promotePending(storePath, plan);
}

/** Stores the current passphrase under the plan's previous entry and reads it back. */
export async function keepCurrent(storePath: string, plan: KeyringPlan): Promise<void> {
  if (plan.previous === null) return;
  const current = await getEntry(storePath, "current");
  if (current === undefined) {
    throw new StoreError(
      "passphraseUnavailable",
      `the keyring lost the passphrase of ${storePath} during this operation`,
      {
        hint: "Nothing was changed. Take the passphrase from the bundle: hivemind-sqlcipher bundle import FILE --identity FILE",
      },
    );
  }
  await setEntry(storePath, `previous:${plan.previous}`, current);
}

/**
 * Returns the keyring slot in which the password in `server.json` must be kept before it is
 * replaced. The password may be the only passphrase of some store.
 *
 * @param next - the new password
 * @returns the name after `#previous:`; undefined if there is no password, or if it is kept already
 * @throws {@link StoreError} refused - if the source is not the keyring and has another passphrase
 */
export async function resolvePasswordSlot(
  storePath: string,
  source: PassphraseSource,
  password: string | undefined,
  next: string | undefined,
): Promise<string | undefined> {
  if (password === undefined || password === next) return undefined;
  if (source.kind !== "keyring") {
    if (await hasPassphrase(source, storePath, password)) return undefined;
    throw new StoreError(
      "refused",
      `server.json has another password than ${describeSource(source)}, and it would be lost`,
      {
        hint: "Store the password elsewhere if a store needs it, then remove it from server.json.",
      },
    );
  }
  if ((await getEntry(storePath, "current")) === password) return undefined;
  return await resolvePreviousName(storePath, password);
}

/**
 * Returns the name after `#previous:` for a passphrase without a key_id: its existing name, or a
 * random name. The name must not depend on the passphrase, because names are readable in a locked
 * keyring and in the journal.
 */
async function resolvePreviousName(storePath: string, passphrase: string): Promise<string> {
  const existing = (await listEntries(storePath)).find(
    ({ slot, secret }) => isSlotOf(slot, "previous") && secret === passphrase,
  );
  return (existing && nameInSlot(existing.slot, "previous")) ?? randomBytes(8).toString("hex");
}

/**
 * Makes the new file's passphrase current, after the file has been put in place. Deletes the
 * current passphrase if the new file is not encrypted. Idempotent.
 */
export async function promotePending(storePath: string, plan: KeyringPlan): Promise<void> {
  if (!plan.pending) {
    await deleteEntry(storePath, "current");
    return;
  }
  const pending = await getEntry(storePath, "pending");
  if (pending === undefined) return;
  await setEntry(storePath, "current", pending);
  await deleteEntry(storePath, "pending");
}

/** Deletes the entry that was kept only for the old file, after the new file is in use. */
export async function deleteReplaced(storePath: string, plan: KeyringPlan): Promise<void> {
  if (plan.previous === null) return;
  if (!plan.keep_previous) await deleteEntry(storePath, `previous:${plan.previous}`);
}

/**
 * Restores the keyring's entries as before the swap, if the old file stays or was put back.
 * Idempotent.
 *
 * @param replaced - whether the new file was in place; the new passphrase may then be current
 */
export async function restoreKeyring(
  storePath: string,
  plan: KeyringPlan,
  replaced: boolean,
): Promise<void> {
  if (plan.previous === null) {
    if (replaced) await deleteEntry(storePath, "current");
  } else {
    const kept = await getEntry(storePath, `previous:${plan.previous}`);
    if (kept !== undefined && replaced) await setEntry(storePath, "current", kept);
    if (kept !== undefined && !plan.keep_previous) {
      await deleteEntry(storePath, `previous:${plan.previous}`);
    }
  }
  if (plan.pending) await deleteEntry(storePath, "pending");
}

/**
 * Returns the most likely passphrase of a source.
 *
 * @throws {@link StoreError} passphraseUnavailable - if the source has none
 */
export async function readFirstPassphrase(
  source: PassphraseSource,
  storePath: string,
): Promise<string> {
  for await (const { passphrase } of readPassphrases(source, storePath)) return passphrase;
  throw new StoreError("passphraseUnavailable", `${describeSource(source)} yields no passphrase`);
}

/**
 * Checks that the source still returns the passphrase of the staged file.
 *
 * @param plan - the keyring's changes; undefined if the passphrase is current already, or if the
 *   source is not the keyring
 * @throws {@link StoreError} passphraseUnavailable - if the passphrase is missing or different
 */
export async function assertPassphraseKept(
  storePath: string,
  source: PassphraseSource,
  plan: KeyringPlan | undefined,
  passphrase: string,
): Promise<void> {
  const isPresent =
    source.kind === "keyring"
      ? (await getEntry(storePath, plan ? "pending" : "current")) === passphrase
      : await hasPassphrase(source, storePath, passphrase);
  if (isPresent) return;
  throw new StoreError(
    "passphraseUnavailable",
    `${describeSource(source)} no longer has the new passphrase of ${storePath}`,
    { hint: "Nothing was changed. Stop other programs that change the source, then try again." },
  );
}
