/**
 * Removes backups by a retention policy.
 *
 * Counts and removes only backups with an authentic manifest. Damaged and altered backups stay, and
 * so do backups of an unknown passphrase. Before the first removal, one of the remaining backups
 * has been verified, including every page. The caller holds the store's operation lock, because a
 * running backup writes into the same directory.
 */
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";
import { bundleFiles } from "../bundle/bundle.js";
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
import { type ListedBackup, type ListingOptions, listBackups, type Unlisted } from "./listing.js";
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
  /** Also removes bundles without a backup or store here. */
  readonly bundles: boolean;
  /** Other directories of the store's backups, which need their bundles, too. */
  readonly otherFolders?: readonly string[];
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
   * Newest first. `rules` is empty for a backup that stays because no newer backup verifies, or
   * because it has the newest contents, whatever its date.
   */
  readonly kept: { path: string; createdAt: string; rules: readonly KeepRule[] }[];
  /** A manifest with size 0 is a manifest without its backup. */
  readonly removed: RemovedBackup[];
  /** The backups that the rules do not keep, but that could not be removed, and why. */
  readonly notRemoved: Unlisted[];
  /** Bytes. */
  readonly freed: number;
  readonly removedBundles: string[];
  /** The newest remaining backup that verifies; null if there was nothing to remove. */
  readonly verified: string | null;
  /** The files that were ignored, and why. */
  readonly left: Unlisted[];
}

/**
 * Applies a policy to the backups of a store. Changes nothing before all checks have passed.
 *
 * @throws {@link StoreError} usage - for a policy that keeps nothing, without a bundle directory,
 *   or without a terminal to ask on
 * @throws {@link StoreError} refused - if a backup is from the future, or the answer is no
 * @throws {@link StoreError} notFound - if the directory does not exist
 * @throws {@link StoreError} passphraseUnavailable - if no manifest can be checked
 * @throws {@link StoreError} corrupted - if no backup verifies; nothing was removed
 * @throws {@link StoreError} io - if a file cannot be read, or a bundle cannot be removed. Backups
 *   that cannot be removed are in the result.
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function prune(options: PruneOptions): Promise<PruneResult> {
  const { bundleFolder, dryRun, signal } = options;
  assertPolicy(options);
  const { folder, backups, others, unchecked } = await orAbort(listBackups(options), signal);
  if (unchecked) throw unchecked;
  const counted = backups.filter(({ mac, present }) => mac === true && present);
  const stale = await staleManifests(backups);
  const { kept, removable, verified } = await divide(counted, options);
  const unneededAfterAll = await unneededBundles(options, removable);
  const unneeded = [
    ...removable.map(({ path, createdAt, size }) => ({ path, createdAt, size })),
    ...stale.map(({ manifest, createdAt }) => ({ path: manifest, createdAt, size: 0 })),
  ];
  const notRemoved = dryRun ? [] : await removeAll([...removable, ...stale], options);
  const isRemoved = ({ path }: { path: string }) => !notRemoved.some((file) => file.path === path);
  const removed = unneeded.filter(isRemoved);
  const removedBundles =
    notRemoved.length === 0
      ? unneededAfterAll
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
      hint: 'Give --keep-last, --keep-daily, --keep-weekly or --keep-monthly, or "keep" in the settings.',
    });
  }
  if (bundles && bundleFolder === undefined) {
    throw new StoreError("usage", "the directory of the bundles is unknown", {
      hint: "Name it: --bundle-to DIRECTORY",
    });
  }
}

/** Returns the manifests without a backup: an earlier run was killed between the two removals. */
async function staleManifests(backups: readonly ListedBackup[]): Promise<ListedBackup[]> {
  const stale: ListedBackup[] = [];
  for (const backup of backups) {
    if (backup.mac !== true || backup.present) continue;
    if (!(await lstatIfExists(backup.path))) stale.push(backup);
  }
  return stale;
}

interface Division extends Retention<ListedBackup> {
  /** The newest remaining backup that verifies; null if there is nothing to remove. */
  readonly verified: string | null;
}

/** Decides which backups stay. At least one verified backup stays, whatever the policy. */
async function divide(counted: readonly ListedBackup[], options: PruneOptions): Promise<Division> {
  const byPolicy = applyRetention(counted, options.keep, options.utc);
  if (byPolicy.removable.length === 0) return { ...byPolicy, verified: null };
  const ahead = counted.find(isFromFuture);
  if (ahead && !options.ignoreClock) throw clockError(ahead);
  const { kept, removable } = await keepNewestContents(byPolicy, options);
  await confirmSeveralMachines(counted, options);
  const sound = await newestSound([...kept.map(({ backup }) => backup), ...removable], options);
  if (!removable.includes(sound)) return { kept, removable, verified: sound.path };
  return {
    kept: [...kept, { backup: sound, rules: [] }],
    removable: removable.filter((backup) => backup !== sound),
    verified: sound.path,
  };
}

