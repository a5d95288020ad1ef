/**
 * Removes backups by a retention policy.
 *
 * Counts and removes only backups with an authentic manifest and the size in the manifest,
 * without checking their pages. Backups of an unknown passphrase stay, and so do all other files,
 * except authentic manifests without their backup, and unneeded bundles on request. Before a backup
 * is removed, a backup that stays has been verified, including every page. The caller holds the
 * store's operation lock, because a running backup writes into the same directory.
 */
import os from "node:os";
import { basename } from "node:path";
import { assertNotMissing, findMissingDirectories } from "../config/known-directories.js";
import { readStoreId, type StoreId } from "../config/store-id.js";
import { isKind, StoreError } from "../errors.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { abortReason, orAbort, throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { escapeControlCharacters } from "../text/escape.js";
import { type BackupFiles, localFiles } from "./backup-files.js";
import { clockError, isFromFuture } from "./clock.js";
import {
  type FileProblem,
  type ListedBackup,
  type ListingOptions,
  listBackups,
} from "./listing.js";
import { findRemovableWithNewestContents } from "./newest-contents.js";
import { hasPart } from "./parts.js";
import {
  applyRetention,
  type KeepPolicy,
  type KeepRule,
  keepsSomething,
  type Retention,
} from "./retention.js";
import { type BundleSearch, findUnneededBundles } from "./unneeded-bundles.js";
import { verifyBackup } from "./verify.js";

export interface PruneOptions extends ListingOptions {
  readonly keep: KeepPolicy;
  /** Also removes bundles that no remaining backup or store needs; undefined keeps all bundles. */
  readonly bundles?: BundleSearch | undefined;
  /** Whether days, weeks and months are those of UTC, not of the local time zone. */
  readonly utc?: boolean;
  /** Continues although the clock is behind a backup. */
  readonly ignoreClock?: boolean;
  /** Reads and removes the backups in the directory. */
  readonly files: BackupFiles;
  readonly dryRun: boolean;
  /** Asks for confirmation before backups of several machines are counted together. */
  readonly reporter: Reporter;
  /** Interrupts the removal between two backups. */
  readonly signal?: AbortSignal | undefined;
}

export interface RemovedBackup {
  readonly path: string;
  readonly createdAt: string;
  readonly size: number;
}

export interface PruneResult {
  readonly folder: string;
  readonly dryRun: boolean;
  /**
   * Newest first. `rules` is empty for a backup that stays because no backup kept by the rules
   * verifies, or because it has the newest contents, whatever its date.
   */
  readonly kept: { path: string; createdAt: string; rules: readonly KeepRule[] }[];
  /** A size of 0 stands for a leftover manifest, whose backup an earlier run removed. */
  readonly removed: RemovedBackup[];
  /** The files not removed although no rule keeps them, and why. */
  readonly notRemoved: FileProblem[];
  /** Bytes. */
  readonly freed: number;
  readonly removedBundles: string[];
  /** The backup that stays and was verified; null if no backup was to be removed. */
  readonly verified: string | null;
  /** The files not counted, and why. */
  readonly left: FileProblem[];
}

/**
 * Applies a policy to the backups of a store. Changes nothing before all checks have passed.
 *
 * @throws {@link StoreError} usage - if the policy keeps nothing, or if confirmation is needed
 *   without a terminal
 * @throws {@link StoreError} refused - if a backup is from the future, or the user does not confirm
 * @throws {@link StoreError} notFound - if the directory does not exist
 * @throws {@link StoreError} passphraseUnavailable - if no manifest can be checked
 * @throws {@link StoreError} corrupted - if no backup verifies; nothing was removed
 * @throws {@link StoreError} io - if a file cannot be read, the disk of the directory is not
 *   mounted, another directory of backups is missing, or a bundle cannot be removed. Backups that
 *   cannot be removed are in the result.
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function prune(options: PruneOptions): Promise<PruneResult> {
  const { bundles, dryRun, signal } = options;
  if (!keepsSomething(options.keep)) {
    throw new StoreError("usage", "the policy keeps no backup", {
      hint: 'Add --keep-last, --keep-daily, --keep-weekly or --keep-monthly, or "keep" in the settings.',
    });
  }
  await assertBackupsMounted(options);
  const { folder, backups, others, unchecked } = await orAbort(listBackups(options), signal);
  if (unchecked) throw unchecked;
  const counted = backups.filter(({ mac, present }) => mac === true && present);
  const stale = await findLeftoverManifests(backups, options);
  const { kept, removable, verified } = await selectRemovable(counted, options);
  // Done before the first removal: an error here must leave all backups.
  const bundlesIfAllRemoved = await selectBundles(options, removable);
  const candidates = [
    ...removable.map(({ path, createdAt, size }) => ({ path, createdAt, size })),
    ...stale.map(({ manifest, createdAt }) => ({ path: manifest, createdAt, size: 0 })),
  ];
  const notRemoved = dryRun ? [] : await removeAll([...removable, ...stale], options);
  const isRemoved = ({ path }: { path: string }) => !notRemoved.some((file) => file.path === path);
  const removed = candidates.filter(isRemoved);
  const removedBundles =
    notRemoved.length === 0
      ? bundlesIfAllRemoved
      : await selectBundles(options, removable.filter(isRemoved));
  if (!dryRun) {
    for (const path of removedBundles) await removeFile(path);
    if (removedBundles.length > 0 && bundles) await syncDirectory(bundles.directory);
  }
  const left = backups.filter((backup) => !counted.includes(backup) && !stale.includes(backup));
  return {
    folder,
    dryRun,
    kept: kept.map(({ backup: { path, createdAt }, rules }) => ({ path, createdAt, rules })),
    removed,
    notRemoved,
    freed: removed.reduce((sum, { size }) => sum + size, 0),
    removedBundles,
    verified,
    left: [
      ...left.map((backup) => ({ path: backup.path, problem: reasonNotCounted(backup) })),
      ...others,
    ],
  };
}

/** Returns the bundle files that are not needed without these backups. */
async function selectBundles(
  options: PruneOptions,
  removable: readonly ListedBackup[],
): Promise<string[]> {
  return options.bundles ? await findUnneededBundles(options.bundles, options, removable) : [];
}

