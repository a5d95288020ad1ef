/** Gives a verified copy and its manifest their final names. */
import { dirname } from "node:path";
import { claimName, removeFile, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import type { Journal } from "../operation/journal.js";
import {
  type BackupJournal,
  type BackupStep,
  emitBackupStep,
  type FinalNames,
  type StagedFiles,
} from "./journal.js";

/** Journals the final names of a verified copy and its manifest, and gives them these names. */
export async function commitBackup(
  journal: Journal,
  files: BackupJournal,
  { copy, manifest }: { copy: string; manifest: string },
): Promise<void> {
  const { staged } = files;
  const final: FinalNames = {
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
export async function completeBackup(staged: StagedFiles, final: FinalNames): Promise<void> {
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

export async function findByInode(
  identity: string,
  ...paths: string[]
): Promise<string | undefined> {
  for (const path of paths) if ((await readInode(path)) === identity) return path;
  return undefined;
}

/**
 * Returns the inode of a file, or of a symbolic link itself; undefined if it does not exist. The
 * device is left out, because it changes with a reboot, and when a disk is plugged in again.
 */
export async function readInode(path: string): Promise<string | undefined> {
  const existing = await lstatIfExists(path);
  return existing && `${existing.ino}`;
}
