/**
 * Finds the passphrase of a store after its directory, its user's name or its mount point changed.
 *
 * The keyring's entries still have the old path. An entry belongs to the store if its passphrase
 * opens the file. Entries with the file's key_id are tried first.
 */
import { resolveStorePath } from "../config/paths.js";
import { ignoreKind, isKind, StoreError, withLine, wrap } from "../errors.js";
import { currentInteraction, withInteraction } from "../process/interaction.js";
import { identify, type OpenedStore, openEncrypted } from "../store/cipher.js";
import type { ConnectionOptions } from "../store/connection.js";
import { shellQuote } from "../text/escape.js";
import {
  getEntry,
  isSlotOf,
  listEntries,
  listStoresInKeyring,
  readEntries,
  type StoreInKeyring,
  setEntry,
} from "./keyring.js";
import { makePendingCurrent } from "./rotation-plan.js";

/** The maximum number of stores to try. Each of their passphrases takes up to half a second. */
const maxCandidates = 8;
/** The time limit for the keyring when only a hint depends on it. */
const hintTimeoutMs = 1_000;

/** A store that was opened with a passphrase which the keyring has for another path. */
export interface MovedStore {
  readonly opened: OpenedStore;
  readonly passphrase: string;
  readonly from: string;
}

/**
 * Opens a store with a passphrase that the keyring has for another path.
 *
 * @returns undefined if no passphrase opens the store
 */
export async function openMovedStore(
  path: string,
  keyId: string | undefined,
  options: ConnectionOptions,
): Promise<MovedStore | undefined> {
  for (const store of await findCandidates(path, keyId)) {
    for (const slot of store.slots.filter((each) => !isSlotOf(each, "derived"))) {
      for await (const { secret: passphrase } of readEntries(store.storePath, slot)) {
        const opened = await openEncrypted(path, passphrase, options).catch(
          ignoreKind("wrongPassphrase", undefined),
        );
        if (opened !== undefined) return { opened, passphrase, from: store.storePath };
      }
    }
  }
  return undefined;
}

/**
 * Asks the user and stores the passphrase under the new path, with the previous passphrases of the
 * old path. The entries of the old path stay: the path may belong to another disk or to a copy.
 *
 * @param reason - why the store does not open with its own entries
 * @throws `reason`, with the old path, if the user does not agree or cannot be asked
 */
export async function takeOverEntries(
  path: string,
  moved: MovedStore,
  reason: StoreError,
): Promise<void> {
  const { from, passphrase } = moved;
  try {
    const { confirm } = currentInteraction();
    if (confirm === undefined) throw new StoreError("usage", "no user to ask");
    await confirm(
      `The passphrase that the keyring has for ${from} opens ${path}.\nStore it for the new path as well?`,
    );
  } catch (error) {
    if (!isKind(error, "usage", "refused")) throw error;
    throw wrap(reason, {
      message: `${reason.message}, but the passphrase of ${from} opens it`,
      hint: withLine(
        "If the store was moved, run the command again with --yes: it stores the passphrase for the new path.",
        reason.hint ?? "",
      ),
    });
  }
  // Another process may have stored it during the question.
  if ((await getEntry(path, "current")) === passphrase) return;
  await setEntry(path, "pending", passphrase);
  await makePendingCurrent(path);
  await copyPrevious(from, path);
  currentInteraction().notice?.(
    `the keyring has the passphrase for ${path} now; the entry for ${from} stays`,
  );
}

/** Copies the passphrases of older backups. Replaces no entry. */
async function copyPrevious(from: string, to: string): Promise<void> {
  for (const { slot, secret } of await listEntries(from)) {
    if (!isSlotOf(slot, "previous") || (await getEntry(to, slot)) !== undefined) continue;
    await setEntry(to, slot, secret);
  }
}

/**
 * Returns the stores in the keyring that may be this store. Stores with the same key_id come first,
 * then stores without a file. Omits a file with another key_id.
 */
async function findCandidates(path: string, keyId: string | undefined): Promise<StoreInKeyring[]> {
  const certain: StoreInKeyring[] = [];
  const possible: StoreInKeyring[] = [];
  for (const store of await listStoresInKeyring({ unlock: true })) {
    if (store.storePath === path) continue;
    const hasKeyId = store.slots.some((slot) => slot.endsWith(`:${keyId}`));
    const file = await identify(store.storePath).catch(() => undefined);
    if (hasKeyId || file?.keyId === keyId) certain.push(store);
    else if (file === undefined || file.format === "absent") possible.push(store);
  }
  return [...certain, ...possible].slice(0, maxCandidates);
}

/**
 * Returns whether there is a file at a path, or an entry for the path in the keyring. If so, a hint
 * must not name `init`: it would refuse, or hide a store that a backup can restore.
 */
export async function isStoreKnown(path: string): Promise<boolean> {
  const file = await identify(path).catch(() => undefined);
  if (file?.format !== "absent") return true;
  return (await listStoresForHint()).some(({ storePath }) => storePath === path);
}

/** Lists the stores in the keyring; none if the keyring does not respond within a second. */
function listStoresForHint(): Promise<StoreInKeyring[]> {
  return withInteraction({ signal: AbortSignal.timeout(hintTimeoutMs) }, () =>
    listStoresInKeyring({ unlock: false }).catch(() => []),
  );
}

/**
 * Returns the error for a path without a store. The hint depends on the keyring: `init` would hide
 * a store that was moved or that a backup can restore.
 */
export async function missingStoreError(path: string): Promise<StoreError> {
  return new StoreError("notFound", `there is no store at ${path}`, {
    hint: await missingStoreHint(path),
  });
}

async function missingStoreHint(path: string): Promise<string> {
  const stores = await listStoresForHint();
  const defaultPath = await resolveStorePath().catch(() => undefined);
  const here = path === defaultPath ? "" : ` --db ${shellQuote(path)}`;
  const others: string[] = [];
  for (const { storePath } of stores) {
    const file = await identify(storePath).catch(() => undefined);
    if (file?.format === "sqlcipher") others.push(storePath);
  }
  if (stores.some(({ storePath, slots }) => storePath === path && slots.includes("current"))) {
    return `The keyring has a passphrase for it, so a store was here. Restore a backup: hivemind-sqlcipher restore BACKUP${here}`;
  }
  const [first] = others;
  if (first === undefined) {
    return `Create a store: hivemind-sqlcipher init${here}; or restore a backup: hivemind-sqlcipher restore BACKUP --bundle BUNDLE --identity FILE${here}; or name another store: --db PATH`;
  }
  return `The keyring has the passphrase of ${others.join(" and of ")}. Name the store: --db ${shellQuote(first)}. To create another store: hivemind-sqlcipher init${here}`;
}
