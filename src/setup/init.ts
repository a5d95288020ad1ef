/**
 * `init`: creates an encrypted store, its passphrase, and the recovery key for its bundles.
 *
 * The order makes a kill harmless. First everything is checked. Then the passphrase is stored in
 * the keyring and read back, then the recovery key is delivered, then the store is written under
 * another name and renamed when it is complete. If a kill leaves a stored passphrase without a
 * store, the next `init` uses this passphrase. A failure removes what was created.
 */
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import {
  type Bundle,
  type BundleReport,
  bundleReport,
  removeBundle,
  writeBundle,
} from "../bundle/bundle.js";
import { assertPlacement } from "../bundle/placement.js";
import { planRecipients, type RecipientOptions } from "../bundle/recipients.js";
import type { Settings } from "../config/settings-file.js";
import { readStoreId, recordStoreId } from "../config/store-id.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { makeDirectory, removePartials } from "../fs/atomic.js";
import { assertNoStraySidecars, removeDatabase } from "../fs/sidecars.js";
import {
  assertKeyringUsable,
  deleteEntry,
  getEntry,
  keyringService,
  setEntry,
} from "../keys/keyring.js";
import { generatePassphrase } from "../keys/passphrase.js";
import { readOrSealPassphrase } from "../keys/reseal.js";
import { readFirstPassphrase } from "../keys/rotation-plan.js";
import { findSealingScope } from "../keys/sealed.js";
import { describeSource, formatSource, type PassphraseSource } from "../keys/source.js";
import type { OperationLock } from "../operation/lock.js";
import { orRecover } from "../operation/recovery-parts.js";
import { updateSection } from "../operation/settings.js";
import { emitStep } from "../operation/step.js";
import { withOperation } from "../recovery/recover.js";
import type { Reporter } from "../reporter.js";
import { type CipherCompatibility, identify } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { shellQuote } from "../text/escape.js";

export interface InitOptions extends RecipientOptions {
  readonly storePath: string;
  readonly source: PassphraseSource;
  /** Changes the settings of the store, which also get the recipients and the source. */
  readonly changeSettings: (settings: Settings) => Settings;
  /** The directory for backups, if known: bundles are kept apart from it. */
  readonly backupDirectory?: string | undefined;
  /** Used instead of a generated passphrase; only for the keyring and a sealed passphrase. */
  readonly passphrase?: string | undefined;
  /** The schema of the new store, which the hub on this machine must read. */
  readonly schemaVersion: 0 | 2;
  readonly cipherCompatibility?: CipherCompatibility | undefined;
  /** Without it, no bundle is written. */
  readonly bundleDirectory?: string | undefined;
  readonly reporter: Pick<Reporter, "notice">;
}

export interface InitResult {
  readonly path: string;
  readonly keyId: string;
  readonly schemaVersion: number;
  readonly cipherCompatibility: CipherCompatibility;
  readonly passphraseSource: string;
  readonly recipients: readonly string[];
  readonly settings: string;
  readonly bundle: BundleReport | null;
}

/**
 * Creates the store.
 *
 * @throws {@link StoreError} refused - if there is a file at the path, or the keyring has another
 *   passphrase for it than the given one
 * @throws {@link StoreError} usage - for a malformed recipient
 * @throws {@link StoreError} passphraseUnavailable - if the passphrase cannot be stored or read
 * @throws {@link StoreError} io - if a file cannot be written
 */
export async function initStore(options: InitOptions): Promise<InitResult> {
  const { storePath, source } = options;
  await assertNoStore(storePath);
  if (source.kind === "file") await assertPassphraseFile(source.path);
  if (source.kind === "keyring") await assertKeyringUsable();
  if (source.kind === "sealed") await findSealingScope();
  const recipientPlan = await planRecipients(options);
  if (recipientPlan.notice !== undefined) options.reporter.notice(recipientPlan.notice);
  if (options.bundleDirectory !== undefined) {
    const backups = options.backupDirectory ?? dirname(storePath);
    await assertPlacement(backups, options.bundleDirectory, options.reporter);
    await makeDirectory(options.bundleDirectory);
  }
  // Recovery comes first: an interrupted restore may have moved a store away from this path.
  return await withOperation(
    storePath,
    options.reporter,
    async (lock) => {
      const { passphrase, isNew } = await storePassphrase(options, lock);
      return await orRecover(
        () =>
          recipientPlan.use(options.bundleDirectory, (recipients) =>
            createStore(options, storePath, passphrase, recipients),
          ),
        async ({ failure }) => {
          if (isNew) await deletePassphrase(storePath);
          return failure;
        },
      );
    },
    { makeDirectory: true },
  );
}

