/**
 * The passphrases in the keyring while a store's file is replaced.
 *
 * Before any file is encrypted under the new passphrase, it is stored as `#pending`. Before the old
 * file goes, its passphrase is also stored as `#previous:<key_id>`. Only then does the new
 * passphrase become the current one. Wherever a kill falls, opening the store finds a passphrase
 * that fits.
 */
import { randomBytes } from "node:crypto";
import { StoreError } from "../errors.js";
import type { Reporter } from "../reporter.js";
import * as z from "../schema.js";
import { deleteEntry, getEntry, listEntries, setEntry } from "./keyring.js";
import {
  describeSource,
  type Generation,
  type PassphraseSource,
  readPassphrases,
} from "./source.js";

/** What a swap does in the keyring. Journaled, so that recovery can finish or undo it. */
export const keyringPlanSchema = z.strictObject({
  /** The current passphrase is kept as `#previous:` and this; null if there is no current one. */
  previous: z.nullable(z.string()),
  /** Whether that entry stays after the swap. */
  keep_previous: z.boolean(),
  /** Whether a new passphrase becomes the current one. Otherwise the store has none any more. */
  pending: z.boolean(),
});

export type KeyringPlan = z.infer<typeof keyringPlanSchema>;

/**
 * Plans the keyring's changes for a store that gets another passphrase.
 *
 * @param source - of the passphrase; any source but the keyring needs no change there
 * @param next - the new passphrase; undefined for a store that will not be encrypted
 * @param replaced - the replaced file's key_id, and the passphrase that opens it, where known
 * @returns undefined if the keyring needs no change
 * @throws {@link StoreError} `passphraseUnavailable` - if the keyring cannot be read
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
  // The current passphrase does not open this file, or another passphrase has the entry of this
  // key_id. It may open another file, so it is kept in any case.
  return { previous: await previousName(storePath, current), keep_previous: true, pending };
}

/**
 * Makes a pending passphrase that opens the store the current one, whatever happened to the
 * operation that stored it.
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
  reporter.notice("the pending passphrase opens the store and is the current one now");
}

/** Makes the pending passphrase the current one if it equals `passphrase`, which opens the store. */
export async function adoptPendingIfEqual(storePath: string, passphrase: string): Promise<void> {
  if ((await getEntry(storePath, "pending")) === passphrase) await makePendingCurrent(storePath);
}

async function makePendingCurrent(storePath: string): Promise<void> {
  const pending = await getEntry(storePath, "pending");
  const plan = await planRotation(storePath, { kind: "keyring" }, pending, {}, true);
  if (!plan) return;
  await keepCurrent(storePath, plan);
  await promotePending(storePath, plan);
}

/** Stores the new passphrase as pending and reads it back. */
export async function keepPending(storePath: string, passphrase: string): Promise<void> {
  await setEntry(storePath, "pending", passphrase);
}

/** Stores the current passphrase under the plan's previous entry and reads it back. */
export async function keepCurrent(storePath: string, plan: KeyringPlan): Promise<void> {
  if (plan.previous === null) return;
  const current = await getEntry(storePath, "current");
  if (current === undefined) {
    throw new StoreError(
      "passphraseUnavailable",
      `the keyring lost the passphrase of ${storePath} during this operation`,
      { hint: "Nothing was changed. Take it from the bundle: hivemind-sqlcipher bundle import." },
    );
  }
  await setEntry(storePath, `previous:${plan.previous}`, current);
}

/**
 * Decides where the keyring keeps a password of `server.json` that is about to be replaced there,
 * because it may be the only passphrase of some store.
 *
 * @param next - the passphrase that replaces it
 * @returns the name after `#previous:`; undefined if it is the current passphrase, which is kept
 * @throws {@link StoreError} `passphraseUnavailable` - if the keyring cannot be read
 * @throws {@link StoreError} `refused` - if the source is not the keyring and cannot keep it
 */
export async function resolvePasswordSlot(
  storePath: string,
  source: PassphraseSource,
  password: string | undefined,
  next: string | undefined,
): Promise<string | undefined> {
  if (password === undefined || password === next) return undefined;
  if (source.kind !== "keyring") {
    if ((await firstPassphrase(source, storePath)) === password) return undefined;
    throw new StoreError(
      "refused",
      `server.json has another password than ${describeSource(source)}, and it would be lost`,
      { hint: "Remove it from server.json if nothing needs it, or store it elsewhere first." },
    );
  }
  if ((await getEntry(storePath, "current")) === password) return undefined;
  return await previousName(storePath, password);
}

/** Stores such a password and reads it back. */
export async function keepPassword(
  storePath: string,
  name: string,
  password: string,
): Promise<void> {
  await setEntry(storePath, `previous:${name}`, password);
}

/**
 * Returns the name after `#previous:` for a passphrase that has no key_id of its own there: the name
 * it has already, or a random one. Names must not depend on the passphrase, because they can be read
 * in a locked keyring and in the journal.
 */
async function previousName(storePath: string, passphrase: string): Promise<string> {
  const previous = (await listEntries(storePath)).filter(({ slot }) =>
    slot.startsWith("previous:"),
  );
  const existing = previous.find(({ secret }) => secret === passphrase);
  return existing?.slot.slice("previous:".length) ?? randomBytes(8).toString("hex");
}

/** Makes the new file's passphrase the current one, after the file is in place. Idempotent. */
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

/** Deletes what was kept only for the old file, after the new file is in use. */
export async function deleteReplaced(storePath: string, plan: KeyringPlan): Promise<void> {
  if (plan.previous === null) return;
  if (!plan.keep_previous) await deleteEntry(storePath, `previous:${plan.previous}`);
}

/**
 * Restores the keyring's entries as they were before the swap, after the old file stayed or came
 * back. Idempotent.
 *
 * @param replaced - whether the new file was in place, and the new passphrase perhaps current
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
 * Returns the likeliest passphrase of a source.
 *
 * @throws {@link StoreError} `passphraseUnavailable` - if the source has none
 */
export async function firstPassphrase(
  source: PassphraseSource,
  storePath: string,
): Promise<string> {
  for await (const { passphrase } of readPassphrases(source, storePath)) return passphrase;
  throw new StoreError("passphraseUnavailable", `${describeSource(source)} yields no passphrase`);
}

/**
 * Checks that readers will get the passphrase that the staged file's key was derived from.
 *
 * @param plan - of the keyring; undefined if the keyring has the passphrase or is not the source
 * @throws {@link StoreError} `passphraseUnavailable` - if it is missing or another one is there
 */
export async function assertPassphraseKept(
  storePath: string,
  source: PassphraseSource,
  plan: KeyringPlan | undefined,
  passphrase: string,
): Promise<void> {
  const kept =
    source.kind === "keyring"
      ? await getEntry(storePath, plan ? "pending" : "current")
      : await firstPassphrase(source, storePath);
  if (kept === passphrase) return;
  throw new StoreError(
    "passphraseUnavailable",
    `${describeSource(source)} no longer has the new passphrase of ${storePath}`,
    { hint: "Nothing was changed. Stop other programs that write there, then try again." },
  );
}
