/**
 * `encrypt`: encrypts a plaintext store, or converts a store of format 3 or with other SQLCipher
 * parameters to the defaults of format 4.
 */
import { type BundleReport, bundleReport } from "../bundle/bundle.js";
import type { Client } from "../client/client.js";
import { StoreError } from "../errors.js";
import { assertHubOpens } from "../hub/assert-opens.js";
import {
  assertReadsSource,
  findPasswordDelivery,
  findPasswordFile,
  type PasswordDelivery,
  resolvePasswordDelivery,
} from "../hub/password-delivery.js";
import { getEntry } from "../keys/keyring.js";
import { missingStoreError } from "../keys/moved-store.js";
import { readOrSealPassphrase } from "../keys/reseal.js";
import { adoptPending, planRotation, readFirstPassphrase } from "../keys/rotation-plan.js";
import {
  describeSource,
  formatSource,
  type Generation,
  type PassphraseSource,
} from "../keys/source.js";
import { unlock } from "../keys/unlock.js";
import { resolveService, type ServiceReport } from "../operation/service.js";
import {
  type CipherCompatibility,
  identify,
  keyIdOf,
  type Secret,
  type StoreKey,
  unknownFormatError,
} from "../store/cipher.js";
import { Connection } from "../store/connection.js";
import { assertExportable } from "../store/export.js";
import { openPlaintext } from "../store/plain-store.js";
import { readSchema } from "../store/schema.js";
import type { BundleOptions, OperationOptions } from "./options.js";
import { convert, planBundle, readOrGeneratePassphrase, stageEncrypted } from "./prepare.js";
import { swap } from "./swap.js";

export interface EncryptOptions extends OperationOptions, BundleOptions {
  /**
   * The absolute path of a file with the passphrase. Without it, the keyring's passphrase
   * for this path is used, or else a generated passphrase. Only if the source is the keyring, and
   * the store has no passphrase to keep.
   */
  readonly passphraseFile?: string | undefined;
  /** 3 if the hub's library cannot read a newer format. Default: 4. */
  readonly cipherCompatibility?: CipherCompatibility | undefined;
  /** A store with other SQLCipher parameters, to be encrypted with the defaults. */
  readonly foreign?: ForeignStore | undefined;
}

export interface ForeignStore {
  /** The key, with the parameters. */
  readonly key: StoreKey;
  /** Remains the store's passphrase; undefined for a raw key, which a hub cannot use. */
  readonly passphrase: string | undefined;
  /** The parameters as text. */
  readonly settings: string;
}

export interface EncryptResult {
  readonly encrypted: {
    readonly path: string;
    readonly keyId: string;
    readonly cipherCompatibility: CipherCompatibility;
    /** The earlier format: "plaintext", "SQLCipher 3" or "SQLCipher with kdf_iter=64000". */
    readonly from: string;
    readonly passphraseSource: string;
    readonly hub: PasswordDelivery["how"];
    /** The warning that deletion does not erase the old file; null if it was encrypted. */
    readonly caution: string | null;
  };
  readonly bundle: BundleReport | null;
  readonly service: ServiceReport;
}

const deletionCaution =
  "The old file is deleted, but not erased: flash storage, copy-on-write file systems, snapshots and earlier backups of the disk may still contain the clients' keys in plain text. Give the clients new keys if that matters.";

/**
 * Encrypts the store. Its schema stays the same.
 *
 * @throws {@link StoreError} notFound - if there is no store
 * @throws {@link StoreError} refused - if it is encrypted already, or if the hub could not open an
 *   encrypted store
 * @throws {@link StoreError} usage - if a passphrase file is named for a store that keeps its
 *   passphrase (format 3, or other parameters), or for a source other than the keyring
 * @throws {@link StoreError} newerVersion - if its schema is unknown
 * @throws {@link StoreError} corrupted - if it is not a database
 * @throws {@link StoreError} - what `unlock`, `resolveService`, `planBundle` and `swap` throw
 */
