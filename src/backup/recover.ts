/**
 * Recovery of an interrupted or failed backup.
 *
 * The service comes first. Then a verified copy is completed if it was getting its final names; any
 * other copy is removed. Only files named in the journal are removed.
 */
import { dirname } from "node:path";
import { removeStagedBundles } from "../bundle/bundle.js";
import { assertMounted } from "../config/known-directories.js";
import { claimName, removeFile, syncDirectory } from "../fs/atomic.js";
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
import { readManifest } from "./manifest.js";

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

/** An inode, see `inodeOf`. Early journals put the device in front of it: `65024:1234`. */
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
  /** Where an unfinished bundle for this key may be left. */
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

/**
 * Finishes or undoes a backup, and removes its journal. Requires the operation lock.
 *
 * @param failed - set by the process of the backup: a failed backup is never completed
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
    // Other commands are not blocked any more. For a later recovery only the restart matters.
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
  // On the mount point of an unmounted disk the files seem to be gone.
  await assertMounted([dirname(files.staged.copy)], storePath);
  if (files.final) await removeEmptyClaims(files.final);
  if (canComplete && files.final && (await isComplete(files))) {
    await completeBackup(files);
    return [`completed the interrupted backup ${files.final.copy}`];
  }
  const { folder, key_id: keyId } = files.bundle;
  // With the directory's disk absent, writing the next bundle there removes the rest.
  if (await lstatIfExists(folder)) await removeStagedBundles(folder, keyId);
  const removed = await removeUnfinished(files);
  return removed.map((path) => `removed ${path}, left by an interrupted backup`);
}

/**
 * Removes the empty files by which `claimName` reserves names on a file system without hard links.
 * A kill leaves them. Both names were free when they were journaled.
 */
async function removeEmptyClaims({
  copy,
  manifest,
}: NonNullable<BackupJournal["final"]>): Promise<void> {
  for (const path of [copy, manifest]) {
    if ((await lstatIfExists(path))?.size === 0n) await removeFile(path);
  }
}

/** Returns whether copy and manifest exist, under either name, and fit together. */
async function isComplete({ staged, final }: BackupJournal): Promise<boolean> {
  if (!final) return false;
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
  const named: BackupJournal = {
    ...files,
    final: {
      copy,
      copy_identity: (await inodeOf(files.staged.copy)) ?? "",
      manifest,
      manifest_identity: (await inodeOf(files.staged.manifest)) ?? "",
    },
  };
  await journal.write("backup.claiming" satisfies BackupStep, named);
  emitStep("backup.claiming" satisfies BackupStep);
  await completeBackup(named);
}

/**
 * Gives the verified copy its final name, and then its manifest: this is the commit. Idempotent.
 *
 * @throws {@link StoreError} refused - if another file has one of the names
 */
async function completeBackup({ staged, final }: BackupJournal): Promise<void> {
  if (!final) return;
  await claimOnce(staged.copy, final.copy, final.copy_identity);
  emitStep("backup.claimed" satisfies BackupStep);
  await claimOnce(staged.manifest, final.manifest, final.manifest_identity);
  emitStep("backup.committed" satisfies BackupStep);
}

/** Claims a name. A kill may have left the file under both names. */
async function claimOnce(staged: string, final: string, identity: string): Promise<void> {
  if ((await inodeOf(final)) === identity) {
    await removeFile(staged);
    await syncDirectory(dirname(final));
    return;
  }
  await claimName(staged, final);
}

/**
 * Removes the files of an unfinished backup.
 *
 * @returns the paths that existed
 */
async function removeUnfinished({ staged, final }: BackupJournal): Promise<string[]> {
  const removed: string[] = [];
  const remove = async (path: string, identity?: string) => {
    const existing = await inodeOf(path);
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
  for (const path of paths) if ((await inodeOf(path)) === identity) return path;
  return undefined;
}

/**
 * Returns the inode of a file, links not followed; undefined if it does not exist. The device is
 * left out: it changes with a reboot, and when a disk is plugged in again.
 */
async function inodeOf(path: string): Promise<string | undefined> {
  const existing = await lstatIfExists(path);
  return existing && `${existing.ino}`;
}
