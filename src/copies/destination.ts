/** The files of a target during a run, and the writing of missing ones. */
import { isKind, StoreError } from "../errors.js";
import { orAbort } from "../process/abort.js";
import { currentInteraction } from "../process/interaction.js";
import type { CopyCheck, Target, TargetFiles } from "./target.js";

/** A target, with its files as listed before the run. */
export interface Destination {
  readonly target: Target;
  readonly targetFiles: TargetFiles;
}

export interface Copied {
  /** The path of the copy. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly checkedBy: CopyCheck;
}

export interface Progress {
  /** In the order of copying. */
  readonly copied: readonly Copied[];
  readonly errors: readonly StoreError[];
  /** The number of backups that are left for the next runs, because the target misses too many. */
  readonly postponed: number;
}

/** Lists the files of a target before the first copy. */
export async function openDestination(target: Target): Promise<Destination> {
  const { signal } = currentInteraction();
  return { target, targetFiles: await orAbort(listFiles(target), signal) };
}

/** Returns the files of a target. A remote directory need not exist before the first copy. */
async function listFiles(target: Target): Promise<TargetFiles> {
  try {
    return await target.list();
  } catch (error) {
    if (!isKind(error, "notFound")) throw error;
    return new Map();
  }
}

export interface WantedFile {
  /** The path on this machine. */
  readonly from: string;
  /** The name in the target. */
  readonly file: string;
  readonly sha256: string;
  /** Whether a file with other contents was left by an interrupted run, and may be replaced. */
  readonly mayReplace: boolean;
}

/**
 * Writes a file unless the target has it already: an earlier run may have been interrupted between
 * the backup and its manifest.
 *
 * @throws {@link StoreError} refused - if a file with other contents has the name
 */
export async function ensureCopy(
  { target, targetFiles }: Destination,
  { from, file, sha256, mayReplace }: WantedFile,
): Promise<CopyCheck> {
  const write = () => target.write(from, file, sha256);
  const size = targetFiles.get(file);
  if (size === undefined) return await write();
  if (size === 0 && !target.mayLeaveIncomplete) {
    // A kill left this empty file, which reserves a name on a file system without hard links.
    await target.remove(file);
    return await write();
  }
  const checkedBy = await orAbort(target.check(file, sha256), currentInteraction().signal);
  if (checkedBy !== undefined) return checkedBy;
  const path = target.pathOf(file);
  if (!target.mayLeaveIncomplete || !mayReplace) {
    throw new StoreError("refused", `${path} exists with other contents`, {
      hint: "If another hub made that file, name another directory for the copies of this hub. If it is a damaged copy, move it and its manifest away.",
    });
  }
  return await write().catch((error: unknown) => {
    if (!isKind(error, "io")) throw error;
    throw new StoreError("refused", `${path} is incomplete and cannot be replaced`, {
      hint: "If the server does not let rclone overwrite files, remove that file on the server.",
      cause: error,
    });
  });
}

/** Matches the temporary names that `write` uses. */
const unfinishedName = /^\.(.+)\.[0-9a-f]{12}\.partial$/;

/**
 * Removes the temporary files that interrupted runs left for these files, or for files with such
 * names, and no others: another machine may be writing to the target.
 */
export async function removeUnfinished(
  to: Destination,
  files: readonly string[],
  isOwn: (name: string) => boolean = () => false,
): Promise<void> {
  for (const name of to.targetFiles.keys()) {
    const of = unfinishedName.exec(name)?.[1];
    if (of !== undefined && (files.includes(of) || isOwn(of))) await removeIfAllowed(to, name);
  }
}

/** Removes a file unless the target refuses it. Returns whether the file was removed. */
export async function removeIfAllowed({ target }: Destination, file: string): Promise<boolean> {
  try {
    await target.remove(file);
    return true;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return false;
  }
}