/** Returns the store's passphrase. Stores a new passphrase in the keyring, or seals it. */
async function storePassphrase(
  options: InitOptions,
  { storePath }: OperationLock,
): Promise<{ passphrase: string; isNew: boolean }> {
  const { source } = options;
  await assertNoStore(storePath);
  await assertNoStraySidecars(storePath);
  const kept = source.kind === "keyring" ? await getEntry(storePath, "current") : undefined;
  if (kept !== undefined && options.passphrase !== undefined && options.passphrase !== kept) {
    throw new StoreError("refused", `the keyring has another passphrase for ${storePath}`, {
      hint: `Delete it if nothing needs it any more: secret-tool clear service ${keyringService} account ${shellQuote(storePath)}`,
    });
  }
  const passphrase = kept ?? (await createPassphrase(options));
  const isNew = source.kind === "keyring" && kept === undefined;
  if (isNew) await setEntry(storePath, "current", passphrase);
  emitStep("init.passphrase-kept");
  return { passphrase, isNew };
}

/** Deletes the passphrase of a store that was not created. */
async function deletePassphrase(storePath: string): Promise<void> {
  if ((await identify(storePath)).format === "absent") await deleteEntry(storePath, "current");
}

/** Creates the store, its bundle and its settings. After a failure, none of them stays. */
async function createStore(
  options: InitOptions,
  storePath: string,
  passphrase: string,
  recipients: readonly string[],
): Promise<InitResult> {
  const { source, schemaVersion, bundleDirectory } = options;
  await removePartials(storePath);
  const store = await ClientStore.create(storePath, passphrase, {
    schemaVersion,
    cipherCompatibility: options.cipherCompatibility ?? 4,
  });
  await store.close();
  emitStep("init.store-made");
  const { key, keyId } = store;
  // Replaces the id of an earlier store at this path. Without one, the first backup generates it.
  if (await readStoreId(storePath)) await recordStoreId(storePath);
  let bundle: Bundle | undefined;
  try {
    if (bundleDirectory !== undefined) {
      const directory = bundleDirectory;
      bundle = await writeBundle({ directory, storePath, passphrase, key, recipients });
    }
    await updateSection(options.settings, (settings) => ({
      ...options.changeSettings(settings),
      passphrase_source: formatSource(source),
    }));
  } catch (error) {
    if (bundle?.reused === false) await removeBundle(dirname(bundle.path), keyId);
    // No other program has the passphrase yet, so the store is empty.
    await removeDatabase(storePath);
    throw error;
  }
  emitStep("init.settings-saved");
  return {
    path: storePath,
    keyId,
    schemaVersion,
    cipherCompatibility: key.cipherCompatibility,
    passphraseSource: formatSource(source),
    recipients,
    settings: options.settings.path,
    bundle: bundle ? bundleReport(bundle) : null,
  };
}

async function assertNoStore(storePath: string): Promise<void> {
  const { format, size } = await identify(storePath);
  if (format === "absent") return;
  throw new StoreError("refused", `there is a file at ${storePath} already`, {
    hint: presentStoreHint(storePath, format, size),
  });
}

function presentStoreHint(storePath: string, format: string, size: number): string {
  if (size === 0) return `Remove the empty file: rm ${shellQuote(storePath)}`;
  if (format === "plaintext") return "Encrypt the store in place: hivemind-sqlcipher encrypt";
  if (format === "unknown") return "It is not a database. Name the store's path: --db PATH";
  return "If HiveMind's password setting encrypted it, take it over: hivemind-sqlcipher init --adopt";
}

/** Returns the given or a new passphrase for the keyring, or the passphrase of another source. */
async function createPassphrase(options: InitOptions): Promise<string> {
  const { source, storePath } = options;
  if (source.kind === "keyring") return options.passphrase ?? generatePassphrase();
  if (source.kind === "sealed") {
    const { path: settingsPath } = options.settings;
    return readOrSealPassphrase(source.path, { storePath, settingsPath }, options.passphrase);
  }
  if (options.passphrase !== undefined) {
    throw new StoreError("usage", `a passphrase cannot be stored in ${describeSource(source)}`, {
      hint: "Leave out --passphrase-file: the source has its own passphrase.",
    });
  }
  return await readFirstPassphrase(source, storePath);
}

/** Checks that the file exists: this program writes no unencrypted passphrase to a disk. */
async function assertPassphraseFile(path: string): Promise<void> {
  try {
    await stat(path);
  } catch (error) {
    if (!hasCode(error, "ENOENT", "ENOTDIR")) throw systemError(error, `cannot inspect ${path}`);
    throw new StoreError("passphraseUnavailable", `no such file: the passphrase file ${path}`, {
      hint: `Create it: (umask 077; openssl rand -base64 33 > ${shellQuote(path)}). This program generates passphrases only for the keyring and for sealed files.`,
    });
  }
}
