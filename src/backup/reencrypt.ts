/**
 * Bringing backups under another passphrase: each is checked, exported under the store's present key, compared row for
 * row, sealed with a new manifest, and given its name; only then does the old one go.
 *
 * Whoever can write to the backups' folder could exchange a backup once it is checked, for one of last year's perhaps, and
 * have that sealed as today's. So the work is done on a copy beside the store, which must be what was checked, and nothing
 * but what was checked is said in the new manifest.
 *
 * All get the store's own key and salt, so that they have its key_id and its bundle opens them. The new one of
 * `clients.<UTC>.db` is `clients.<UTC>.<key_id>.db`: both can be there, and a name says what opens it. The journal
 * is that of a backup, so a kill leaves what a killed backup leaves: the new one is completed or removed, and the
 * old one is still there.
 */
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { StoreError, systemError } from "../errors.js";
import { createFile, removeFile, stagedName } from "../fs/atomic.js";
import { copyFile } from "../fs/copy.js";
import { lstatIfExists, sha256File } from "../fs/read.js";
import type { PassphraseSource } from "../keys/source.js";
import { Journal } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import { emitStep } from "../operation/step.js";
import { throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { keyIdOf, openEncrypted, type StoreKey } from "../store/cipher.js";
import { copyUnder } from "../store/export.js";
import {
  formatManifest,
  isNameOfBackup,
  type Manifest,
  manifestPath,
  readManifest,
  signManifest,
} from "./manifest.js";
import { type BackupJournal, completeBackup, inodeOf, removeUnfinished } from "./recover.js";
import { removeBackup } from "./remove.js";
import {
  type BackupPassphrase,
  inspectSound,
  openBackup,
  type Verification,
  verifyBackup,
} from "./verify.js";

export interface ReencryptOptions {
  readonly lock: OperationLock;
  /** The backups' folder. */
  readonly folder: string;
  /** Where the store's bundle is. */
  readonly bundleFolder: string;
  /** The store's present key. */
  readonly key: StoreKey;
  /** Passphrases that may open the backups and are perhaps kept nowhere. */
  readonly passphrases: readonly string[];
  readonly source: PassphraseSource;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

export interface ReencryptedBackups {
  /** The new files. */
  readonly reencrypted: string[];
  /** Those that were left as they are, and why. */
  readonly left: { readonly path: string; readonly reason: string }[];
}

/**
 * Brings every backup of a folder under the store's present key. One that does not verify, or that nothing kept opens, is
 * left as it is, and that is said.
 *
 * @throws StoreError `io`, `interrupted`, `corrupted` if one was exchanged under our hands: the backups done so far are
 *   done, the others untouched.
 */
export async function reencryptBackups(options: ReencryptOptions): Promise<ReencryptedBackups> {
  const { folder, key, signal, reporter } = options;
  const result: ReencryptedBackups = { reencrypted: [], left: [] };
  for (const path of await backupsIn(folder, options.lock.storePath)) {
    throwIfAborted(signal);
    const manifest = await readManifest(manifestPath(path)).catch(() => undefined);
    if (manifest?.key_id === keyIdOf(key.salt)) continue;
    const reason = await reencryptOne(path, options);
    if (reason === undefined) {
      result.reencrypted.push(newName(path, key));
      reporter.detail(`${path} is under the new passphrase now`);
    } else {
      result.left.push({ path, reason });
      reporter.notice(`${path} was left under its old passphrase: ${reason}`);
    }
  }
  return result;
}

/** The store's backups that have a manifest, which is what makes them backups. */
async function backupsIn(folder: string, storePath: string): Promise<string[]> {
  try {
    const names = new Set(await readdir(folder));
    return [...names]
      .filter((name) => isNameOfBackup(name, storePath) && name.endsWith(".db"))
      .filter((name) => names.has(basename(manifestPath(name))))
      .sort()
      .map((name) => join(folder, name));
  } catch (error) {
    throw systemError(error, `cannot look into ${folder}`);
  }
}

function newName(path: string, key: StoreKey): string {
  const stem = path.replace(/\.db$/, "").replace(/\.[0-9a-f]{16}$/, "");
  return `${stem}.${keyIdOf(key.salt)}.db`;
}

/** @returns why it was left as it is; undefined if it was done. */
async function reencryptOne(path: string, options: ReencryptOptions): Promise<string | undefined> {
  const { lock, key } = options;
  let secret: BackupPassphrase;
  let verified: Verification;
  try {
    secret = await passphraseOf(path, options);
    verified = await verifyBackup(path, secret);
  } catch (error) {
    if (!(error instanceof StoreError) || error.kind === "io") throw error;
    return error.message;
  }
  const { ok, checks, sha256, manifest: old } = verified;
  if (!ok || !old) return checks.find((check) => !check.ok)?.detail ?? "it does not verify";
  const copy = newName(path, key);
  const manifest = manifestPath(copy);
  if ((await lstatIfExists(copy)) || (await lstatIfExists(manifest)))
    return `${copy} exists already`;
  const [original, renewed] = [stagedName(lock.storePath), stagedName(lock.storePath)];
  const staged = { copy: stagedName(copy), manifest: stagedName(manifest) };
  const bundle = { folder: options.bundleFolder, key_id: keyIdOf(key.salt) };
  let files: BackupJournal = { staged: { ...staged, work: [original, renewed] }, bundle };
  const journal = await Journal.begin(lock.storePath, "backup", "backup.beginning", { ...files });
  emitStep("reencrypt.copying");
  try {
    await copyExpecting(sha256, path, original);
    emitStep("reencrypt.staged");
    await exportBackup(original, secret, renewed, options);
    const sealed = await newManifest(old, copy, renewed, key);
    emitStep("reencrypt.exported");
    await copyExpecting(sealed.sha256, renewed, staged.copy);
    await removeFile(original);
    await removeFile(renewed);
    emitStep("reencrypt.copied");
    await createFile(staged.manifest, formatManifest(sealed));
    files = {
      staged,
      bundle,
      final: {
        copy,
        copy_identity: (await inodeOf(staged.copy)) ?? "",
        manifest,
        manifest_identity: (await inodeOf(staged.manifest)) ?? "",
      },
    };
    await journal.write("backup.claiming", files);
    await completeBackup(files);
  } catch (error) {
    await removeUnfinished(files);
    await journal.remove();
    throw error;
  }
  await journal.remove();
  emitStep("reencrypt.claimed");
  await removeBackup(path);
  return undefined;
}

/** @throws StoreError `corrupted` if the copy has another checksum than is expected; `io`. */
async function copyExpecting(sha256: string, from: string, to: string): Promise<void> {
  await copyFile(from, to);
  if ((await sha256File(to)) === sha256) return;
  throw new StoreError("corrupted", `the copy of ${from} is not what was verified`, {
    hint: "another program writes there, or the disk or the memory of this machine is not to be trusted",
  });
}

async function passphraseOf(path: string, options: ReencryptOptions): Promise<BackupPassphrase> {
  const { lock, passphrases, source } = options;
  for (const passphrase of passphrases) {
    try {
      await (await openBackup(path, { passphrase })).connection.close();
      return { passphrase };
    } catch (error) {
      if (!(error instanceof StoreError && error.kind === "wrongPassphrase")) throw error;
    }
  }
  return { source, storePath: lock.storePath };
}

async function exportBackup(
  from: string,
  secret: BackupPassphrase,
  to: string,
  { key, signal }: ReencryptOptions,
): Promise<void> {
  const { connection, key: oldKey } = await openBackup(from, secret);
  await connection.close();
  await createFile(to, "");
  await copyUnder({ from, secret: oldKey, to, key, signal });
}

async function newManifest(
  old: Manifest,
  copy: string,
  renewed: string,
  key: StoreKey,
): Promise<Manifest> {
  const { format: _format, version: _version, mac: _mac, ...contents } = old;
  const opened = await openEncrypted(renewed, key, { mode: "readonly", immutable: true });
  const found = await inspectSound(opened);
  return signManifest(
    {
      ...contents,
      file: basename(copy),
      size: (await stat(renewed)).size,
      sha256: await sha256File(renewed),
      key_id: keyIdOf(key.salt),
      cipher_compatibility: key.cipherCompatibility,
      clients: found.clients,
      page_size: found.pageSize,
    },
    key,
  );
}
