/**
 * `init`: a new encrypted store, its passphrase where the source says, and the recovery key that opens its bundles.
 *
 * The order is what makes a kill harmless: first everything is tried, then the recovery key is in its owner's hands,
 * then the passphrase is kept and read back, then the store is made under another name and gets its own only when it
 * is whole. A passphrase that is kept without a store is taken up by the next `init`.
 */
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { writeBundle } from "../bundle/bundle.js";
import { assertPlacement } from "../bundle/placement.js";
import { ensureRecipients, type RecipientOptions } from "../bundle/recipients.js";
import { parseRecipient } from "../bundle/recovery-key.js";
import { loadSection, type Settings, saveSection } from "../config/settings.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { makeDirectory } from "../fs/atomic.js";
import { assertNoStraySidecars } from "../fs/sidecars.js";
import { getEntry, keyringService, setEntry } from "../keys/keyring.js";
import { generatePassphrase } from "../keys/passphrase.js";
import { firstPassphrase } from "../keys/rotation-plan.js";
import { describeSource, formatSource, type PassphraseSource } from "../keys/source.js";
import type { OperationLock } from "../operation/lock.js";
import { emitStep } from "../operation/step.js";
import { withOperation } from "../recovery/recover.js";
import type { Reporter } from "../reporter.js";
import { type CipherCompatibility, identify } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import type { BundleReport } from "../swap/options.js";
import { bundleReport } from "../swap/prepare.js";

export interface InitOptions extends RecipientOptions {
  readonly storePath: string;
  readonly source: PassphraseSource;
  /** What goes into the settings file besides recipients and the source. */
  readonly remember: Settings;
  /** A passphrase of the user's own in place of a generated one; only for the keyring. */
  readonly passphrase?: string | undefined;
  /** The schema a new store gets: what the hub on this machine reads. */
  readonly schemaVersion: 0 | 2;
  readonly cipherCompatibility?: CipherCompatibility | undefined;
  /** Where the first bundle goes; without it none is written yet. */
  readonly bundleFolder?: string | undefined;
  readonly reporter: Pick<Reporter, "notice">;
}

export interface InitResult {
  readonly path: string;
  readonly key_id: string;
  readonly schema_version: number;
  readonly cipher_compatibility: CipherCompatibility;
  readonly passphrase_source: string;
  readonly recipients: string[];
  readonly settings: string;
  readonly bundle: BundleReport | null;
}

/**
 * Makes the store.
 *
 * @throws StoreError `refused` if there is a store already, `usage` for a recipient that does not parse,
 *   `passphraseUnavailable` if the passphrase cannot be kept or read, `io`.
 */
export async function initStore(options: InitOptions): Promise<InitResult> {
  const { storePath, source } = options;
  await assertAbsent(storePath);
  if (source.kind === "file") await assertPassphraseFile(source.path);
  for (const recipient of options.recipients) parseRecipient(recipient);
  if (options.bundleFolder !== undefined) {
    const backups = options.remember.backup?.to ?? dirname(storePath);
    for (const notice of await assertPlacement(backups, options.bundleFolder)) {
      options.reporter.notice(notice);
    }
    await makeDirectory(options.bundleFolder);
  }
  // An interrupted restore may have set a store aside: it comes back first.
  return await withOperation(storePath, options.reporter, (lock) => make(options, lock), {
    makeFolder: true,
  });
}

async function make(options: InitOptions, { storePath }: OperationLock): Promise<InitResult> {
  const { source } = options;
  await assertAbsent(storePath);
  // As the store itself would, but before a passphrase is kept and a recovery key handed out.
  await assertNoStraySidecars(storePath);

  // A keyring that cannot be asked is found out here, before anything is made.
  const kept = source.kind === "keyring" ? await getEntry(storePath, "current") : undefined;
  if (kept !== undefined && options.passphrase !== undefined && options.passphrase !== kept) {
    throw new StoreError("refused", "the keyring holds another passphrase for this path", {
      hint: `secret-tool clear service ${keyringService} account '${storePath}' forgets it, if nothing needs it any more.`,
    });
  }
  const passphrase = kept ?? (await newPassphrase(options));
  const recipients = await ensureRecipients(options);
  if (source.kind === "keyring" && kept === undefined) {
    await setEntry(storePath, "current", passphrase);
  }
  emitStep("init.passphrase-kept");
  const store = await ClientStore.create(storePath, passphrase, {
    schemaVersion: options.schemaVersion,
    cipherCompatibility: options.cipherCompatibility ?? 4,
  });
  await store.close();
  emitStep("init.store-made");
  await saveSection(options.settings, {
    ...(await loadSection(options.settings)),
    ...options.remember,
    passphrase_source: formatSource(source),
  });
  emitStep("init.settings-saved");
  const bundle =
    options.bundleFolder === undefined
      ? undefined
      : await writeBundle({
          directory: options.bundleFolder,
          storePath,
          passphrase,
          key: store.key,
          recipients,
        });
  return {
    path: storePath,
    key_id: store.keyId,
    schema_version: options.schemaVersion,
    cipher_compatibility: store.key.cipherCompatibility,
    passphrase_source: formatSource(source),
    recipients,
    settings: options.settings.path,
    bundle: bundleReport({ bundle }),
  };
}

async function assertAbsent(storePath: string): Promise<void> {
  const { format, size } = await identify(storePath);
  if (format === "absent") return;
  const hint =
    size === 0
      ? `It is empty: rm '${storePath}'`
      : format === "plaintext"
        ? "It is not encrypted; hivemind-sqlcipher encrypt converts it in place."
        : "If upstream's password setting encrypted it, hivemind-sqlcipher init --adopt takes it over.";
  throw new StoreError("refused", `there is a store at ${storePath} already`, { hint });
}

/** The passphrase that is to be put into the keyring, or what another source yields. */
async function newPassphrase(options: InitOptions): Promise<string> {
  const { source, storePath } = options;
  if (source.kind === "keyring") return options.passphrase ?? generatePassphrase();
  if (options.passphrase !== undefined) {
    throw new StoreError("usage", `a passphrase cannot be put into ${describeSource(source)}`, {
      hint: "Leave --passphrase-file out: the source is read as it is.",
    });
  }
  return await firstPassphrase(source, storePath);
}

/** No passphrase is written to a disk by this program: whoever wants that does it. */
async function assertPassphraseFile(path: string): Promise<void> {
  try {
    await stat(path);
  } catch (error) {
    if (!hasCode(error, "ENOENT", "ENOTDIR")) throw systemError(error, `cannot look at ${path}`);
    throw new StoreError("passphraseUnavailable", `there is no file ${path}`, {
      hint: `The keyring gets a passphrase that is made here; into a file you put your own: (umask 077; openssl rand -base64 33 > '${path}')`,
    });
  }
}