/**
 * Throws if a disk with backups is not mounted. Its empty mount point shows no backups, but the
 * disk may have backups that need a bundle.
 */
async function assertBackupsMounted({
  folder,
  files,
  bundles,
  storePath,
}: PruneOptions): Promise<void> {
  if (files === localFiles) await assertNotMissing([folder], storePath, []);
  if (!bundles) return;
  const [missing] = await findMissingDirectories(bundles.otherFolders, storePath);
  if (!missing) return;
  throw new StoreError("io", `cannot tell which bundles are needed: ${missing.message}`, {
    hint: "Mount its disk, or run prune without --bundles. Nothing was removed.",
  });
}

/**
 * Returns the manifests without a backup. A kill during `removeBackup` leaves them. A split backup
 * needs its manifest, even if parts are missing: they may be on another medium.
 */
async function findLeftoverManifests(
  backups: readonly ListedBackup[],
  { folder, files }: PruneOptions,
): Promise<ListedBackup[]> {
  const stale: ListedBackup[] = [];
  for (const backup of backups) {
    if (backup.mac !== true || backup.present || (await lstatIfExists(backup.path))) continue;
    if (!hasPart(await files.names(folder), basename(backup.path))) stale.push(backup);
  }
  return stale;
}

interface Selection extends Retention<ListedBackup> {
  /** A backup that stays and was verified; null if there is nothing to remove. */
  readonly verified: string | null;
}

/** Selects the backups to remove. If it selects any, at least one verified backup stays. */
async function selectRemovable(
  counted: readonly ListedBackup[],
  options: PruneOptions,
): Promise<Selection> {
  const byPolicy = applyRetention(counted, options.keep, options.utc);
  if (byPolicy.removable.length === 0) return { ...byPolicy, verified: null };
  const ahead = counted.find(isFromFuture);
  if (ahead && !options.ignoreClock) throw clockError(ahead);
  const { kept, removable } = await keepNewestContents(byPolicy, options);
  if (removable.length === 0) return { kept, removable, verified: null };
  await confirmSeveralMachines(counted, options);
  const verified = await findVerified([...kept.map(({ backup }) => backup), ...removable], options);
  const { path } = verified;
  if (!removable.includes(verified)) return { kept, removable, verified: path };
  return { ...keepAlso(verified, { kept, removable }), verified: path };
}

function keepAlso(
  backup: ListedBackup,
  { kept, removable }: Retention<ListedBackup>,
): Retention<ListedBackup> {
  const time = (each: { backup: ListedBackup }) => Date.parse(each.backup.createdAt);
  return {
    kept: [...kept, { backup, rules: [] }].sort((a, b) => time(b) - time(a)),
    removable: removable.filter((other) => other !== backup),
  };
}

async function keepNewestContents(
  retention: Retention<ListedBackup>,
  { storePath, source, files, reporter }: PruneOptions,
): Promise<Retention<ListedBackup>> {
  const newest = await findRemovableWithNewestContents(retention, { storePath, source, files });
  if (newest === undefined) return retention;
  reporter.notice(
    `${newest.path} stays: it has the newest contents, although its date is ${newest.createdAt}; the clock was wrong when a backup was made, or an older backup was restored`,
  );
  return keepAlso(newest, retention);
}

/**
 * Asks for confirmation if several machines made the backups. A hub that has moved counts the
 * backups of its old machine. But a copy of the store on a test machine has the same passphrase,
 * and the policy would keep its backups instead of the hub's.
 */
