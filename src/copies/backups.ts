/** Copies backups to a target. */
import { basename } from "node:path";
import { isFromFuture } from "../backup/clock.js";
import type { ListedBackup, Listing } from "../backup/listing.js";
import {
  backupPath,
  copyName,
  isNameOfBackup,
  manifestPath,
  mayBelongTo,
  readManifest,
} from "../backup/manifest.js";
import { readStoreId } from "../config/store-id.js";
import { isKind, StoreError } from "../errors.js";
import { listDirectory, sha256File, statIfExists } from "../fs/read.js";
import { emitStep } from "../operation/step.js";
import { orAbort } from "../process/abort.js";
import { currentInteraction } from "../process/interaction.js";
import type { Reporter } from "../reporter.js";
import { shellQuote } from "../text/escape.js";
import {
  type Copied,
  type Destination,
  ensureCopy,
  openDestination,
  type Progress,
  removeUnfinished,
} from "./destination.js";
import { findMarked, markerNames, readMarkers, updateMarkers } from "./markers.js";
import type { Target, TargetFiles } from "./target.js";

/**
 * The maximum number of backups that a run copies to a target. If the target misses more, the run
 * copies the oldest of them and the newest, and the next run continues.
 */
const maxCaughtUp = 50;

export interface BackupOptions {
  readonly storePath: string;
  /** The path of the backup that was just made. It is copied even if it is not the newest. */
  readonly backup: string;
  readonly reporter: Reporter;
}

/** Copies a target's missing backups, oldest first, and marks from where the next run continues. */
export async function copyMissing(
  target: Target,
  { folder, backups }: Listing,
  options: BackupOptions,
): Promise<Progress> {
  const { storePath, reporter } = options;
  const { signal } = currentInteraction();
  const to = await openDestination(target);
  const id = (await readStoreId(storePath))?.id;
  const names = backups.map(nameInTarget).flatMap((name) => [name, manifestPath(name)]);
  const markers = backups.flatMap((backup) => markerNames(backup, id));
  await removeUnfinished(
    to,
    [...names, ...markers, ...((await listDirectory(folder)) ?? [])],
    // A backup may have been pruned since then.
    (name) => isNameOfOldBackup(name, storePath, id),
  );
  const missing = await findMissing(to, backups, { ...options, id });
  const postponed = missing.slice(maxCaughtUp - 1, -1);
  const left = postponed.length > 0 ? missing.slice(0, maxCaughtUp) : [];
  if (postponed.length > 0) {
    reporter.notice(
      `${target.name} misses ${missing.length} backups; the next runs copy ${postponed.length} of them`,
    );
  }
  const copied: Copied[] = [];
  const errors: StoreError[] = [];
  for (const backup of missing) {
    if (postponed.includes(backup)) continue;
    try {
      if (backup === missing.at(-1)) await updateMarkers(to, left, backup, id);
      copied.push(await copyBackup(to, backup));
      reporter.detail(`copied ${backup.path} to ${target.name}`);
    } catch (error) {
      if (!(error instanceof StoreError) || signal?.aborted) throw error;
      errors.push(error);
      const isOfBackup =
        isKind(error, "corrupted", "refused") || !(await orAbort(isReadable(backup), signal));
      // Any other error is of the target, and would occur again.
      if (!isOfBackup) break;
    }
  }
  return { copied, errors, postponed: postponed.length };
}

/**
 * Returns the missing backups that are newer than the newest backup in the target, those that an
 * earlier run left, and the backup of this run, oldest first. So a backup that was pruned from the
 * target is not copied again.
 */
async function findMissing(
  { targetFiles }: Destination,
  backups: readonly ListedBackup[],
  { storePath, backup: ofThisRun, id }: BackupOptions & { id: string | undefined },
): Promise<ListedBackup[]> {
  const newest = findNewestCopy(targetFiles, backups, { id, storePath }) ?? "";
  const marked = readMarkers(targetFiles)
    .filter((marker) => isNameOfBackup(marker.backup, storePath) && mayBelongTo(marker, id))
    .map((marker) => marker.backup);
  const [oldest = ""] = [newest, ...marked].sort();
  const missing: ListedBackup[] = [];
  for (const backup of backups.toReversed()) {
    const isWanted = basename(backup.path) >= oldest || backup.path === ofThisRun;
    if (!isWanted || !backup.present || backup.mac === false) continue;
    if (!(await isCopied(targetFiles, backup))) missing.push(backup);
  }
  return missing;
}

