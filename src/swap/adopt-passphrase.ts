/**
 * Taking a passphrase that opens the store into the keyring: what `init --adopt` and `bundle import` have in common. The
 * store's file stays as it is. On one journal, as everything that takes more than one step.
 */
import { join } from "node:path";
import { type Bundle, bundleName, writeBundle } from "../bundle/bundle.js";
import { isKind } from "../errors.js";
import { assertReplaceable, removePartials } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { readServerJson } from "../hub/server-json.js";
import { removePassword } from "../hub/server-json-edit.js";
import { deleteDerivedKeys } from "../keys/keyring.js";
import {
  type KeyringPlan,
  keepCurrent,
  keepPending,
  keyringPlanSchema,
  promotePending,
  restoreKeyring,
} from "../keys/rotation-plan.js";
import { Journal } from "../operation/journal.js";
import { cleanUp, type Recovery } from "../operation/recovery.js";
import { emitStep } from "../operation/step.js";
import * as z from "../schema.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import type { BundlePlan } from "./prepare.js";
import { bundleJournalSchema, undoBundle } from "./state.js";

export const adoptionOperations = ["adopt", "import-passphrase"] as const;

export type AdoptionOperation = (typeof adoptionOperations)[number];

/** As the steps of a swap: a journal's step is one of those marked, and may have begun. */
export const adoptionSteps = [
  "beginning", // journaled
  "pending-kept",
  "bundled",
  "current-kept",
  "taking", // journaled
  "promoted",
  "server-json",
] as const;

type AdoptionStep = (typeof adoptionSteps)[number];

const adoptionJournalSchema = z.strictObject({
  /** What happens in the keyring; absent if nothing does. */
  keyring: z.optional(keyringPlanSchema),
  bundle: z.optional(bundleJournalSchema),
  /** `server.json`, if the password in it is taken out. */
  server_json: z.optional(z.string()),
});

type AdoptionJournal = z.infer<typeof adoptionJournalSchema>;

export interface AdoptPassphraseRequest {
  readonly operation: AdoptionOperation;
  readonly storePath: string;
  /** It was seen to open the store. */
  readonly passphrase: string;
  readonly key: StoreKey;
  readonly keyring: KeyringPlan | undefined;
  readonly bundle?: BundlePlan | undefined;
  readonly serverJson?: string | undefined;
}

/**
 * Takes the passphrase.
 *
 * @throws StoreError what the keyring and `writeBundle` throw; then everything is as before.
 */
export async function adoptPassphrase(
  request: AdoptPassphraseRequest,
): Promise<Bundle | undefined> {
  const { operation, storePath, passphrase, key, keyring, bundle: plan, serverJson } = request;
  const keyId = keyIdOf(key.salt);
  const made = plan && !(await lstatIfExists(join(plan.directory, bundleName(keyId))));
  const data: AdoptionJournal = {
    ...(keyring && { keyring }),
    ...(plan && { bundle: { folder: plan.directory, key_id: keyId, made: made ?? false } }),
    ...(serverJson !== undefined && { server_json: serverJson }),
  };
  const step = (name: AdoptionStep) => emitStep(`${operation}.${name}`);
  const journal = await Journal.begin(storePath, operation, "beginning", data);
  let bundle: Bundle | undefined;
  try {
    step("beginning");
    if (serverJson !== undefined) await assertReplaceable((await readServerJson(serverJson)).file);
    if (keyring) await keepPending(storePath, passphrase);
    step("pending-kept");
    if (plan) bundle = await writeBundle({ ...plan, storePath, passphrase, key });
    step("bundled");
    if (keyring) await keepCurrent(storePath, keyring);
    step("current-kept");
    await journal.write("taking", data);
    step("taking");
  } catch (error) {
    await undo(storePath, data);
    await cleanUp(journal, () => removeBundle(data));
    throw error;
  }
  await finish(storePath, data, journal);
  return bundle;
}

/**
 * Finishes or undoes an interrupted adoption. Without the keyring it is given up: the journal must
 * not block commands that need no keyring, and a pending entry that stays opens the store.
 */
export async function recoverAdoption(journal: Journal, storePath: string): Promise<Recovery> {
  const { operation, step } = journal.entry;
  const data = journal.dataAs(adoptionJournalSchema);
  if (step === "taking") {
    try {
      await finish(storePath, data, journal);
    } catch (error) {
      if (!isKind(error, "passphraseUnavailable")) throw error;
      await journal.remove();
      const reason = `the interrupted ${operation} was not finished, because ${error.message}`;
      return { messages: [`${reason}; run it again when the keyring is available`] };
    }
    return {
      messages: [`finished the interrupted ${operation}: the passphrase is in the keyring`],
    };
  }
  await undo(storePath, data);
  const cleanupPending = await cleanUp(journal, () => removeBundle(data));
  return { messages: cleanupPending ? [] : [`undid the interrupted ${operation}`], cleanupPending };
}

async function finish(storePath: string, data: AdoptionJournal, journal: Journal): Promise<void> {
  const { keyring, server_json: serverJson } = data;
  if (keyring) {
    await promotePending(storePath, keyring);
    await deleteDerivedKeys(storePath);
  }
  emitStep(`${journal.entry.operation}.promoted`);
  if (serverJson !== undefined) {
    await removePartials((await readServerJson(serverJson)).file);
    await removePassword(serverJson);
  }
  emitStep(`${journal.entry.operation}.server-json`);
  await journal.remove();
}

async function undo(storePath: string, data: AdoptionJournal): Promise<void> {
  const { keyring, server_json: serverJson } = data;
  if (serverJson !== undefined) await removePartials((await readServerJson(serverJson)).file);
  try {
    if (keyring) await restoreKeyring(storePath, keyring, false);
  } catch (error) {
    // The entry that stays is a passphrase of this store, which the next operation makes current.
    if (!isKind(error, "passphraseUnavailable")) throw error;
  }
}

async function removeBundle({ bundle }: AdoptionJournal): Promise<void> {
  if (bundle) await undoBundle(bundle);
}