async function confirmSeveralMachines(
  backups: readonly ListedBackup[],
  { storePath, dryRun, reporter }: PruneOptions,
): Promise<void> {
  const machines = [...new Set(backups.map(({ hostname }) => hostname))];
  const own = await readStoreId(storePath);
  if (machines.length < 2 || !machines.some((name) => mayHaveCopy(name, backups, own))) return;
  const notice = `These backups were made on ${machines.length} machines and are counted together: ${escapeControlCharacters(machines.join(", "))}.`;
  if (dryRun) reporter.notice(notice);
  else await reporter.confirm(`${notice}\nDo all of them belong to one store?`);
}

/**
 * How long no machine of another name may have made a backup, for its backups to be those of this
 * machine under a former name: longer than the interval of weekly backups.
 */
const silenceMs = 8 * 24 * 60 * 60 * 1000;

/**
 * Returns whether the backups under a hostname may be of a copy of the store on another machine.
 *
 * Backups from before this machine got the store's id are of the store: after a restore elsewhere,
 * the former machine makes no more backups. A clone of this machine's disk has the id, too, and
 * the two machines make backups at the same time; a machine that is renamed makes none under the
 * former name, also if it gets that name back later: its own backups have a gap there.
 *
 * @param backups - newest first
 */
function mayHaveCopy(
  machine: string,
  backups: readonly ListedBackup[],
  own: StoreId | undefined,
): boolean {
  if (machine === os.hostname()) return false;
  const theirs = backups.filter(({ hostname }) => hostname === machine);
  if (own === undefined || theirs.some(({ storeId }) => storeId === null)) return true;
  const time = ({ createdAt }: ListedBackup) => Date.parse(createdAt);
  const times = theirs.map(time).filter((each) => each >= Date.parse(own.since));
  const [newest] = times;
  const oldest = times.at(-1);
  if (newest === undefined || oldest === undefined) return false;
  if (Date.now() - newest <= silenceMs) return true;
  const ownTimes = backups
    .filter(({ hostname, storeId }) => hostname === os.hostname() && storeId === own.id)
    .map(time);
  return continuesBetween(ownTimes, oldest, newest);
}

/**
 * Returns whether a machine made backups as usual between two times: one in between, or the backups
 * around both at most 1.5 times as far apart as the two before.
 *
 * @param times - of the machine's backups, newest first, in milliseconds like the others
 */
function continuesBetween(times: readonly number[], from: number, to: number): boolean {
  const next = times.findLast((each) => each > from);
  if (next === undefined) return false;
  if (next < to) return true;
  const [last, earlier] = times.filter((each) => each < from);
  if (last === undefined || earlier === undefined) return false;
  return next - last < 1.5 * (last - earlier);
}

/**
 * Removes backups. Continues after a backup that cannot be removed: a disk or a remote may refuse
 * deletion.
 *
 * @returns the files left because of an error
 * @throws {@link StoreError} interrupted - between two backups, with the number removed
 */
async function removeAll(
  backups: readonly ListedBackup[],
  { files, signal }: PruneOptions,
): Promise<FileProblem[]> {
  const notRemoved: FileProblem[] = [];
  for (const [done, { path, manifest, present }] of backups.entries()) {
    if (signal?.aborted) {
      const { kind, message } = abortReason(signal);
      const removed = done - notRemoved.length;
      throw new StoreError(
        kind,
        `${message}: ${removed} of ${backups.length} backups were removed`,
        {
          hint: "Run prune again to remove the rest.",
        },
      );
    }
    try {
      await files.remove(path);
    } catch (error) {
      if (!isKind(error, "io")) throw error;
      notRemoved.push({ path: present ? path : manifest, problem: error.message });
    }
  }
  return notRemoved;
}

/** Why a backup does not count if no known passphrase can check its manifest. */
export const unknownPassphraseReason = "no known passphrase opens it";

function reasonNotCounted({ mac, present }: ListedBackup): string {
  if (!present) return "its file is missing, or its size differs from the manifest";
  if (mac === false) return "its manifest was altered";
  return unknownPassphraseReason;
}

/**
 * Returns the first intact backup.
 *
 * @param backups - the backups to be kept, then the others, each newest first
 * @throws {@link StoreError} corrupted - if no backup verifies
 */
async function findVerified(
  backups: readonly ListedBackup[],
  { source, storePath, files, signal }: PruneOptions,
): Promise<ListedBackup> {
  for (const backup of backups) {
    try {
      await files.makeReadable(backup.path);
      const verifying = verifyBackup(backup.path, { source, storePath });
      if ((await orAbort(verifying, signal)).ok) return backup;
    } catch (error) {
      throwIfAborted(signal);
      if (!(error instanceof StoreError) || error.kind === "io") throw error;
    }
  }
  throw new StoreError("corrupted", "no backup verifies; nothing was removed", {
    hint: "Make a backup with hivemind-sqlcipher backup, then check the others with hivemind-sqlcipher verify FILE.",
  });
}
