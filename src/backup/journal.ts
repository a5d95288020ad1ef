/** The journal of a backup: its steps and data. */
import { join } from "node:path";
import { stagedName } from "../fs/atomic.js";
import { stoppedSchema } from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import * as z from "../schema.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
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

/** An inode, see `backup/commit`. Early journals put the device in front of it: `65024:1234`. */
const inode = z.pipe(
  z.string(),
  z.transform((identity: string) => identity.replace(/^\d+:/, "")),
);

export const backupJournalSchema = z.strictObject({
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
export type StagedFiles = BackupJournal["staged"];
export type FinalNames = NonNullable<BackupJournal["final"]>;

/** Returns the paths of a new backup's files before they get their final names. */
export function planFiles(backup: BackupDirectories & { readonly key: StoreKey }): BackupJournal {
  const staged = join(backup.directory, "backup");
  return {
    staged: { copy: stagedName(`${staged}.db`), manifest: stagedName(`${staged}.manifest.json`) },
    bundle: { folder: backup.bundleDirectory, key_id: keyIdOf(backup.key.salt) },
  };
}