/** Returns whether the whole backup and its manifest can be read on this machine. */
async function isReadable({ path, manifest }: ListedBackup): Promise<boolean> {
  try {
    await readManifest(manifest);
    await sha256File(path);
    return true;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return false;
  }
}

/** Copies a backup, then its manifest. */
async function copyBackup(to: Destination, backup: ListedBackup): Promise<Copied> {
  const { path, manifest, size } = backup;
  const file = nameInTarget(backup);
  const { sha256 } = await readManifest(manifest);
  const manifestFile = manifestPath(file);
  // A file with a manifest is a complete backup, perhaps of another store. A file without a
  // manifest was left by an interrupted run.
  const mayReplace = !to.targetFiles.has(manifestFile);
  const wanted = { from: path, file, sha256, mayReplace };
  const checkedBy = await ensureCopy(to, wanted).catch(async (error: unknown) => {
    if (!isKind(error, "corrupted") || (await sha256File(path)) === sha256) throw error;
    throw new StoreError("corrupted", `${path} does not match its manifest, so it is not copied`, {
      hint: `See what is wrong: hivemind-sqlcipher verify ${shellQuote(path)}`,
      cause: error,
    });
  });
  emitStep("copy.backup");
  await ensureCopy(to, {
    from: manifest,
    file: manifestFile,
    sha256: await sha256File(manifest),
    mayReplace: true,
  });
  emitStep("copy.manifest");
  return { path: to.target.pathOf(file), size, checkedBy };
}

/**
 * Returns whether a name in a target is of a backup, manifest or marker with the store's id, and at
 * least a day old: a clone of the machine has the same id, and may be writing a newer backup.
 */
function isNameOfOldBackup(name: string, storePath: string, id: string | undefined): boolean {
  const marked = findMarked(name) ?? name;
  if (id === undefined || !name.includes(`.${id}.`) || !isNameOfBackup(marked, storePath)) {
    return false;
  }
  return marked < basename(backupPath("", storePath, new Date(Date.now() - dayMs)));
}

const dayMs = 86_400_000;

function nameInTarget({ path, storeId }: ListedBackup): string {
  return copyName({ file: basename(path), store_id: storeId ?? undefined });
}

/**
 * Returns the local name of the store's newest complete backup in a target, which contains its
 * time. A target may have backups of other hubs under the same names. So a name counts only if it
 * has the store's id, or if this machine has the backup.
 *
 * Names with a later time than the newest backup of this machine do not count: a wrong clock or
 * another program made them. If they counted, no backup would be copied until that time.
 */
function findNewestCopy(
  targetFiles: TargetFiles,
  backups: readonly ListedBackup[],
  { id, storePath }: { id: string | undefined; storePath: string },
): string | undefined {
  const localNames = new Map(backups.map((each) => [nameInTarget(each), basename(each.path)]));
  const localNameOf = (name: string) => {
    const isOfStore = id !== undefined && name.endsWith(`.${id}.db`);
    return localNames.get(name) ?? (isOfStore ? name.replace(`.${id}.db`, ".db") : undefined);
  };
  const [newestHere = ""] = backups
    .filter((backup) => backup.mac !== false && !isFromFuture(backup))
    .map(({ path }) => basename(path))
    .sort()
    .reverse();
  return [...targetFiles.keys()]
    .filter((name) => isComplete(targetFiles, name))
    .map(localNameOf)
    .filter((name) => name !== undefined)
    .filter((name) => isNameOfBackup(name, storePath) && name <= newestHere)
    .sort()
    .at(-1);
}

/** Returns whether a target has a backup and its manifest with their names and sizes. */
async function isCopied(targetFiles: TargetFiles, backup: ListedBackup): Promise<boolean> {
  const manifest = await statIfExists(backup.manifest);
  return (
    targetFiles.get(nameInTarget(backup)) === backup.size &&
    targetFiles.get(manifestPath(nameInTarget(backup))) === manifest?.size
  );
}

function isComplete(targetFiles: TargetFiles, file: string): boolean {
  const sizes = [file, manifestPath(file)].map((name) => targetFiles.get(name) ?? 0);
  return file.endsWith(".db") && sizes.every((size) => size > 0);
}
