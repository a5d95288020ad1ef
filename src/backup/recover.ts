/**
 * Recovery of an interrupted or failed backup.
 *
 * The service is started first. Then a verified copy that was being given its final name gets it,
 * with its manifest; any other copy is removed. Only files named in the journal are removed, and
 * the unfinished bundle of its key.
 */
import { dirname, join } from "node:path";
import { removeStagedBundles } from "../bundle/bundle.js";
import { assertMounted } from "../config/known-directories.js";
import { claimName, removeFile, stagedName, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import type { Journal } from "../operation/journal.js";
import {
  cleanUp,
  endDowntime,
  findDowntime,
  type OperationFailure,
  type Recovery,
} from "../operation/recovery.js";
import { stoppedSchema } from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import * as z from "../schema.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import { readManifest } from "./manifest.js";
import type { BackupDirectories } from "./prepare.js";

/**
 * The steps of a backup. The journal has the step that may have begun; the step channel reports
 * every finished step.
 */
export const backupSteps = [
  "backup.beginning", // journaled
  "backup.bundled",
  "backup.warm",
  "backup.stopping", // journaled
  "backup.armed",
  "backup.stopped",
  "backup.copied",
  "backup.started", // journaled by a recovery
  "backup.finishing", // journaled
  "backup.finished",
  "backup.verified",
  "backup.claiming", // journaled
  "backup.claimed",
  "backup.committed",
] as const;

export type BackupStep = (typeof backupSteps)[number];

export function emitBackupStep(step: BackupStep): void {
  emitStep(step);
}

/** An inode, see `readInode`. Early journals put the device in front of it: `65024:1234`. */
const inode = z.pipe(
  z.string(),
  z.transform((identity: string) => identity.replace(/^\d+:/, "")),
);

const backupJournalSchema = z.strictObject({
  /**
   * The copy and the manifest before they get their final names, and other temporary files. They
   * need not exist.
   */
  staged: z.strictObject({
    copy: z.string(),
    manifest: z.string(),
    work: z.optional(z.array(z.string())),
  }),
  /** The directory and the key_id of a possibly unfinished bundle. */
  bundle: z.strictObject({ folder: z.string(), key_id: z.string() }),
  stopped: z.optional(stoppedSchema),
  /** The final names, and the inodes by which this backup's files are recognized. */
  final: z.optional(
    z.strictObject({
      copy: z.string(),
      copy_identity: inode,
      manifest: z.string(),
      manifest_identity: inode,
    }),
  ),
});

export type BackupJournal = z.infer<typeof backupJournalSchema>;
type Staged = BackupJournal["staged"];
type Final = NonNullable<BackupJournal["final"]>;

/** Returns the paths of a new backup's files before they get their final names. */
export function planFiles(backup: BackupDirectories & { readonly key: StoreKey }): BackupJournal {
  const staged = join(backup.directory, "backup");
  return {
    staged: { copy: stagedName(`${staged}.db`), manifest: stagedName(`${staged}.manifest.json`) },
    bundle: { folder: backup.bundleDirectory, key_id: keyIdOf(backup.key.salt) },
  };
}

/**
 * Finishes or undoes a backup, and removes its journal. Requires the operation lock.
 *
 * @param failed - the failure, if the backup's own process calls this: it undoes the backup and
 *   reports the failure. After a kill, undefined: a verified copy is completed.
 * @throws {@link StoreError} corrupted - if this version cannot read the journal
 */
export async function recoverBackup(
  journal: Journal,
  storePath: string,
  failed?: OperationFailure,
): Promise<Recovery> {
  const { stopped, ...files } = journal.dataAs(backupJournalSchema);
  const downtime = await findDowntime(storePath, stopped, failed);
  const messages = await endDowntime(downtime, "backup");
  const serviceDown = downtime?.startFailure;
  if (stopped) {
    // From this step on, the journal does not block commands that open the store. A later recovery
    // needs `stopped` only to start the service.
    const data = { ...files, ...(serviceDown && { stopped }) };
    await journal.write("backup.started" satisfies BackupStep, data).catch(() => undefined);
  }
  const work = async () =>
    messages.push(...(await recoverFiles(files, storePath, failed === undefined)));
  const cleanupPending = await cleanUp(journal, work, { isDown: serviceDown !== undefined });
  return { messages, serviceDown, cleanupPending };
}

async function recoverFiles(
  files: BackupJournal,
  storePath: string,
  canComplete: boolean,
): Promise<string[]> {
  // On the mount point of an unmounted disk, the files seem not to exist.
  await assertMounted(dirname(files.staged.copy), storePath);
  const { staged, final } = files;
  if (final) await removeEmptyClaims(final);
  if (canComplete && final && (await isComplete(staged, final))) {
    await completeBackup(staged, final);
    return [`completed the interrupted backup ${final.copy}`];
  }
  const { folder, key_id: keyId } = files.bundle;
  // If the disk of this directory is not mounted, the next `writeBundle` removes the files.
  await removeStagedBundles(folder, keyId);
  const removed = await removeUnfinished(files);
  return removed.map((path) => `removed ${path}, left by an interrupted backup`);
}

/**
 * Removes the empty files by which `claimName` reserves names on a file system without hard links.
 * A kill leaves them. Both names were free when they were journaled.
 */
async function removeEmptyClaims({ copy, manifest }: Final): Promise<void> {
  for (const path of [copy, manifest]) {
    if ((await lstatIfExists(path))?.size === 0n) await removeFile(path);
  }
}

/** Returns whether the copy and its manifest exist, under either name, and the size matches. */
async function isComplete(staged: Staged, final: Final): Promise<boolean> {
  const copy = await findByInode(final.copy_identity, staged.copy, final.copy);
  const manifest = await findByInode(final.manifest_identity, staged.manifest, final.manifest);
  if (!copy || !manifest) return false;
  const { size } = await readManifest(manifest).catch(() => ({ size: -1 }));
  return BigInt(size) === (await lstatIfExists(copy))?.size;
}

/** Journals the final names of a verified copy and its manifest, and gives them these names. */
export async function commitBackup(
  journal: Journal,
  files: BackupJournal,
  { copy, manifest }: { copy: string; manifest: string },
): Promise<void> {
  const { staged } = files;
  const final: Final = {
    copy,
    copy_identity: (await readInode(staged.copy)) ?? "",
    manifest,
    manifest_identity: (await readInode(staged.manifest)) ?? "",
  };
  await journal.write("backup.claiming" satisfies BackupStep, { ...files, final });
  emitBackupStep("backup.claiming");
  await completeBackup(staged, final);
}

/**
 * Gives the verified copy its final name, and then, as the commit, the manifest. Idempotent.
 *
 * @throws {@link StoreError} refused - if another file has one of the names
 */
async function completeBackup(staged: Staged, final: Final): Promise<void> {
  await claimOnce(staged.copy, final.copy, final.copy_identity);
  emitBackupStep("backup.claimed");
  await claimOnce(staged.manifest, final.manifest, final.manifest_identity);
  emitBackupStep("backup.committed");
}

/** Claims a name, unless the file has it. A kill may have left the file under both names. */
async function claimOnce(staged: string, final: string, identity: string): Promise<void> {
  if ((await readInode(final)) === identity) {
    await removeFile(staged);
    await syncDirectory(dirname(final));
    return;
  }
  await claimName(staged, final);
}

/** @returns the removed paths */
async function removeUnfinished({ staged, final }: BackupJournal): Promise<string[]> {
  const removed: string[] = [];
  const remove = async (path: string, identity?: string) => {
    const existing = await readInode(path);
    if (existing === undefined || (identity !== undefined && existing !== identity)) return;
    await removeFile(path);
    removed.push(path);
  };
  if (final) {
    await remove(final.manifest, final.manifest_identity);
    await remove(final.copy, final.copy_identity);
  }
  for (const path of [staged.manifest, staged.copy, ...(staged.work ?? [])]) await remove(path);
  if (removed.length > 0) await syncDirectory(dirname(staged.copy));
  return removed;
}

async function findByInode(identity: string, ...paths: string[]): Promise<string | undefined> {
  for (const path of paths) if ((await readInode(path)) === identity) return path;
  return undefined;
}

/**
 * Returns the inode of a file, or of a symbolic link itself; undefined if it does not exist. The
 * device is left out, because it changes with a reboot, and when a disk is plugged in again.
 */
async function readInode(path: string): Promise<string | undefined> {
  const existing = await lstatIfExists(path);
  return existing && `${existing.ino}`;
}
