/**
 * `encrypt`: a plaintext store becomes an encrypted one, or one of format 3 one of format 4, in its place.
 *
 *   encrypt(options: EncryptOptions): Promise<EncryptResult>
 *
 * Every schema is taken as it is; nothing in it changes.
 */
import { StoreError } from "../errors.js";
import {
  findPasswordDelivery,
  type PasswordDelivery,
  passwordToReplace,
  resolvePasswordDelivery,
} from "../hub/password-delivery.js";
import { getEntry } from "../keys/keyring.js";
import { missingStoreError } from "../keys/moved-store.js";
import { adoptPending, firstPassphrase, planRotation } from "../keys/rotation-plan.js";
import {
  describeSource,
  formatSource,
  type Generation,
  type PassphraseSource,
} from "../keys/source.js";
import { unlock } from "../keys/unlock.js";
import { resolveService, type ServiceReport } from "../operation/downtime.js";
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
import { checkSchema } from "../store/schema.js";
import type { BundleOptions, BundleReport, OperationOptions } from "./options.js";
import {
  bundleReport,
  checkBundleDirectory,
  convert,
  newPassphrase,
  stageEncrypted,
} from "./prepare.js";
import { swap } from "./swap.js";

export interface EncryptOptions extends OperationOptions, BundleOptions {
  /** The file with the passphrase, absolute; without it one is generated. For the keyring alone. */
  readonly passphraseFile?: string | undefined;
  /** 3 where the hub's own library reads nothing newer. Default: 4. */
  readonly cipherCompatibility?: CipherCompatibility | undefined;
  /** A store with other SQLCipher parameters, which becomes one with the defaults. */
  readonly foreign?: ForeignStore | undefined;
}

export interface ForeignStore {
  /** With the parameters. */
  readonly key: StoreKey;
  /** Stays the store's passphrase; undefined for a raw key, which no hub can be given. */
  readonly passphrase: string | undefined;
  /** The parameters as text. */
  readonly settings: string;
}

export interface EncryptResult {
  readonly encrypted: {
    readonly path: string;
    readonly key_id: string;
    readonly cipher_compatibility: CipherCompatibility;
    /** What it was before: "plaintext", "SQLCipher 3", or "SQLCipher with kdf_iter=64000". */
    readonly from: string;
    readonly passphrase_source: string;
    readonly hub: PasswordDelivery["how"];
    /** What deleting the old file does not do, in a sentence; null if it was encrypted before. */
    readonly caution: string | null;
  };
  readonly bundle: BundleReport | null;
  readonly service: ServiceReport;
}

/** What has to be said about the file that is gone. */
const deletionCaution =
  "The old file is deleted, which is not the same as erased: flash storage and copy-on-write file systems keep old blocks, and so do snapshots and earlier backups of the disk. Whoever gets hold of those can read the clients' keys that were in it; if that matters, give the clients new ones.";

/**
 * Encrypts the store.
 *
 * @throws StoreError `notFound` without a store, `refused` for one that is encrypted already, `newerVersion` for a schema
 *   not known here, `corrupted` for what is no database; what `knowService`, `checkBundleFolder` and `swap` throw.
 */
export async function encrypt(options: EncryptOptions): Promise<EncryptResult> {
  const { lock, source, reporter, signal } = options;
  const { storePath } = lock;
  const to = options.cipherCompatibility ?? 4;
  const bundle = await checkBundleDirectory(options, reporter);
  const { foreign } = options;
  const found: Found = foreign
    ? { secret: foreign.key, ...(foreign.passphrase && { passphrase: foreign.passphrase }) }
    : await inspectPlaintext(storePath, source, to);
  await adoptPending(storePath, found.generation, reporter);
  const passphrase = found.passphrase ?? (await passphraseFor(options));
  const service = await resolveService(options.service, reporter);
  const upgrade = found.passphrase !== undefined;
  const delivery = upgrade
    ? await findPasswordDelivery(service, options.hub)
    : await resolvePasswordDelivery(service, options.hub);
  const { passphrase: replaced } = found;
  const keyring = await planRotation(storePath, source, passphrase, { passphrase: replaced }, true);
  const outcome = await swap({
    ...options,
    operation: "encrypt",
    service,
    bundle,
    passphrase,
    keyring,
    replaced: { state: "open", secret: found.secret },
    sources: { from: source, to: source },
    // A plugin that ignores its password wrote this store in plain text, and has one all the same.
    serverJson: upgrade ? undefined : passwordToReplace(delivery, reporter),
    stage: (staged) => stageEncrypted(staged, passphrase, to),
    fill: (staged, key, held) => convert(held, staged, key, signal),
  });
  const key = outcome.key as StoreKey;
  return {
    encrypted: {
      path: storePath,
      key_id: keyIdOf(key.salt),
      cipher_compatibility: key.cipherCompatibility,
      from: foreign
        ? `SQLCipher with ${foreign.settings}`
        : upgrade
          ? `SQLCipher ${found.secret?.cipherCompatibility}`
          : "plaintext",
      passphrase_source: formatSource(source),
      hub: delivery.how,
      caution: found.secret ? null : deletionCaution,
    },
    bundle: bundleReport(outcome),
    service: outcome.service,
  };
}

interface Found {
  readonly secret: Secret;
  readonly passphrase?: string;
  readonly generation?: Generation;
}

/** Opens the store as it is, and refuses what cannot be taken. */
async function inspectPlaintext(
  storePath: string,
  source: PassphraseSource,
  to: CipherCompatibility,
): Promise<Found> {
  const { format } = await identify(storePath);
  if (format === "absent") {
    throw await missingStoreError(storePath);
  }
  if (format === "unknown") {
    throw await unknownFormatError(storePath, "corrupted");
  }
  if (format === "plaintext") {
    const connection = await Connection.open(storePath, { mode: "readwrite" });
    await check(connection);
    return { secret: undefined };
  }
  const unlocked = await unlock(storePath, source, { mode: "readwrite" });
  const { connection, key, passphrase, generation } = unlocked;
  await check(connection);
  if (key.cipherCompatibility >= to) {
    throw new StoreError(
      "refused",
      `${storePath} is encrypted already, in SQLCipher's format ${key.cipherCompatibility}`,
      { hint: "hivemind-sqlcipher rotate gives it another passphrase" },
    );
  }
  return { secret: key, passphrase, generation };
}

async function check(connection: Connection): Promise<void> {
  try {
    await checkSchema(connection);
    await assertExportable(connection);
  } finally {
    await connection.close();
  }
}

/** The passphrase that a store which has none is to get. */
async function passphraseFor({
  lock,
  source,
  passphraseFile,
  reporter,
}: EncryptOptions): Promise<string> {
  if (source.kind !== "keyring") {
    if (passphraseFile !== undefined) {
      throw new StoreError("usage", `the passphrase comes from ${describeSource(source)}`, {
        hint: "leave --passphrase-file out: the source is read as it is",
      });
    }
    return firstPassphrase(source, lock.storePath);
  }
  const kept = await getEntry(lock.storePath, "current");
  if (passphraseFile === undefined && kept !== undefined) {
    reporter.notice("the passphrase that the keyring has for this path already is used");
    return kept;
  }
  return newPassphrase(passphraseFile);
}
