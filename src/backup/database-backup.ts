/**
 * Backs up a database that is not the encrypted store: a plain SQLite store, or a database of a
 * plugin, such as JSON or Redis.
 *
 * The backup is an encrypted store like any other, with a manifest and a bundle. It is made while
 * the hub runs: plain SQLite in one read transaction; any other database is copied, and the copy is
 * compared and corrected until the database has not changed during a whole comparison.
 *
 * Uses the source's passphrase for the store's path. If the keyring has none, generates a
 * passphrase and stores it there. The backups share one key, so one bundle opens them all.
 */
import { createHash } from "node:crypto";
import { bundleReport, resolveRecipients, writeBundle } from "../bundle/bundle.js";
import { assertPlacement } from "../bundle/placement.js";
import {
  copyClients,
  createTable,
  type LocatedDatabase,
  openToRead,
} from "../databases/copy-clients.js";
import { StoreError } from "../errors.js";
import { syncFile } from "../fs/copy.js";
import { statIfExists } from "../fs/read.js";
import { getEntry, setEntry } from "../keys/keyring.js";
import { generatePassphrase } from "../keys/passphrase.js";
import { readFirstPassphrase } from "../keys/rotation-plan.js";
import type { PassphraseSource } from "../keys/source.js";
import { Journal } from "../operation/journal.js";
import { orRecover, withRecovery } from "../operation/recovery-parts.js";
import { reportService } from "../operation/window.js";
import { throwIfAborted } from "../process/abort.js";
import { noService } from "../service/none.js";
import {
  createEncrypted,
  deriveNewKey,
  identify,
  openDatabase,
  openImmutable,
  type StoreKey,
} from "../store/cipher.js";
import { copyPlaintext } from "../store/export.js";
import { readSchema } from "../store/schema.js";
import type { BackupResult } from "./backup.js";
import { type BackupJournal, emitBackupStep, planFiles } from "./journal.js";
import { findNewestBackup } from "./manifest.js";
import { nameBackup } from "./name.js";
import { type BackupDirectories, type DestinationOptions, prepareDestination } from "./prepare.js";
import { recoverBackup } from "./recover.js";
import { chooseStoreId } from "./store-id.js";
import { unlockBackup, verifyCopy } from "./verify.js";

export interface DatabaseBackupOptions extends DestinationOptions {
  /** The database; undefined for the plaintext store at the path of the lock. */
  readonly database: LocatedDatabase | undefined;
  readonly signal: AbortSignal;
}

interface Prepared extends BackupDirectories {
  readonly storePath: string;
  readonly passphrase: string;
  /** Whether the passphrase is not in the keyring yet. */
  readonly isNew: boolean;
  readonly key: StoreKey;
}

interface Job {
  readonly options: DatabaseBackupOptions;
  readonly prepared: Prepared;
  readonly journal: Journal;
  readonly files: BackupJournal;
}

/**
 * Makes an encrypted backup of a database that is not the encrypted store, and its bundle.
 *
 * @throws {@link StoreError} notFound - if there is no such database
 * @throws {@link StoreError} inUse - if the database changes faster than it can be copied
 * @throws {@link StoreError} of every other kind. No backup is left, but the bundle and a new
 *   passphrase may be.
 */
export async function backupDatabase(options: DatabaseBackupOptions): Promise<BackupResult> {
  const prepared = await prepareDatabaseBackup(options);
  const files = planFiles(prepared);
  const journal = await Journal.begin(prepared.storePath, "backup", "backup.beginning", files);
  emitBackupStep("backup.beginning");
  const result = await orRecover(
    () => copyAndName({ options, prepared, journal, files }),
    async ({ failure }) =>
      withRecovery(failure, await recoverBackup(journal, prepared.storePath, { failure })),
  );
  await journal.end(`the backup ${result.backup.path} is complete and verified`);
  return result;
}

/**
 * Checks in advance that a backup can be made. Creates nothing but the two directories.
 *
 * @throws {@link StoreError} as {@link backupDatabase} does before it creates a file
 */
export async function prepareDatabaseBackup(options: DatabaseBackupOptions): Promise<Prepared> {
  const { reporter, source } = options;
  const { storePath } = options.lock;
  resolveRecipients(options);
  if (options.database !== undefined) await assertNoStore(storePath);
  await assertPlacement(options.to, options.bundleTo, reporter);
  const directories = await prepareDestination(options, await assertReadable(options));
  const { passphrase, isNew } = await resolvePassphrase(storePath, source);
  return {
    storePath,
    ...directories,
    passphrase,
    isNew,
    key: await resolveKey(directories.directory, storePath, passphrase),
  };
}

