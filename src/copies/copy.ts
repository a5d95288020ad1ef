/**
 * Copies backups and bundles to other disks and remotes.
 *
 * Runs after a backup, when the service runs again. A backup is copied before its manifest, because
 * the manifest is the commit point: after a kill at any step, no listing takes an incomplete copy
 * for a backup. A failed copy changes nothing about the backup, and is reported with its target.
 */
import { basename, dirname } from "node:path";
import { isFromFuture } from "../backup/clock.js";
import { type ListedBackup, type Listing, listBackups } from "../backup/listing.js";
import {
  backupPath,
  copyName,
  isNameOfBackup,
  manifestPath,
  mayBelongTo,
  readManifest,
} from "../backup/manifest.js";
import type { BundleReport } from "../bundle/bundle.js";
import { verificationRecordPath } from "../bundle/verification-record.js";
import { findMissingDirectories, prepareDirectories } from "../config/known-directories.js";
import { readStoreId } from "../config/store-id.js";
import { isKind, StoreError, wrap } from "../errors.js";
import { listDirectory, lstatIfExists, sha256File, statIfExists } from "../fs/read.js";
import type { PassphraseSource } from "../keys/source.js";
import { emitStep } from "../operation/step.js";
import { orAbort } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { shellQuote } from "../text/escape.js";
import { recordCopy } from "./copy-record.js";
import { DirectoryTarget } from "./directory.js";
import { assertApart } from "./plan.js";
import type { CopyCheck, Location, Target, TargetFiles } from "./target.js";

/**
 * The maximum number of backups that a run copies to a target. If the target misses more, the run
 * copies the oldest of them and the newest, and the next run continues.
 */
const maxCaughtUp = 50;

export interface CopyOptions {
  readonly storePath: string;
  readonly source: PassphraseSource;
  /** The directory of the backups. */
  readonly folder: string;
  /** The path of the backup that was just made. It is copied even if it is not the newest. */
  readonly backup: string;
  readonly bundle: Pick<BundleReport, "path">;
  readonly backupTargets: readonly Target[];
  readonly bundleTargets: readonly Target[];
  /** Directories named in the settings. A target among them is not created if it is missing. */
  readonly knownDirectories: readonly string[];
  readonly signal?: AbortSignal | undefined;
  readonly reporter: Reporter;
}

export interface Copied {
  /** The path of the copy. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly checkedBy: CopyCheck;
}

export interface CopyReport {
  readonly target: string;
  readonly contents: "backups" | "bundle";
  /** The backups or bundles copied by this run, in the order of copying. */
  readonly copied: readonly Copied[];
  /** Why the target was skipped: a missing directory or unmounted disk; null if it was not. */
  readonly skipped: string | null;
  /** How long this run took for the target; null if the target was skipped. */
  readonly durationMs: number | null;
  readonly errors: readonly StoreError[];
  /** The number of backups that are left for the next runs, because the target misses too many. */
  readonly postponed: number;
}

/**
 * Copies to each target its missing backups or bundles, and records each copy.
 *
 * @throws {@link StoreError} interrupted - if the signal is aborted. Every other error is in the
 *   report of its target.
 */
export async function copyBackups(options: CopyOptions): Promise<CopyReport[]> {
  const { storePath, backupTargets, bundleTargets, backup, signal, reporter } = options;
  const at = new Date();
  const reports: CopyReport[] = [];
  const add = async (report: CopyReport) => {
    reports.push(report);
    await recordCopy(storePath, report, at).catch((error: unknown) => {
      if (!(error instanceof StoreError)) throw error;
      reporter.notice(`the copies were not recorded: ${error.message}`);
    });
  };
  // List once for all targets: checking the manifests requires a key, which is slow to derive.
  let listed: Promise<Listing> | undefined;
  const list = () => {
    listed ??= listBackups({ ...options, bundleFolder: dirname(options.bundle.path) });
    return listed;
  };
  try {
    for (const target of backupTargets) {
      const copy = async () => copyMissing(target, await list(), options);
      await add(await copyToTarget(target, "backups", options, copy));
    }
    for (const target of bundleTargets) {
      const copy = async () => copyBundles(target, await list(), options);
      await add(await copyToTarget(target, "bundle", options, copy));
    }
  } catch (error) {
    if (!signal?.aborted || !isKind(error, "interrupted")) throw error;
    throw wrap(error, {
      message: `${error.message}: the backup ${backup} is complete, but not every copy of it`,
      hint: "Run the backup again: it copies what the targets miss.",
    });
  }
  return reports;
}