/**
 * Keeps the backup with the newest contents. A clock in the past may have dated it before older
 * backups.
 *
 * SQLite's change counter of one file never decreases, nor do its numbers of rows and of revoked
 * rows, because a revoked client keeps its row. A mere change of a row shows in none of them: the
 * pages that a backup shares with the store tell then. A backup with another key than the store's
 * is of another file, before a rotation.
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
  const saved = await newestAmong(furthest, removable, { storePath, key, files });
  if (saved === undefined) return { kept, removable };
  reporter.notice(
    `${saved.path} stays: it has the newest contents, although its date is ${saved.createdAt}; the clock was wrong when a backup was made, or an older backup was restored`,
  );
  return {
    kept: [...kept, { backup: saved, rules: [] }],
    removable: removable.filter((backup) => backup !== saved),
  };
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
 * Returns the backup that shares the most pages with the store, if it is to be removed and no
 * backup that stays shares as many. Without a key, any that stays is taken for the newest.
 */
async function newestAmong(
  backups: readonly ListedBackup[],
  removable: readonly ListedBackup[],
  { storePath, key, files }: { storePath: string; key: StoreKey | undefined; files: BackupFiles },
): Promise<ListedBackup | undefined> {
  const [first, ...more] = backups.filter((backup) => removable.includes(backup));
  const staying = backups.filter((backup) => !removable.includes(backup));
  if (first === undefined || key === undefined || staying.length + more.length === 0) {
    return staying.length === 0 ? first : undefined;
  }
  const store = await readStoreIvs(storePath, key.cipherCompatibility);
  const share = async ({ path }: ListedBackup) => {
    await files.complete(path);
    return countSharedPages(store, await readCopyIvs(path, key.cipherCompatibility));
  };
  let newest = { backup: first, shared: await share(first) };
  for (const backup of more) {
    const shared = await share(backup);
    if (shared > newest.shared) newest = { backup, shared };
  }
  for (const backup of staying) if ((await share(backup)) >= newest.shared) return undefined;
  return newest.backup;
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
  if (machines.length < 2 || !backups.some(ambiguousFor(await readStoreId(storePath)))) return;
  const notice = `These backups were made on ${machines.length} machines and are counted together: ${escapeControlCharacters(machines.join(", "))}.`;
  if (dryRun) reporter.notice(notice);
  else await reporter.confirm(`${notice}\nDo all of them belong to one store?`);
}

/**
 * Returns whether a backup may be of a copy of the store: another machine made it, and it has no id
 * or was made after this machine had the id. A restored store has its id since the restore, and the
 * machine that had it before makes no more backups.
 */
function ambiguousFor(own: StoreId | undefined): (backup: ListedBackup) => boolean {
  const since = own === undefined ? 0 : Date.parse(own.since);
  return ({ hostname: machine, storeId, createdAt }) =>
    machine !== hostname() && (storeId === null || Date.parse(createdAt) >= since);
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
): Promise<Unlisted[]> {
  const notRemoved: Unlisted[] = [];
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

/** The reason to leave a backup of an earlier passphrase. */
export const ofUnknownPassphrase = "no known passphrase opens it";

function reasonNotCounted({ mac, present }: ListedBackup): string {
  if (!present) return "its file is missing, or its size differs from the manifest";
  if (mac === false) return "its manifest was altered";
  return ofUnknownPassphrase;
}

/**
 * Returns the first backup without a fault.
 *
 * @param backups - the backups to be kept, then the others, each newest first
 * @throws {@link StoreError} corrupted - if all have faults
 */
async function newestSound(
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
    hint: "Make a backup now: hivemind-sqlcipher backup; hivemind-sqlcipher verify FILE shows what is wrong with an old one.",
  });
}

/**
 * Returns the files of this store's bundles without a remaining backup or store here; none unless
 * `options.bundles` is set.
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
 * Returns the key_ids of the store, of the replaced stores next to it, and of the remaining
 * backups, also in other directories.
 */
async function neededKeys(
  { folder, otherFolders = [], storePath }: PruneOptions,
  removable: readonly ListedBackup[],
): Promise<Set<string>> {
  const replaced = ((await listDirectory(dirname(storePath))) ?? [])
    .filter((name) => name.startsWith(`${basename(storePath)}.`))
    .map((name) => join(dirname(storePath), name));
  const backups: string[] = [];
  for (const directory of new Set([folder, ...otherFolders])) {
    const names = (await listDirectory(directory)) ?? [];
    backups.push(...names.map((name) => join(directory, name)));
  }
  const staying = backups.filter((path) => !path.endsWith(".json") && !isListed(path, removable));
  const needed = new Set<string>();
  for (const path of [storePath, ...replaced, ...staying]) {
    const { keyId } = await identify(path);
    if (keyId !== undefined) needed.add(keyId);
  }
  return needed;
}
