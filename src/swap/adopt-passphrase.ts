/**
 * Moves the passphrase of a store into the keyring, for `init --adopt` and `bundle import`. The
 * store's file does not change.
 */
import { join } from "node:path";
import { type Bundle, writeBundle } from "../bundle/bundle.js";
import { isKind, systemError } from "../errors.js";
import { assertReplaceable, removePartials } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { readServerJson } from "../hub/server-json.js";
import { removePassword } from "../hub/server-json-edit.js";
import { bundleName } from "../keys/bundle-name.js";
import { deleteDerivedKeys, setEntry } from "../keys/keyring.js";
import {
  type KeyringPlan,
  keepCurrent,
  keyringPlanSchema,
  promotePending,
  restoreKeyring,
} from "../keys/rotation-plan.js";
import { assertKeyringOpens } from "../keys/unlock.js";
import { Journal } from "../operation/journal.js";
import {
  cleanUp,
  type OperationFailure,
  orRecover,
  type Recovery,
  withRecovery,
} from "../operation/recovery-parts.js";
import { emitStep } from "../operation/step.js";
import { withoutSignal } from "../process/interaction.js";
import * as z from "../schema.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import { bundleJournalSchema } from "./journal.js";
import type { BundlePlan } from "./prepare.js";
import { undoBundle } from "./state.js";

export const adoptionOperations = ["adopt", "import-passphrase"] as const;

export type AdoptionOperation = (typeof adoptionOperations)[number];

/** The journal has the step that may have begun; the step channel reports every finished step. */
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
  /** The changes of the keyring; absent if there are none. */
  keyring: z.optional(keyringPlanSchema),
  bundle: z.optional(bundleJournalSchema),
  /** `server.json`, if its password is removed. */
  server_json: z.optional(z.string()),
});

type AdoptionJournal = z.infer<typeof adoptionJournalSchema>;

export interface AdoptPassphraseRequest {
  readonly operation: AdoptionOperation;
  readonly storePath: string;
  /** Must open the store: the caller has checked it. */
  readonly passphrase: string;
  readonly key: StoreKey;
  /** Undefined if the keyring needs no change. */
  readonly keyring: KeyringPlan | undefined;
  readonly bundle?: BundlePlan | undefined;
  /** The path of `server.json`, if its password is to be removed. */
  readonly serverJson?: string | undefined;
}

/**
 * Puts the passphrase into the keyring, writes its bundle, and removes it from `server.json`, as
 * far as the request names these.
 *
 * @throws {@link StoreError} - what the keyring, `writeBundle` and `removePassword` throw. Before
 *   the step "taking", every change is undone; after it, the next command finishes the adoption.
 */
export async function adoptPassphrase(
  request: AdoptPassphraseRequest,
): Promise<Bundle | undefined> {
  const { operation, storePath, key, keyring, bundle: plan, serverJson } = request;
  const keyId = keyIdOf(key.salt);
  const isNewBundle = plan && !(await lstatIfExists(join(plan.directory, bundleName(keyId))));
  const data: AdoptionJournal = {
    ...(keyring && { keyring }),
    ...(plan && { bundle: { folder: plan.directory, key_id: keyId, made: isNewBundle ?? false } }),
    ...(serverJson !== undefined && { server_json: serverJson }),
  };
  const journal = await Journal.begin(storePath, operation, "beginning", data);
  const recover = async ({ failure }: OperationFailure) =>
    withRecovery(failure, await recoverAdoption(journal, storePath));
  const bundle = await orRecover(async () => {
    const written = await prepare(request);
    await journal.write("taking", data);
    emit(operation, "taking");
    return written;
  }, recover);
  await withoutSignal(() => finish(storePath, data, journal));
  return bundle;
}

/** Runs the steps that can be undone. */
async function prepare(request: AdoptPassphraseRequest): Promise<Bundle | undefined> {
  const { operation, storePath, passphrase, key, keyring, bundle: plan, serverJson } = request;
  emit(operation, "beginning");
  if (serverJson !== undefined) await assertReplaceable((await readServerJson(serverJson)).file);
  if (keyring) await setEntry(storePath, "pending", passphrase);
  emit(operation, "pending-kept");
  const bundle =
    plan &&
    (await writeBundle({
      directory: plan.directory,
      recipients: plan.recipients,
      storePath,
      passphrase,
      key,
    }));
  emit(operation, "bundled");
  if (keyring) await keepCurrent(storePath, keyring);
  emit(operation, "current-kept");
  return bundle;
}

function emit(operation: string, step: AdoptionStep): void {
  emitStep(`${operation}.${step}`);
}

/**
 * Finishes or undoes an adoption. Abandons it if the keyring is unavailable or has lost the
 * passphrase, because the journal would block every command until then. A remaining `#pending`
 * entry opens the store. Requires the operation lock.
 */
export async function recoverAdoption(journal: Journal, storePath: string): Promise<Recovery> {
  const { step } = journal.entry;
  const data = journal.dataAs(adoptionJournalSchema);
  try {
    if (step === ("taking" satisfies AdoptionStep)) {
      return { messages: [await finishOrAbandon(storePath, data, journal)] };
    }
    await undo(storePath, data);
  } catch (error) {
    return { messages: [], error: systemError(error, "the recovery failed") };
  }
  const cleanupPending = await cleanUp(journal, async () => {
    if (data.bundle) await undoBundle(storePath, data.bundle);
  });
  const messages = cleanupPending ? [] : [`undid the interrupted ${journal.entry.operation}`];
  return { messages, cleanupPending };
}

/**
 * Checks the keyring first: after a power failure it may have lost its last writes, and the
 * password in `server.json` may be the only one that opens the store.
 *
 * @returns what was done
 */
async function finishOrAbandon(
  storePath: string,
  data: AdoptionJournal,
  journal: Journal,
): Promise<string> {
  const { operation } = journal.entry;
  try {
    if (data.keyring) await assertKeyringOpens(storePath);
    await finish(storePath, data, journal);
    return `finished the interrupted ${operation}: the passphrase is in the keyring`;
  } catch (error) {
    if (!isKind(error, "passphraseUnavailable", "wrongPassphrase")) throw error;
    await journal.remove();
    return `the interrupted ${operation} was not finished, because ${error.message}; run it again when the keyring is available`;
  }
}

async function finish(storePath: string, data: AdoptionJournal, journal: Journal): Promise<void> {
  const { operation } = journal.entry;
  const { keyring, server_json: serverJson } = data;
  if (keyring) {
    await promotePending(storePath, keyring);
    await deleteDerivedKeys(storePath);
  }
  emit(operation, "promoted");
  if (serverJson !== undefined) {
    await removePartials((await readServerJson(serverJson)).file);
    await removePassword(serverJson);
  }
  emit(operation, "server-json");
  await journal.remove();
}

async function undo(storePath: string, data: AdoptionJournal): Promise<void> {
  const { keyring, server_json: serverJson } = data;
  if (serverJson !== undefined) await removePartials((await readServerJson(serverJson)).file);
  try {
    if (keyring) await restoreKeyring(storePath, keyring, false);
  } catch (error) {
    // The `#pending` entry may stay: it opens the store, and the next rotation makes it current.
    if (!isKind(error, "passphraseUnavailable")) throw error;
  }
}