export async function encrypt(options: EncryptOptions): Promise<EncryptResult> {
  const { lock, source, reporter, signal } = options;
  const { storePath } = lock;
  const to = options.cipherCompatibility ?? 4;
  const bundle = await planBundle(options, reporter);
  const { foreign } = options;
  const inspected: Inspected = foreign
    ? { secret: foreign.key, ...(foreign.passphrase && { passphrase: foreign.passphrase }) }
    : await inspectStore(storePath, source, to);
  if (inspected.passphrase !== undefined && options.passphraseFile !== undefined) {
    throw new StoreError("usage", `the upgrade of ${storePath} to format 4 keeps its passphrase`, {
      hint: "Omit --passphrase-file, and then run hivemind-sqlcipher rotate --passphrase-file FILE.",
    });
  }
  await adoptPending(storePath, inspected.generation, reporter);
  const passphrase = inspected.passphrase ?? (await resolvePassphrase(options));
  const service = await resolveService(options.service, reporter);
  const isUpgrade = inspected.passphrase !== undefined;
  const delivery = isUpgrade
    ? await findPasswordDelivery(service, options.hub)
    : await resolvePasswordDelivery(service, options.hub);
  if (!isUpgrade) assertReadsSource(service, delivery, { from: source, to: source });
  const clients = isUpgrade || foreign ? undefined : readPlaintextClients(storePath);
  await assertHubOpens(service, delivery, to, reporter, clients);
  const { passphrase: replaced } = inspected;
  const keyring = await planRotation(storePath, source, passphrase, { passphrase: replaced }, true);
  const outcome = await swap({
    operation: "encrypt",
    lock,
    replaced: { state: "open", secret: inspected.secret },
    passphrase,
    sources: { from: source, to: source },
    keyring,
    // Even for a plaintext store, `server.json` can have a password: some plugin versions ignore
    // it.
    serverJson: isUpgrade ? undefined : findPasswordFile(delivery, reporter),
    bundle,
    service,
    recoveryCommand: options.recoveryCommand,
    reporter,
    signal,
    stage: (staged) => stageEncrypted(staged, passphrase, to),
    fill: (staged, stagedKey, locked) => convert(locked, staged, stagedKey, signal),
  });
  const { key } = outcome;
  return {
    encrypted: {
      path: storePath,
      keyId: keyIdOf(key.salt),
      cipherCompatibility: key.cipherCompatibility,
      from: describeFormat(inspected.secret, foreign),
      passphraseSource: formatSource(source),
      hub: delivery.how,
      caution: inspected.secret ? null : deletionCaution,
    },
    bundle: outcome.bundle ? bundleReport(outcome.bundle) : null,
    service: outcome.service,
  };
}

function describeFormat(secret: Secret, foreign: ForeignStore | undefined): string {
  if (foreign) return `SQLCipher with ${foreign.settings}`;
  return secret ? `SQLCipher ${secret.cipherCompatibility}` : "plaintext";
}

interface Inspected {
  readonly secret: Secret;
  readonly passphrase?: string;
  readonly generation?: Generation;
}

/** Checks the store before its encryption. Returns its key and passphrase; none for plaintext. */
async function inspectStore(
  storePath: string,
  source: PassphraseSource,
  to: CipherCompatibility,
): Promise<Inspected> {
  const { format } = await identify(storePath);
  if (format === "absent") {
    throw await missingStoreError(storePath);
  }
  if (format === "unknown") {
    throw await unknownFormatError(storePath, "corrupted");
  }
  if (format === "plaintext") {
    const connection = await Connection.open(storePath, { mode: "readwrite" });
    await assertConvertible(connection);
    return { secret: undefined };
  }
  const unlocked = await unlock(storePath, source, { mode: "readwrite" });
  const { connection, key, passphrase, generation } = unlocked;
  await assertConvertible(connection);
  if (key.cipherCompatibility >= to) {
    throw new StoreError(
      "refused",
      `${storePath} is already encrypted, in format ${key.cipherCompatibility} of SQLCipher`,
      { hint: "Change its passphrase with hivemind-sqlcipher rotate." },
    );
  }
  return { secret: key, passphrase, generation };
}

/** Checks that an export of the store would lose nothing, and closes the connection. */
async function assertConvertible(connection: Connection): Promise<void> {
  try {
    await readSchema(connection);
    await assertExportable(connection);
  } finally {
    await connection.close();
  }
}

/** Returns the passphrase for a plaintext store. */
async function resolvePassphrase({
  lock: { storePath },
  source,
  settingsSection,
  passphraseFile,
  reporter,
}: EncryptOptions): Promise<string> {
  if (source.kind !== "keyring") {
    if (passphraseFile !== undefined) {
      throw new StoreError("usage", `the passphrase is read from ${describeSource(source)}`, {
        hint: "Omit --passphrase-file.",
      });
    }
    return source.kind === "sealed"
      ? readOrSealPassphrase(source.path, { storePath, settingsPath: settingsSection.path })
      : readFirstPassphrase(source, storePath);
  }
  const kept = await getEntry(storePath, "current");
  if (passphraseFile === undefined && kept !== undefined) {
    reporter.notice("using the passphrase that the keyring already has for this path");
    return kept;
  }
  return readOrGeneratePassphrase(passphraseFile);
}

async function* readPlaintextClients(storePath: string): AsyncGenerator<Client> {
  await using store = await openPlaintext(storePath);
  yield* store;
}
