/**
 * Taking a passphrase that opens the store into the keyring: what `init --adopt` and `bundle import` have in common. The
 * store's file stays as it is. On one journal, as everything that takes more than one step.
 */
import { join } from "node:path";
import { type Bundle, bundleName, writeBundle } from "../bundle/bundle.js";
import { removePartials, tryReplacing } from "../fs/atomic.js";
import { lookAt } from "../fs/lstat.js";
import { readServerJson } from "../hub/server-json.js";
import { removePassword } from "../hub/server-json-edit.js";
import { deleteDerivedKeys } from "../keys/keyring.js";
import {
  type KeyringPlan,
  keepCurrent,
  keepPending,
  keyringPlanSchema,
  promotePending,
  putKeyringBack,
} from "../keys/rotation-plan.js";
import { Journal } from "../operation/journal.js";
import { type Settled, tidyUp } from "../operation/recovery.js";
import { reached } from "../operation/step.js";
import * as z from "../schema.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import type { BundlePlan } from "./prepare.js";
import { bundleJournalSchema, undoBundle } from "./state.js";

export const takeOperations = ["adopt", "import-passphrase"] as const;

export type TakeOperation = (typeof takeOperations)[number];

/** As the steps of a swap: a journal's step is one of those marked, and may have begun. */
export const takeSteps = [
  "beginning", // journaled
  "pending-kept",
  "bundled",
  "current-kept",
  "taking", // journaled
  "promoted",
  "server-json",
] as const;

type TakeStep = (typeof takeSteps)[number];

const takeJournalSchema = z.strictObject({
  /** What happens in the keyring; absent if nothing does. */
  keyring: z.optional(keyringPlanSchema),
  bundle: z.optional(bundleJournalSchema),
  /** `server.json`, if the password in it is taken out. */
  server_json: z.optional(z.string()),
});

type TakeJournal = z.infer<typeof takeJournalSchema>;

export interface TakeRequest {
  readonly operation: TakeOperation;
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
export async function take(request: TakeRequest): Promise<Bundle | undefined> {
  const { operation, storePath, passphrase, key, keyring, bundle: plan, serverJson } = request;
  const keyId = keyIdOf(key.salt);
  const made = plan && !(await lookAt(join(plan.folder, bundleName(keyId))));
  const data: TakeJournal = {
    ...(keyring && { keyring }),
    ...(plan && { bundle: { folder: plan.folder, key_id: keyId, made: made ?? false } }),
    ...(serverJson !== undefined && { server_json: serverJson }),
  };
  const step = (name: TakeStep) => reached(`${operation}.${name}`);
  const journal = await Journal.begin(storePath, operation, "beginning", data);
  let bundle: Bundle | undefined;
  try {
    step("beginning");
    if (serverJson !== undefined) await tryReplacing((await readServerJson(serverJson)).file);
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
    await tidyUp(journal, () => removeBundle(data));
    throw error;
  }
  await finish(storePath, data, journal);
  return bundle;
}

/** Finishes or undoes what was interrupted. */
export async function settleTake(journal: Journal, storePath: string): Promise<Settled> {
  const { operation, step } = journal.entry;
  const data = journal.dataAs(takeJournalSchema);
  if (step === "taking") {
    await finish(storePath, data, journal);
    return { said: [`finished the interrupted ${operation}: the passphrase is in the keyring`] };
  }
  await undo(storePath, data);
  const untidy = await tidyUp(journal, () => removeBundle(data));
  return { said: untidy ? [] : [`undid the interrupted ${operation}`], untidy };
}

async function finish(storePath: string, data: TakeJournal, journal: Journal): Promise<void> {
  const { keyring, server_json: serverJson } = data;
  if (keyring) {
    await promotePending(storePath, keyring);
    await deleteDerivedKeys(storePath);
  }
  reached(`${journal.entry.operation}.promoted`);
  if (serverJson !== undefined) {
    await removePartials((await readServerJson(serverJson)).file);
    await removePassword(serverJson);
  }
  reached(`${journal.entry.operation}.server-json`);
  await journal.remove();
}

async function undo(storePath: string, data: TakeJournal): Promise<void> {
  const { keyring, server_json: serverJson } = data;
  if (serverJson !== undefined) await removePartials((await readServerJson(serverJson)).file);
  if (keyring) await putKeyringBack(storePath, keyring, false);
}

async function removeBundle({ bundle }: TakeJournal): Promise<void> {
  if (bundle) await undoBundle(bundle);
}
