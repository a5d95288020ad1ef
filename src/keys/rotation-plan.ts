/**
 * The passphrases kept in the keyring while a store's file is replaced: the new one is there, as `#pending`, before any
 * file is under it; the current one is also under `#previous:<key_id>` before its file goes; and only afterwards the
 * new one becomes the current one. Wherever this is cut short, opening the store finds one that fits.
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

/** What a swap does in the keyring; journaled, so that settling can finish or undo it. */
export const keyringPlanSchema = z.strictObject({
  /** Where the current passphrase is kept meanwhile, `#previous:` and this; null if there is no current one. */
  previous: z.nullable(z.string()),
  /** Whether it stays there afterwards. */
  keep_previous: z.boolean(),
  /** Whether a new one becomes the current one. If not, the store has none any more. */
  pending: z.boolean(),
});

export type KeyringPlan = z.infer<typeof keyringPlanSchema>;

/**
 * What has to be done in the keyring for a store that gets another passphrase.
 *
 * @param source where the passphrase comes from; another than the keyring needs nothing there.
 * @param next the new passphrase; undefined for a store that will not be encrypted.
 * @param replaced of the file that is replaced: its key_id, and the passphrase that opens it, as far as there are any.
 * @returns undefined if the keyring is as it should be already.
 * @throws StoreError `passphraseUnavailable` if the keyring cannot be asked.
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
    const there = await getEntry(storePath, `previous:${keyId}`);
    if (there === undefined) return { previous: keyId, keep_previous: keepPrevious, pending };
    if (there === current) return { previous: keyId, keep_previous: true, pending };
  }
  // It opens something, though not this file, or its place is taken by one that opens something else under the same
  // salt.
  return { previous: await placeOf(storePath, current), keep_previous: true, pending };
}

/**
 * A pending passphrase that opens the store becomes the current one, whatever became of the operation that left it.
 *
 * @param generation of the passphrase that opened the store; undefined if none was needed.
 */
export async function adoptPending(
  storePath: string,
  generation: Generation | undefined,
  reporter: Pick<Reporter, "notice">,
): Promise<void> {
  if (generation !== "pending") return;
  await makePendingCurrent(storePath);
  reporter.notice("the passphrase that was pending opens the store: it is the current one now");
}

/** The same for a passphrase from elsewhere that was seen to open the store: it may be the pending one. */
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

/** Puts the new passphrase beside the current one. It was read back when this returns. */
export async function keepPending(storePath: string, passphrase: string): Promise<void> {
  await setEntry(storePath, "pending", passphrase);
}

/** Puts the current passphrase where it stays while it is replaced. It was read back when this returns. */
export async function keepCurrent(storePath: string, plan: KeyringPlan): Promise<void> {
  if (plan.previous === null) return;
  const current = await getEntry(storePath, "current");
  if (current === undefined) {
    throw new StoreError(
      "passphraseUnavailable",
      `the keyring has lost the passphrase of ${storePath} while this was at work`,
      { hint: "nothing was changed; its bundle has it: hivemind-sqlcipher bundle import" },
    );
  }
  await setEntry(storePath, `previous:${plan.previous}`, current);
}

/**
 * Where the keyring is to keep a password that `server.json` has and that is about to be replaced there: it may be the
 * only thing that opens a store.
 *
 * @param next the passphrase that replaces it.
 * @returns a name behind `#previous:`; undefined if it is the current passphrase, which is kept anyway.
 * @throws StoreError `passphraseUnavailable` if the keyring cannot be asked; `refused` if the source is another, which
 *   cannot keep it.
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
      { hint: "if nothing needs it any more, take it out of server.json; else keep it first" },
    );
  }
  if ((await getEntry(storePath, "current")) === password) return undefined;
  return await placeOf(storePath, password);
}

/** Keeps such a password there. It was read back when this returns. */
export async function keepPassword(
  storePath: string,
  name: string,
  password: string,
): Promise<void> {
  await setEntry(storePath, `previous:${name}`, password);
}

/**
 * Where a passphrase is kept whose file's key_id is not known, or its place taken: where it is already, or under a name
 * that says nothing about it, since names are read in a keyring that is locked, and in the journal.
 */
async function placeOf(storePath: string, passphrase: string): Promise<string> {
  const previous = (await listEntries(storePath)).filter(({ slot }) =>
    slot.startsWith("previous:"),
  );
  const kept = previous.find(({ secret }) => secret === passphrase);
  return kept?.slot.slice("previous:".length) ?? randomBytes(8).toString("hex");
}

/** The new file is in place: its passphrase becomes the current one. Twice is the same as once. */
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

/** The new file is in use: what was kept for the old one alone is forgotten. */
export async function deleteReplaced(storePath: string, plan: KeyringPlan): Promise<void> {
  if (plan.previous === null) return;
  if (!plan.keep_previous) await deleteEntry(storePath, `previous:${plan.previous}`);
}

/**
 * The old file stays, or is back: everything in the keyring is as it was. Twice is the same as once.
 *
 * @param replaced whether the new file had been put in place, and so perhaps the new passphrase.
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
 * The likeliest passphrase of a source.
 *
 * @throws StoreError `passphraseUnavailable` if it has none.
 */
export async function firstPassphrase(
  source: PassphraseSource,
  storePath: string,
): Promise<string> {
  for await (const { passphrase } of readPassphrases(source, storePath)) return passphrase;
  throw new StoreError("passphraseUnavailable", `${describeSource(source)} yields no passphrase`);
}

/**
 * Proves that the passphrase which the staged file's key was derived from is the one that its readers will get.
 *
 * @param plan of the keyring; without one it has this passphrase already, or is not asked.
 * @throws StoreError `passphraseUnavailable` if it is not there, or another.
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
    "where the new passphrase is kept, another one has appeared, or none",
    { hint: "nothing was changed; see that no other program writes there, then try again" },
  );
}