/**
 * Throws if the path has a store: its backups would have the same names and passphrase as those of
 * the database, and could not be told apart.
 */
async function assertNoStore(storePath: string): Promise<void> {
  if ((await identify(storePath)).format === "absent") return;
  throw new StoreError(
    "refused",
    `there is a store at ${storePath}, which has backups of its own`,
    {
      hint: "If no hub uses the store, move it away. With restore --into, add --discard-replaced to make no backup of the database.",
    },
  );
}

/**
 * Opens the database and closes it again.
 *
 * @returns the size of a plaintext store in bytes; 0 for a plugin's database, of unknown size
 */
async function assertReadable({ database, lock }: DatabaseBackupOptions): Promise<number> {
  if (database === undefined) {
    await using connection = await openDatabase(lock.storePath, undefined);
    await readSchema(connection);
    return (await statIfExists(lock.storePath))?.size ?? 0;
  }
  await using opened = await openToRead(database);
  void opened;
  return 0;
}

/** Returns the stored passphrase of the store's path, or a new passphrase for the keyring. */
async function resolvePassphrase(
  storePath: string,
  source: PassphraseSource,
): Promise<Pick<Prepared, "passphrase" | "isNew">> {
  if (source.kind !== "keyring") {
    return { passphrase: await readFirstPassphrase(source, storePath), isNew: false };
  }
  const kept = await getEntry(storePath, "current");
  return { passphrase: kept ?? generatePassphrase(), isNew: kept === undefined };
}

/** @throws {@link StoreError} inUse - if another program has stored a passphrase for this path */
async function storePassphrase(storePath: string, passphrase: string): Promise<void> {
  if ((await getEntry(storePath, "current")) !== undefined) {
    const message = `another program has stored a passphrase for ${storePath} during the backup`;
    throw new StoreError("inUse", message, {
      hint: "Run the backup again.",
    });
  }
  await setEntry(storePath, "current", passphrase);
}

/** Returns the key of the newest backup if this passphrase opens it, or a new key. */
async function resolveKey(
  directory: string,
  storePath: string,
  passphrase: string,
): Promise<StoreKey> {
  const newest = await findNewestBackup(directory, storePath);
  if (newest !== undefined) {
    try {
      const { key } = await unlockBackup(newest.path, { passphrase });
      if (key.cipherCompatibility === 4) return key;
    } catch (error) {
      // The newest backup has another passphrase or is damaged: use a new key.
      if (!(error instanceof StoreError)) throw error;
    }
  }
  return await deriveNewKey(passphrase, 4);
}

async function copyAndName(job: Job): Promise<BackupResult> {
  const { options, prepared, journal, files } = job;
  const { passphrase, key, storePath, isNew } = prepared;
  const { signal, reporter } = options;
  const at = new Date();
  await writeCopy(options, files.staged.copy, key);
  throwIfAborted(signal);
  await syncFile(files.staged.copy);
  const size = (await statIfExists(files.staged.copy))?.size ?? 0;
  emitBackupStep("backup.finished");
  // Opens the copy with the passphrase, not with the cached key, as a user of the bundle would.
  const hash = createHash("sha256");
  const contents = await verifyCopy(await openImmutable(files.staged.copy, passphrase), hash);
  const sha256 = hash.digest("hex");
  emitBackupStep("backup.verified");
  throwIfAborted(signal);
  if (isNew) await storePassphrase(storePath, passphrase);
  const { directory } = prepared;
  const storeId = await chooseStoreId({ storePath, directory, key });
  const bundle = await writeBundle({
    directory: prepared.bundleDirectory,
    storePath: files.staged.copy,
    storeId,
    database: options.database?.location ?? storePath,
    passphrase,
    key,
    recipients: options.recipients,
  });
  emitBackupStep("backup.bundled");
  const backup = await nameBackup({
    directory,
    storePath,
    at,
    journal,
    files,
    key,
    size,
    sha256,
    contents,
    unit: null,
    method: "online",
    storeId,
  });
  return {
    backup,
    bundle: bundleReport(bundle),
    service: await reportService({ service: noService(), wasActive: false }, undefined, reporter),
    verified: true,
  };
}

async function writeCopy(
  { database, lock, signal }: DatabaseBackupOptions,
  staged: string,
  key: StoreKey,
): Promise<void> {
  const { connection } = await createEncrypted(staged, key);
  if (database === undefined) {
    await connection.close();
    await copyPlaintext({ from: lock.storePath, to: staged, key, signal });
    return;
  }
  try {
    await using origin = await openToRead(database);
    await copyClients(origin, await createTable(connection), signal);
  } finally {
    await connection.close();
  }
}