type Progress = Pick<CopyReport, "copied" | "errors" | "postponed">;

async function copyToTarget(
  target: Target,
  contents: CopyReport["contents"],
  options: CopyOptions,
  copy: () => Promise<Progress>,
): Promise<CopyReport> {
  const head = { target: target.name, contents, postponed: 0 };
  const start = performance.now();
  const elapsed = () => Math.round(performance.now() - start);
  try {
    const skipped = await findMissingReason(target, options);
    if (skipped !== undefined) {
      options.reporter.notice(
        `not copied to ${target.name}: ${skipped}; a later backup copies what is missing there`,
      );
      return { ...head, copied: [], skipped, durationMs: null, errors: [] };
    }
    return { ...head, ...(await copy()), skipped: null, durationMs: elapsed() };
  } catch (error) {
    if (!(error instanceof StoreError) || options.signal?.aborted) throw error;
    return { ...head, copied: [], skipped: null, durationMs: elapsed(), errors: [error] };
  }
}

/**
 * Returns why the directory of a target is missing, for example because its disk is not mounted;
 * undefined if it is there, or for a remote. Creates a directory that is named for the first time,
 * and asks on a terminal whether a directory has moved to another disk.
 */
async function findMissingReason(
  target: Target,
  { storePath, knownDirectories: known, reporter }: CopyOptions,
): Promise<string | undefined> {
  if (!(target instanceof DirectoryTarget)) return undefined;
  const [missing] = await findMissingDirectories([target.path], storePath, known);
  if (missing && !missing.exists) return missing.message;
  try {
    await prepareDirectories([target.path], { storePath, known, reporter });
    return undefined;
  } catch (error) {
    // There is no terminal to ask on, or the user did not confirm the move.
    if (!missing || !isKind(error, "io", "refused")) throw error;
    return missing.message;
  }
}

