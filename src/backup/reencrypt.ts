/**
 * Re-encrypts backups under the store's present key.
 *
 * Each backup is verified, re-encrypted page by page, signed with a new manifest and given its
 * final name. Only then is the old backup removed. A backup of another format than the store's is
 * exported under the new key and compared row for row.
 *
 * A program that can write to the backup directory could replace a backup after the verification,
 * for example with an older backup, which would be signed with the later date. So the pages are
 * read from a copy next to the store with the checksum of the verified file, and the new manifest
 * contains only verified values.
 *
 * The new backups have the store's own key and salt, and therefore its key_id: its bundle opens
 * them. `clients.<UTC>.db` becomes `clients.<UTC>.<key_id>.db`, so both can exist at once. The
 * journal is that of a backup: after a kill, recovery completes or removes the new backup, and the
 * old backup stays.
 */
import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { readStoreId } from "../config/store-id.js";
import { isKind, StoreError } from "../errors.js";
import { createFile, removeFile, stagedName, syncDirectory } from "../fs/atomic.js";
import { copyFile } from "../fs/copy.js";
import { listDirectory, lstatIfExists, sha256File } from "../fs/read.js";
import type { PassphraseSource } from "../keys/source.js";
import { Journal } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import { orRecover, withRecovery } from "../operation/recovery-parts.js";
import { emitStep } from "../operation/step.js";
import { orAbort, throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { keyIdOf, openImmutable, type StoreKey } from "../store/cipher.js";
import { copyEncrypted } from "../store/export.js";
import { commitBackup } from "./commit.js";
import type { BackupJournal } from "./journal.js";
import {
  formatManifest,
  isNameOfBackup,
  type Manifest,
  manifestPath,
  mayBelongTo,
  readManifest,
  removeBackup,
  signManifest,
} from "./manifest.js";
import { recoverBackup } from "./recover.js";
import {
  type BackupPassphrase,
  unlockBackup,
  type Verification,
  verifyBackup,
  verifyCopy,
} from "./verify.js";
import { WarmCopy } from "./warm-copy.js";

export interface ReencryptOptions {
  readonly lock: OperationLock;
  /** The directory of the backups. */
  readonly folder: string;
  /** The directory of the store's bundle. */
  readonly bundleFolder: string;
  /** The store's present key. */
  readonly key: StoreKey;
  /** Further passphrases to try first: the source may no longer have those of older backups. */
  readonly passphrases: readonly string[];
  readonly source: PassphraseSource;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

export interface ReencryptedBackups {
  readonly reencrypted: string[];
  /** The backups left under their old passphrase, and why. */
  readonly left: { readonly path: string; readonly reason: string }[];
}

/**
 * Re-encrypts the store's backups in a directory. Skips and reports a backup that does not verify,
 * that no known passphrase opens, or whose new name is taken. If it throws, some backups have been
 * re-encrypted, and the others are unchanged.
 *
 * @throws {@link StoreError} corrupted - if a backup was replaced during the operation
 * @throws {@link StoreError} io - if a file cannot be read or written
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function reencryptBackups(options: ReencryptOptions): Promise<ReencryptedBackups> {
  const { folder, key, signal, reporter } = options;
  const result: ReencryptedBackups = { reencrypted: [], left: [] };
  const own = await readStoreId(options.lock.storePath);
  for (const path of await listWithManifest(folder, options.lock.storePath)) {
    throwIfAborted(signal);
    const manifest = await readManifest(manifestPath(path)).catch(() => undefined);
    if (manifest?.key_id === keyIdOf(key.salt)) continue;
    if (manifest && !mayBelongTo(manifest, own?.id)) continue;
    const reason = await reencryptOne(path, options);
    if (reason === undefined) {
      result.reencrypted.push(reencryptedPath(path, key));
      reporter.detail(`${path} was re-encrypted`);
    } else {
      result.left.push({ path, reason });
      reporter.notice(`${path} keeps its old passphrase: ${reason}`);
    }
  }
  return result;
}

/** Lists the store's backups. A file without a manifest is not a complete backup. */
async function listWithManifest(directory: string, storePath: string): Promise<string[]> {
  const names = await listDirectory(directory);
  if (!names) throw new StoreError("io", `${directory}: no such directory`);
  return names
    .filter((name) => isNameOfBackup(name, storePath) && name.endsWith(".db"))
    .filter((name) => names.includes(basename(manifestPath(name))))
    .map((name) => join(directory, name));
}

function reencryptedPath(path: string, key: StoreKey): string {
  const stem = path.replace(/(?:\.[0-9a-f]{16})*\.db$/, "");
  return `${stem}.${keyIdOf(key.salt)}.db`;
}

/** @returns why the backup was skipped; undefined if it was re-encrypted */
async function reencryptOne(path: string, options: ReencryptOptions): Promise<string | undefined> {
  const { key } = options;
  let secret: BackupPassphrase;
  let verified: Verification;
  try {
    secret = await resolvePassphrase(path, options);
    verified = await verifyBackup(path, secret);
  } catch (error) {
    if (!(error instanceof StoreError) || error.kind === "io") throw error;
    return error.message;
  }
  const { ok, checks, sha256, manifest: old } = verified;
  if (!ok || !old) return checks.find((check) => !check.ok)?.detail ?? "the backup does not verify";
  const copy = reencryptedPath(path, key);
  const manifest = manifestPath(copy);
  if ((await lstatIfExists(copy)) || (await lstatIfExists(manifest)))
    return `${copy} already exists`;
  await writeReencrypted({ path, secret, sha256, old, copy, manifest }, options);
  await removeBackup(path);
  return undefined;
}

/** A verified backup, and the paths of its re-encrypted copy and manifest. */
interface Reencryption {
  readonly path: string;
  readonly secret: BackupPassphrase;
  readonly sha256: string;
  readonly old: Manifest;
  readonly copy: string;
  readonly manifest: string;
}

async function writeReencrypted(job: Reencryption, options: ReencryptOptions): Promise<void> {
  const { storePath } = options.lock;
  const { copy, manifest } = job;
  const [original, renewed] = [stagedName(storePath), stagedName(storePath)];
  const staged = { copy: stagedName(copy), manifest: stagedName(manifest) };
  const bundle = { folder: options.bundleFolder, key_id: keyIdOf(options.key.salt) };
  const files: BackupJournal = { staged: { ...staged, work: [original, renewed] }, bundle };
  const journal = await Journal.begin(storePath, "backup", "backup.beginning", files);
  emitStep("reencrypt.copying");
  await orRecover(
    async () => {
      await copyVerified(job.sha256, job.path, original);
      emitStep("reencrypt.staged");
      await reencryptFile(original, job.secret, renewed, options);
      const signed = await signNewManifest(job.old, copy, renewed, options.key);
      emitStep("reencrypt.exported");
      await copyVerified(signed.sha256, renewed, staged.copy);
      for (const path of [original, renewed]) await removeFile(path);
      await syncDirectory(dirname(storePath));
      emitStep("reencrypt.copied");
      await createFile(staged.manifest, formatManifest(signed));
      await commitBackup(journal, { staged, bundle }, { copy, manifest });
    },
    async ({ failure }) =>
      withRecovery(failure, await recoverBackup(journal, storePath, { failure })),
  );
  await journal.remove();
  emitStep("reencrypt.claimed");
}

/** @throws {@link StoreError} corrupted - if the copy's checksum differs */
async function copyVerified(sha256: string, from: string, to: string): Promise<void> {
  await copyFile(from, to);
  if ((await sha256File(to)) === sha256) return;
  throw new StoreError("corrupted", `the copy of ${from} differs from the verified file`, {
    hint: "Find the program that writes to this directory; if there is none, test the disk and the memory of this machine.",
  });
}

async function resolvePassphrase(
  path: string,
  options: ReencryptOptions,
): Promise<BackupPassphrase> {
  const { lock, passphrases, source } = options;
  for (const passphrase of passphrases) {
    try {
      await unlockBackup(path, { passphrase });
      return { passphrase };
    } catch (error) {
      if (!isKind(error, "wrongPassphrase")) throw error;
    }
  }
  return { source, storePath: lock.storePath };
}

async function reencryptFile(
  from: string,
  secret: BackupPassphrase,
  to: string,
  { key, signal }: ReencryptOptions,
): Promise<void> {
  const { key: oldKey } = await unlockBackup(from, secret);
  await createFile(to, "");
  if (oldKey.cipherCompatibility !== key.cipherCompatibility) {
    return copyEncrypted({ from, secret: oldKey, to, key, signal });
  }
  await using copy = new WarmCopy(from, oldKey, to, key);
  await orAbort(copy.completeLocked(), signal);
  await copy.truncate();
}

async function signNewManifest(
  old: Manifest,
  copy: string,
  renewed: string,
  key: StoreKey,
): Promise<Manifest> {
  const { format: _format, version: _version, mac: _mac, ...contents } = old;
  const hash = createHash("sha256");
  const found = await verifyCopy(await openImmutable(renewed, key), hash);
  return signManifest(
    {
      ...contents,
      file: basename(copy),
      size: (await stat(renewed)).size,
      sha256: hash.digest("hex"),
      key_id: keyIdOf(key.salt),
      cipher_compatibility: key.cipherCompatibility,
      clients: found.clients,
      page_size: found.pageSize,
    },
    key,
  );
}
