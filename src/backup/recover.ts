/**
 * An interrupted backup: what its journal says, and what the next command (or the dead-man timer) does about it.
 *
 * The service comes first. Then a backup whose copy had been verified and was being given its final names is completed;
 * any other is undone. Nothing is removed that the journal does not name.
 */
import { dirname } from "node:path";
import { removeStagedBundles } from "../bundle/bundle.js";
import { StoreError } from "../errors.js";
import { claimName, removeFile, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { endDowntime, stoppedSchema } from "../operation/downtime.js";
import type { Journal } from "../operation/journal.js";
import { cleanUp, type Recovery, serviceDownError } from "../operation/recovery.js";
import { emitStep } from "../operation/step.js";
import * as z from "../schema.js";
import { readManifest } from "./manifest.js";

/**
 * The steps of a backup. A journal's step is the one that may have begun; the others are published on the step channel
 * alone, each when it is done.
 */
export const backupSteps = [
  "backup.beginning",
  "backup.bundled",
  "backup.warm",
  "backup.stopping",
  "backup.armed",
  "backup.stopped",
  "backup.copied",
  "backup.started",
  "backup.finishing",
  "backup.finished",
  "backup.verified",
  "backup.claiming",
  "backup.claimed",
  "backup.committed",
] as const;

export type BackupStep = (typeof backupSteps)[number];

/** As `identityOf` has it. The first journals had the device's number before the inode's: `65024:1234`. */
const fileIdentity = z.pipe(
  z.string(),
  z.transform((identity: string) => identity.replace(/^\d+:/, "")),
);

const backupJournalSchema = z.strictObject({
  /**
   * The copy and the manifest before they have their final names, and other files that are there for the work alone. They
   * may not exist yet, or no more.
   */
  staged: z.strictObject({
    copy: z.string(),
    manifest: z.string(),
    work: z.optional(z.array(z.string())),
  }),
  /** Where a bundle for this key may have been left half written. */
  bundle: z.strictObject({ folder: z.string(), key_id: z.string() }),
  stopped: z.optional(stoppedSchema),
  /** The final names, and which files are ours: what else has such a name is somebody else's. */
  final: z.optional(
    z.strictObject({
      copy: z.string(),
      copy_identity: fileIdentity,
      manifest: z.string(),
      manifest_identity: fileIdentity,
    }),
  ),
});

export type BackupJournal = z.infer<typeof backupJournalSchema>;

/**
 * Finishes or undoes the interrupted backup that `journal` is about, and removes the journal. Hold the store's
 * operation lock.
 *
 * @throws StoreError `corrupted` if the journal is not what this version writes.
 */
export async function recoverBackup(journal: Journal, storePath: string): Promise<Recovery> {
  const { stopped, ...files } = journal.dataAs(backupJournalSchema);
  const messages: string[] = [];
  let down: unknown;
  if (stopped) {
    try {
      const started = await endDowntime(stopped, storePath);
      if (started) messages.push(`started ${started}, which an interrupted backup had stopped`);
    } catch (error) {
      down = error;
    }
    // Once it runs, that is its owner's affair; and nobody is kept out any more. To settling the same, but for that start.
    const data = { ...files, ...(down !== undefined && { stopped }) };
    await journal.write("backup.started" satisfies BackupStep, data).catch(() => undefined);
  }
  const work = async () => messages.push(...(await recoverFiles(files)));
  const cleanupPending = await cleanUp(journal, work, { isDown: down !== undefined });
  return {
    messages,
    cleanupPending,
    ...(down !== undefined && { serviceDown: serviceDownError(journal, down) }),
  };
}

async function recoverFiles(files: BackupJournal): Promise<string[]> {
  const backups = dirname(files.staged.copy);
  if (!(await lstatIfExists(backups))) {
    throw new StoreError("io", `the backups' folder ${backups} does not exist`, {
      hint: "is its disk mounted?",
    });
  }
  if (files.final) await removeEmptyClaims(files.final);
  if (files.final && (await isWhole(files))) {
    await completeBackup(files);
    return [`completed the interrupted backup ${files.final.copy}`];
  }
  const { folder, key_id } = files.bundle;
  // Its disk may have been taken out; then what is left there is removed when a bundle is written there next.
  if (await lstatIfExists(folder)) await removeStagedBundles(folder, key_id);
  const removed = await removeUnfinished(files);
  return removed.map((path) => `removed ${path}, left by an interrupted backup`);
}

/**
 * On a file system without hard links a name is claimed by an empty file, which the staged one then replaces
 * (`claimName`): a kill in between leaves the empty one. Both names were free when they were journaled.
 */
async function removeEmptyClaims({
  copy,
  manifest,
}: NonNullable<BackupJournal["final"]>): Promise<void> {
  for (const path of [copy, manifest]) {
    if ((await lstatIfExists(path))?.size === 0n) await removeFile(path);
  }
}

/** Whether the copy and the manifest are both there, each under one name or the other, and fit together. */
async function isWhole({ staged, final }: BackupJournal): Promise<boolean> {
  if (!final) return false;
  const copy = await fileOf(final.copy_identity, staged.copy, final.copy);
  const manifest = await fileOf(final.manifest_identity, staged.manifest, final.manifest);
  if (!copy || !manifest) return false;
  const { size } = await readManifest(manifest).catch(() => ({ size: -1 }));
  return BigInt(size) === (await lstatIfExists(copy))?.size;
}

/**
 * Gives the verified copy and then its manifest, which is the commit, their final names; what has been done of it
 * already is left as it is.
 *
 * @throws StoreError `refused` if another file has one of the names.
 */
export async function completeBackup({ staged, final }: BackupJournal): Promise<void> {
  if (!final) return;
  await claimOnce(staged.copy, final.copy, final.copy_identity);
  emitStep("backup.claimed" satisfies BackupStep);
  await claimOnce(staged.manifest, final.manifest, final.manifest_identity);
  emitStep("backup.committed" satisfies BackupStep);
}

/** Claims a name; a kill may have come right after that, and before the staged name was removed. */
async function claimOnce(staged: string, final: string, identity: string): Promise<void> {
  if ((await inodeOf(final)) === identity) {
    await removeFile(staged);
    await syncDirectory(dirname(final));
    return;
  }
  await claimName(staged, final);
}

/** Removes what a backup has made and not finished. @returns the paths that were there. */
export async function removeUnfinished({ staged, final }: BackupJournal): Promise<string[]> {
  const removed: string[] = [];
  const remove = async (path: string, identity?: string) => {
    const there = await inodeOf(path);
    if (there === undefined || (identity !== undefined && there !== identity)) return;
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

/** The one of the paths that names this file. */
async function fileOf(identity: string, ...paths: string[]): Promise<string | undefined> {
  for (const path of paths) if ((await inodeOf(path)) === identity) return path;
  return undefined;
}

/**
 * A file's identity, links not followed; undefined if there is none. It is its inode's number alone: the device's is
 * another one after a reboot, or once a disk was plugged in again.
 */
export async function inodeOf(path: string): Promise<string | undefined> {
  const there = await lstatIfExists(path);
  return there && `${there.ino}`;
}
