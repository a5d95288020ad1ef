/**
 * Recovery of an interrupted or failed backup.
 *
 * The service is started first. Then a verified copy that was being given its final name gets it,
 * with its manifest; any other copy is removed. Only files named in the journal are removed, and
 * the unfinished bundle of its key.
 */
import { dirname } from "node:path";
import { removeStagedBundles } from "../bundle/bundle.js";
import { assertMounted } from "../config/known-directories.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import type { Journal } from "../operation/journal.js";
import {
  cleanUp,
  endDowntime,
  findDowntime,
  type OperationFailure,
  type Recovery,
} from "../operation/recovery-parts.js";
import { completeBackup, findByInode, readInode } from "./commit.js";
import {
  type BackupJournal,
  type BackupStep,
  backupJournalSchema,
  type FinalNames,
  type StagedFiles,
} from "./journal.js";
import { readManifest } from "./manifest.js";

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
async function removeEmptyClaims({ copy, manifest }: FinalNames): Promise<void> {
  for (const path of [copy, manifest]) {
    if ((await lstatIfExists(path))?.size === 0n) await removeFile(path);
  }
}

/** Returns whether the copy and its manifest exist, under either name, and the size matches. */
async function isComplete(staged: StagedFiles, final: FinalNames): Promise<boolean> {
  const copy = await findByInode(final.copy_identity, staged.copy, final.copy);
  const manifest = await findByInode(final.manifest_identity, staged.manifest, final.manifest);
  if (!copy || !manifest) return false;
  const { size } = await readManifest(manifest).catch(() => ({ size: -1 }));
  return BigInt(size) === (await lstatIfExists(copy))?.size;
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
