/**
 * Removes backups by a retention policy.
 *
 * Counts and removes only backups with an authentic manifest and the size in it, without checking
 * their pages. Other files stay, and so do backups of an unknown passphrase. Before a backup is
 * removed, a remaining backup has been verified, including every page. The caller holds the store's
 * operation lock, because a running backup writes into the same directory.
 */
import os from "node:os";
import { basename, dirname, join } from "node:path";
import { bundleFiles } from "../bundle/bundle.js";
import { assertNotMissing, findMissingDirectories } from "../config/known-directories.js";
import { readStoreId, type StoreId } from "../config/store-id.js";
import { isKind, StoreError } from "../errors.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { listDirectory, lstatIfExists } from "../fs/read.js";
import { listEntries } from "../keys/keyring.js";
import { abortReason, orAbort, throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { readChangeCounter } from "../store/change-counter.js";
import { identify, type StoreKey } from "../store/cipher.js";
import { countSharedPages, readCopyIvs, readStoreIvs } from "../store/shared-pages.js";
import { escapeControlCharacters } from "../text/escape.js";
import { clockError, isFromFuture } from "./clock.js";
import {
  type FileProblem,
  type ListedBackup,
  type ListingOptions,
  listBackups,
} from "./listing.js";
import { removeBackup } from "./manifest.js";
import {
  applyRetention,
  type KeepPolicy,
  type KeepRule,
  keepsSomething,
  type Retention,
} from "./retention.js";
import { openBackup, verifyBackup } from "./verify.js";

/** Reads and removes listed backups, which may be on a remote. */
export interface BackupFiles {
  /**
   * Makes the whole backup readable at its path. A listing reads only its first page.
   *
   * @throws {@link StoreError} io - if it cannot be read
   */
  complete(path: string): Promise<void>;
  /**
   * Removes a backup and its manifest, either of which may be gone already.
   *
   * @throws {@link StoreError} io - if a file cannot be removed
   */
  remove(path: string): Promise<void>;
}

/** The backups in a directory of this machine. */
export const localFiles: BackupFiles = { complete: async () => undefined, remove: removeBackup };

export interface PruneOptions extends ListingOptions {
  readonly keep: KeepPolicy;
  /** Also removes bundles that no remaining backup or store needs. */
  readonly bundles: boolean;
  /** Other directories with backups of the store. The bundles of these backups stay. */
  readonly otherFolders?: readonly string[];
  /** Paths of other stores. The bundles of these stores stay. */
  readonly otherStores?: readonly string[];
  /** The key_ids of backups and stores elsewhere. Their bundles stay. */
  readonly otherKeyIds?: readonly string[];
  /** Whether days, weeks and months are those of UTC, not of the local time zone. */
  readonly utc?: boolean;
  /** Continues although the clock is behind a backup. */
  readonly ignoreClock?: boolean;
  /** Default: the backups are in a directory of this machine. */
  readonly files?: BackupFiles;
  /** Only reports the removals, and removes nothing. */
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
  /** Size 0: a leftover manifest. An earlier run removed its backup. */
  readonly removed: RemovedBackup[];
  /** The backups that the rules do not keep, but that could not be removed, and why. */
  readonly notRemoved: FileProblem[];
  /** Bytes. */
  readonly freed: number;
  readonly removedBundles: string[];
  /** A remaining backup that was verified; null if no backup was to be removed. */
  readonly verified: string | null;
  /** The files that were ignored, and why. */
  readonly left: FileProblem[];
}

/**
 * Applies a policy to the backups of a store. Changes nothing before all checks have passed.
 *
 * @throws {@link StoreError} usage - if the policy keeps nothing, if the bundle directory is
 *   unknown, or if confirmation is needed without a terminal
 * @throws {@link StoreError} refused - if a backup is from the future, or the answer is no
 * @throws {@link StoreError} notFound - if the directory does not exist
 * @throws {@link StoreError} passphraseUnavailable - if no manifest can be checked
 * @throws {@link StoreError} corrupted - if no backup verifies; nothing was removed
 * @throws {@link StoreError} io - if a file cannot be read, the disk of the directory is not
 *   mounted, another directory of backups is missing, or a bundle cannot be removed. Backups that
 *   cannot be removed are in the result.
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function prune(options: PruneOptions): Promise<PruneResult> {
  const { bundleFolder, dryRun, signal } = options;
  assertPolicy(options);
  await assertMounted(options);
  const { folder, backups, others, unchecked } = await orAbort(listBackups(options), signal);
  if (unchecked) throw unchecked;
  const counted = backups.filter(({ mac, present }) => mac === true && present);
  const stale = await leftoverManifests(backups);
  const { kept, removable, verified } = await selectRemovable(counted, options);
  // Whatever prevents this must be known before a backup is removed.
  const bundlesIfAllRemoved = await unneededBundles(options, removable);
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
      : await unneededBundles(options, removable.filter(isRemoved));
  if (!dryRun) {
    for (const path of removedBundles) await removeFile(path);
    if (removedBundles.length > 0 && bundleFolder !== undefined) await syncDirectory(bundleFolder);
  }
  const left = backups.filter(({ path }) => !isListed(path, [...counted, ...stale]));
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

function assertPolicy({ keep, bundles, bundleFolder }: PruneOptions): void {
  if (!keepsSomething(keep)) {
    throw new StoreError("usage", "the policy keeps no backup", {
      hint: 'Add --keep-last, --keep-daily, --keep-weekly or --keep-monthly, or "keep" in the settings.',
    });
  }
  if (bundles && bundleFolder === undefined) {
    throw new StoreError("usage", "the directory of the bundles is unknown", {
      hint: "Add --bundle-to DIRECTORY.",
    });
  }
}

/**
 * Makes sure that the disks of the backups are mounted. An empty mount point has no backups, but
 * the disk may have some that need a bundle.
 */
async function assertMounted({
  folder,
  files = localFiles,
  bundles,
  otherFolders = [],
  storePath,
}: PruneOptions): Promise<void> {
  if (files === localFiles) await assertNotMissing([folder], storePath, []);
  if (!bundles) return;
  const [missing] = await findMissingDirectories(otherFolders, storePath);
  if (!missing) return;
  throw new StoreError("io", `cannot tell which bundles are needed: ${missing.message}`, {
    hint: "Mount its disk, or run prune without --bundles. Nothing was removed.",
  });
}

/**
 * Returns the manifests without a backup. A kill during `removeBackup`, which removes the backup
 * first, leaves one.
 */
async function leftoverManifests(backups: readonly ListedBackup[]): Promise<ListedBackup[]> {
  const stale: ListedBackup[] = [];
  for (const backup of backups) {
    if (backup.mac !== true || backup.present) continue;
    if (!(await lstatIfExists(backup.path))) stale.push(backup);
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

/** Keeps a removable backup, too. */
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

/**
 * Keeps the backup with the newest contents. A clock in the past may have dated it before older
 * backups.
 *
 * Backups of one file can be ordered: its change counter, its number of rows and its number of
 * revoked rows never decrease, because a revoked client keeps its row. In WAL mode, an update of a
 * row may change none of them, so equal backups are ordered by the number of pages shared with the
 * store. A backup with another key is from before a rotation, and is not compared.
 */
async function keepNewestContents(
  { kept, removable }: Retention<ListedBackup>,
  { storePath, source, files = localFiles, reporter }: PruneOptions,
): Promise<Retention<ListedBackup>> {
  const { keyId } = await identify(storePath);
  const all = [...kept.map(({ backup }) => backup), ...removable];
  const comparable = all.filter((backup) => backup.keyId === keyId);
  const key = await anyKey(comparable, { source, storePath });
  const furthest = await mostProgressed(comparable, key);
  const newest = await findNewestRemovable(furthest, removable, { storePath, key, files });
  if (newest === undefined) return { kept, removable };
  reporter.notice(
    `${newest.path} stays: it has the newest contents, although its date is ${newest.createdAt}; the clock was wrong when a backup was made, or an older backup was restored`,
  );
  return keepAlso(newest, { kept, removable });
}

/** Returns the backups with the highest numbers among those that never decrease in one store. */
async function mostProgressed(
  backups: readonly ListedBackup[],
  key: StoreKey | undefined,
): Promise<ListedBackup[]> {
  const measured: { backup: ListedBackup; progress: readonly number[] }[] = [];
  for (const backup of backups) {
    const counter = key && (await readChangeCounter(backup.path, key));
    measured.push({ backup, progress: progressOf(backup, counter ?? 0) });
  }
  measured.sort((a, b) => compareProgress(b.progress, a.progress));
  return measured
    .filter(({ progress }) => compareProgress(progress, measured[0]?.progress ?? []) === 0)
    .map(({ backup }) => backup);
}

/** Returns numbers that never decrease in a store, the most precise first. */
function progressOf({ clients }: ListedBackup, counter: number): readonly number[] {
  return [counter, clients.active + clients.revoked, clients.revoked];
}

function compareProgress(a: readonly number[], b: readonly number[]): number {
  const differing = a.findIndex((number, index) => number !== b[index]);
  return differing < 0 ? 0 : (a[differing] ?? 0) - (b[differing] ?? 0);
}

/**
 * Returns the removable backup that shares the most pages with the store, unless a backup that
 * stays shares as many. Without a key, assumes that a backup that stays is the newest.
 */
async function findNewestRemovable(
  backups: readonly ListedBackup[],
  removable: readonly ListedBackup[],
  { storePath, key, files }: { storePath: string; key: StoreKey | undefined; files: BackupFiles },
): Promise<ListedBackup | undefined> {
  const candidates = backups.filter((backup) => removable.includes(backup));
  const staying = backups.filter((backup) => !removable.includes(backup));
  if (candidates.length === 0) return undefined;
  if (key === undefined) return staying.length === 0 ? candidates[0] : undefined;
  const store = await readStoreIvs(storePath, key.cipherCompatibility);
  const all = countSharedPages(store, store);
  const countShared = async ({ path }: ListedBackup) => {
    await files.complete(path);
    return countSharedPages(store, await readCopyIvs(path, key.cipherCompatibility));
  };
  let most = -1;
  for (const backup of staying) {
    most = Math.max(most, await countShared(backup));
    // On a remote, each backup to be compared has to be downloaded.
    if (most === all) return undefined;
  }
  let newest: ListedBackup | undefined;
  for (const backup of candidates) {
    const shared = await countShared(backup);
    if (shared > most) [newest, most] = [backup, shared];
  }
  return newest;
}

/** Returns the key of the backups; undefined if no known passphrase opens any of them. */
async function anyKey(
  backups: readonly ListedBackup[],
  secret: { source: PruneOptions["source"]; storePath: string },
): Promise<StoreKey | undefined> {
  for (const { path } of backups) {
    try {
      const { connection, key } = await openBackup(path, secret);
      await connection.close();
      return key;
    } catch (error) {
      if (!(error instanceof StoreError) || error.kind === "io") throw error;
    }
  }
  return undefined;
}

/**
 * Asks for confirmation if several machines made the backups. A hub that has moved continues with
 * the backups of its old machine; but a copy of the store on a test machine has the same
 * passphrase, and its backups would displace the hub's.
 */
async function confirmSeveralMachines(
  backups: readonly ListedBackup[],
  { storePath, dryRun, reporter }: PruneOptions,
): Promise<void> {
  const machines = [...new Set(backups.map(({ hostname }) => hostname))];
  const own = await readStoreId(storePath);
  if (machines.length < 2 || !backups.some((backup) => mayBeOfCopy(backup, own))) return;
  const notice = `These backups were made on ${machines.length} machines and are counted together: ${escapeControlCharacters(machines.join(", "))}.`;
  if (dryRun) reporter.notice(notice);
  else await reporter.confirm(`${notice}\nDo all of them belong to one store?`);
}

/**
 * Returns whether a backup may be of a copy of the store: another machine made it, and it has no
 * store id, or was made after this machine got the id. After a restore, the former machine makes no
 * more backups.
 */
function mayBeOfCopy(
  { hostname, storeId, createdAt }: ListedBackup,
  own: StoreId | undefined,
): boolean {
  if (hostname === os.hostname()) return false;
  const since = own === undefined ? 0 : Date.parse(own.since);
  return storeId === null || Date.parse(createdAt) >= since;
}

/**
 * Removes backups in turn. Continues after a backup that cannot be removed: a disk or a remote may
 * refuse deletion.
 *
 * @returns the files that could not be removed
 * @throws {@link StoreError} interrupted - between two backups, with the number removed
 */
async function removeAll(
  backups: readonly ListedBackup[],
  { files = localFiles, signal }: PruneOptions,
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

function isListed(path: string, backups: readonly ListedBackup[]): boolean {
  return backups.some((backup) => backup.path === path);
}

/** Why the manifest of a backup cannot be checked. */
export const ofUnknownPassphrase = "no known passphrase opens it";

function reasonNotCounted({ mac, present }: ListedBackup): string {
  if (!present) return "its file is missing, or its size differs from the manifest";
  if (mac === false) return "its manifest was altered";
  return ofUnknownPassphrase;
}

/**
 * Returns the first backup that verifies.
 *
 * @param backups - the backups to be kept, then the others, each newest first
 * @throws {@link StoreError} corrupted - if no backup verifies
 */
async function findVerified(
  backups: readonly ListedBackup[],
  { source, storePath, files = localFiles, signal }: PruneOptions,
): Promise<ListedBackup> {
  for (const backup of backups) {
    try {
      await files.complete(backup.path);
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

/**
 * Returns the files of this store's bundles that no remaining backup or store needs. Returns none
 * unless `options.bundles` is set.
 *
 * A bundle directory may serve several stores. So a bundle counts as this store's only if a removed
 * backup has its key, or if the keyring has its passphrase as a previous passphrase of this store.
 */
async function unneededBundles(
  options: PruneOptions,
  removable: readonly ListedBackup[],
): Promise<string[]> {
  const { bundles, bundleFolder } = options;
  if (!bundles || bundleFolder === undefined) return [];
  const own = new Set(removable.map(({ keyId }) => keyId));
  if (options.source.kind === "keyring") {
    for (const { slot } of await listEntries(options.storePath)) {
      if (slot.startsWith("previous:")) own.add(slot.slice("previous:".length));
    }
  }
  const needed = await neededKeys(options, removable);
  const found: string[] = [];
  for (const keyId of own) {
    if (!needed.has(keyId)) found.push(...(await bundleFiles(bundleFolder, keyId)));
  }
  return found;
}

/**
 * Returns the key_ids of the store and of other stores, of the replaced stores next to them, and of
 * the remaining backups, also in other directories and elsewhere.
 */
async function neededKeys(
  { folder, otherFolders = [], otherStores = [], otherKeyIds = [], storePath }: PruneOptions,
  removable: readonly ListedBackup[],
): Promise<Set<string>> {
  const stores: string[] = [];
  for (const path of [storePath, ...otherStores]) stores.push(...(await withReplaced(path)));
  const backups: string[] = [];
  for (const directory of new Set([folder, ...otherFolders])) {
    const names = (await listDirectory(directory)) ?? [];
    backups.push(...names.map((name) => join(directory, name)));
  }
  const staying = backups.filter((path) => !path.endsWith(".json") && !isListed(path, removable));
  const needed = new Set(otherKeyIds);
  for (const path of [...stores, ...staying]) {
    const { keyId } = await identify(path);
    if (keyId !== undefined) needed.add(keyId);
  }
  return needed;
}

/** Returns a store's path and those of the replaced stores next to it. */
async function withReplaced(storePath: string): Promise<string[]> {
  const names = (await listDirectory(dirname(storePath))) ?? [];
  const replaced = names.filter((name) => name.startsWith(`${basename(storePath)}.`));
  return [storePath, ...replaced.map((name) => join(dirname(storePath), name))];
}