/** Copies a target's missing backups, oldest first. */
async function copyMissing(
  target: Target,
  { folder, backups }: Listing,
  options: CopyOptions,
): Promise<Progress> {
  const { signal, bundle, bundleTargets } = options;
  const bundles = [new DirectoryTarget(dirname(bundle.path)), ...bundleTargets];
  await assertApart([target], bundles, resolveLocation);
  const to = { target, targetFiles: await orAbort(listFiles(target), signal), signal };
  const id = (await readStoreId(options.storePath))?.id;
  const names = backups.map(nameInTarget).flatMap((name) => [name, manifestPath(name)]);
  const markers = backups
    .map(({ path }) => markerName(path, id))
    .flatMap((marker) => [marker, finishedName(marker)]);
  await removeUnfinished(
    to,
    [...names, ...markers, ...((await listDirectory(folder)) ?? [])],
    // A backup may have been pruned since then.
    (name) => isNameOfOldBackup(name, options.storePath, id),
  );
  const missing = await findMissing(to, backups, { ...options, id });
  const postponed = missing.slice(maxCaughtUp - 1, -1);
  if (postponed.length > 0) {
    options.reporter.notice(
      `${target.name} misses ${missing.length} backups; the next runs copy ${postponed.length} of them`,
    );
  }
  const copied: Copied[] = [];
  const errors: StoreError[] = [];
  for (const backup of missing) {
    if (postponed.includes(backup)) continue;
    try {
      if (backup === missing.at(-1)) await updateMarkers(to, missing, id);
      copied.push(await copyBackup(to, backup));
      options.reporter.detail(`copied ${backup.path} to ${target.name}`);
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
  { storePath, backup: ofThisRun, id }: CopyOptions & { id: string | undefined },
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

/** Matches the names that `markerName` returns. */
const markerPattern = /^\.(.+\.db)(?:\.([0-9a-f]{16}))?\.resume$/;

/**
 * Returns the name of the marker for the oldest backup that is left for the next runs.
 *
 * The newest backup in a target tells the next run where to continue, but not if older backups were
 * postponed. A record on this machine could be lost, or belong to another `$XDG_STATE_HOME`. So the
 * target has the marker, a copy of that backup's manifest.
 */
function markerName(path: string, id: string | undefined): string {
  return `.${basename(path)}${id === undefined ? "" : `.${id}`}.resume`;
}

interface Marker {
  /** The marker's name in the target. */
  readonly file: string;
  /** The local name of the backup. */
  readonly backup: string;
  readonly store_id: string | undefined;
}

/** Returns the name of the file to end a marker in a target without removals. */
function finishedName(marker: string): string {
  return `${marker}d`;
}

/** Returns the unfinished markers. */
function readMarkers(targetFiles: TargetFiles): Marker[] {
  return [...targetFiles.keys()].flatMap((file) => {
    const [, backup, id] = markerPattern.exec(file) ?? [];
    if (backup === undefined || targetFiles.has(finishedName(file))) return [];
    return [{ file, backup, store_id: id }];
  });
}

/**
 * Marks the oldest backup that is left for the next runs, and removes the store's earlier markers.
 * Must run when every older backup is in the target, and before the newest is copied.
 *
 * If the target refuses to remove a marker, a second file ends it. Otherwise the backups that were
 * pruned there with other credentials would be copied again at each run. A marker that was ended
 * cannot be used again, so an older backup is marked then.
 *
 * @param missing - oldest first
 */
async function updateMarkers(
  to: Destination,
  missing: readonly ListedBackup[],
  id: string | undefined,
): Promise<void> {
  const nameOf = ({ path }: ListedBackup) => markerName(path, id);
  const markable = missing.length > maxCaughtUp ? missing.slice(0, maxCaughtUp) : [];
  const oldest = markable.findLast((each) => !to.targetFiles.has(finishedName(nameOf(each))));
  const file = oldest && nameOf(oldest);
  if (oldest && file !== undefined && !to.targetFiles.has(file)) {
    await writeManifest(to, oldest, file);
    emitStep("copy.marker");
  }
  const newest = missing.at(-1);
  for (const marker of readMarkers(to.targetFiles)) {
    if (marker.store_id !== id || marker.file === file) continue;
    if ((await removeIfAllowed(to, marker.file)) || !newest) continue;
    await writeManifest(to, newest, finishedName(marker.file)).catch((error: unknown) => {
      if (!(error instanceof StoreError)) throw error;
    });
  }
}

/** Copies a backup's manifest to the target under another name. */
async function writeManifest(
  { target, signal }: Destination,
  { manifest }: ListedBackup,
  file: string,
): Promise<void> {
  await target.write(manifest, file, await sha256File(manifest), signal);
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

/** Returns the files of a target. A remote directory need not exist before the first copy. */
async function listFiles(target: Target): Promise<TargetFiles> {
  try {
    return await target.list();
  } catch (error) {
    if (!isKind(error, "notFound")) throw error;
    return new Map();
  }
}

/** A target, with its files as listed before the run. */
interface Destination {
  readonly target: Target;
  readonly targetFiles: TargetFiles;
  readonly signal: AbortSignal | undefined;
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
    ...{ from: manifest, file: manifestFile, sha256: await sha256File(manifest), mayReplace: true },
  });
  emitStep("copy.manifest");
  return { path: to.target.pathOf(file), size, checkedBy };
}

interface WantedFile {
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
async function ensureCopy(
  { target, targetFiles, signal }: Destination,
  { from, file, sha256, mayReplace }: WantedFile,
): Promise<CopyCheck> {
  const write = () => target.write(from, file, sha256, signal);
  const size = targetFiles.get(file);
  if (size === undefined) return await write();
  if (size === 0 && !target.mayLeaveIncomplete) {
    // A kill left this empty file, which reserves a name on a file system without hard links.
    await target.remove(file);
    return await write();
  }
  const checkedBy = await orAbort(target.check(file, sha256), signal);
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

/**
 * Copies the bundle, and those of earlier passphrases that the target lacks and that open backups
 * on this machine, each with its verification record. The target may have been away during a
 * rotation. An earlier bundle of the same key stays under another name.
 */
async function copyBundles(
  target: Target,
  { backups }: Listing,
  options: CopyOptions,
): Promise<Progress> {
  const { bundle, signal, folder, backupTargets } = options;
  await assertApart([new DirectoryTarget(folder), ...backupTargets], [target], resolveLocation);
  const to = { target, targetFiles: await orAbort(listFiles(target), signal), signal };
  const used = backups.filter(({ mac, present }) => present && mac !== false);
  const paths = new Set(used.flatMap((backup) => backup.bundle ?? []));
  paths.delete(bundle.path);
  paths.add(bundle.path);
  const files = [...paths].flatMap((path) => [path, verificationRecordPath(path)]);
  await removeUnfinished(
    to,
    files.map((path) => basename(path)),
  );
  const copied: Copied[] = [];
  const errors: StoreError[] = [];
  for (const path of paths) {
    try {
      copied.push(...(await copyBundle(to, path, path === bundle.path)));
    } catch (error) {
      if (!(error instanceof StoreError) || signal?.aborted) throw error;
      errors.push(error);
    }
  }
  return { copied, errors, postponed: 0 };
}

/** @param isCurrent - whether a file with other contents is replaced */
async function copyBundle(to: Destination, path: string, isCurrent: boolean): Promise<Copied[]> {
  const isWanted = (each: string) => isCurrent || !to.targetFiles.has(basename(each));
  const checkedBy = isWanted(path) ? await updateFile(to, path) : undefined;
  const record = verificationRecordPath(path);
  if (isWanted(record) && (await lstatIfExists(record))) await updateFile(to, record);
  if (checkedBy === undefined) return [];
  const size = (await statIfExists(path))?.size ?? 0;
  return [{ path: to.target.pathOf(basename(path)), size, checkedBy }];
}

/**
 * Returns the location that a remote resolves to: an alias may name the directory of the backups.
 * The planned location stands for that of an unreachable target: the copy fails later anyway.
 */
function resolveLocation(target: Target): Promise<Location> {
  return target.location().catch(() => target.planned);
}

/**
 * Writes a file unless the target has it already. A file with other contents gets another name when
 * the new file is complete.
 *
 * @returns undefined if the target has the file already
 */
async function updateFile(
  { target, targetFiles, signal }: Destination,
  path: string,
): Promise<CopyCheck | undefined> {
  const file = basename(path);
  const sha256 = await sha256File(path);
  const isPresent = targetFiles.has(file);
  if (isPresent && (await orAbort(target.check(file, sha256), signal))) return undefined;
  const now = new Date().toISOString().replaceAll(":", "-").replace(".", "-");
  const superseded = file.replace(/\.bundle\./, `.bundle.superseded-${now}.`);
  const checkedBy = isPresent
    ? await target.supersede(path, file, superseded, sha256, signal)
    : await target.write(path, file, sha256, signal);
  emitStep("copy.bundle");
  return checkedBy;
}

/**
 * Returns whether a name in a target is of a backup, manifest or marker with the store's id, and at
 * least a day old: a clone of the machine has the same id, and may be writing a newer backup.
 */
function isNameOfOldBackup(name: string, storePath: string, id: string | undefined): boolean {
  const [, marked = name] = markerPattern.exec(name.replace(/\.resumed$/, ".resume")) ?? [];
  if (id === undefined || !name.includes(`.${id}.`) || !isNameOfBackup(marked, storePath)) {
    return false;
  }
  return marked < basename(backupPath("", storePath, new Date(Date.now() - dayMs)));
}

const dayMs = 86_400_000;

/** Matches the temporary names that `write` uses. */
const unfinishedName = /^\.(.+)\.[0-9a-f]{12}\.partial$/;

/**
 * Removes the temporary files that interrupted runs left for these files, or for files with such
 * names, and no others: another machine may be writing to the target.
 */
async function removeUnfinished(
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
async function removeIfAllowed({ target }: Destination, file: string): Promise<boolean> {
  try {
    await target.remove(file);
    return true;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return false;
  }
}

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
  const local = new Set(backups.map(nameInTarget));
  const [newestHere = ""] = backups
    .filter((backup) => backup.mac !== false && !isFromFuture(backup))
    .map(({ path }) => basename(path))
    .sort()
    .reverse();
  return [...targetFiles.keys()]
    .filter((name) => local.has(name) || (id !== undefined && name.endsWith(`.${id}.db`)))
    .filter((name) => isNameOfBackup(name, storePath) && isComplete(targetFiles, name))
    .map((name) => (id === undefined ? name : name.replace(`.${id}.db`, ".db")))
    .filter((name) => name <= newestHere)
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
