/**
 * Removes the backups that a retention policy does not keep.
 *
 * Counts and removes only backups with an authentic manifest. Damaged and altered backups, and
 * those of an unknown passphrase, stay. Before the first removal, one of the remaining backups has
 * been verified, including every page. The caller holds the store's operation lock, because a
 * running backup writes into the same directory.
 */
import { basename, dirname, join } from "node:path";
import { bundleFiles } from "../bundle/bundle.js";
import { StoreError } from "../errors.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { listDirectory, lstatIfExists } from "../fs/read.js";
import { listEntries } from "../keys/keyring.js";
import { abortReason, orAbort, throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { identify } from "../store/cipher.js";
import { escapeControlCharacters } from "../text/escape.js";
import { type ListedBackup, type ListingOptions, listBackups, type Unlisted } from "./listing.js";
import { removeBackup } from "./manifest.js";
import {
  applyRetention,
  type KeepPolicy,
  type KeepRule,
  keepsSomething,
  type Retention,
} from "./retention.js";
import { verifyBackup } from "./verify.js";

/** 1 hour. Several machines may back up to one directory, and their clocks differ. */
const clockToleranceSeconds = 3600;

export interface PruneOptions extends ListingOptions {
  readonly keep: KeepPolicy;
  /** Also remove bundles that no backup and no store here needs any more. */
  readonly bundles: boolean;
  /** Only report what would be removed. */
  readonly dryRun: boolean;
  /** Asks for confirmation before backups of several machines are counted together. */
  readonly reporter: Reporter;
  /** Interrupts the removal between two backups. */
  readonly signal?: AbortSignal | undefined;
}

export interface PruneResult {
  readonly folder: string;
  readonly dry_run: boolean;
  /** Newest first. `rules` is empty for a backup that stays because no newer backup verifies. */
  readonly kept: { path: string; created_at: string; rules: readonly KeepRule[] }[];
  /** A manifest with size 0 is a manifest without its backup. */
  readonly removed: { path: string; created_at: string; size: number }[];
  /** Bytes. */
  readonly freed: number;
  readonly removed_bundles: string[];
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
 * @throws {@link StoreError} io - if a file cannot be read or removed
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function prune(options: PruneOptions): Promise<PruneResult> {
  const { bundles, bundleFolder, dryRun, signal } = options;
  assertPolicy(options);
  const { folder, backups, others, unchecked } = await orAbort(listBackups(options), signal);
  if (unchecked) throw unchecked;
  const counted = backups.filter(({ mac, present }) => mac === true && present);
  const stale = await staleManifests(backups);
  const { kept, removable, verified } = await divide(counted, options);
  const removedBundles =
    bundles && bundleFolder !== undefined
      ? await unneededBundles(options, bundleFolder, removable)
      : [];
  if (!dryRun) {
    await removeAll([...removable, ...stale], signal);
    for (const path of removedBundles) await removeFile(path);
    if (removedBundles.length > 0 && bundleFolder !== undefined) await syncDirectory(bundleFolder);
  }
  const left = backups.filter(({ path }) => !isListed(path, [...counted, ...stale]));
  return {
    folder,
    dry_run: dryRun,
    kept: kept.map(({ backup: { path, created_at }, rules }) => ({ path, created_at, rules })),
    removed: [
      ...removable.map(({ path, created_at, size }) => ({ path, created_at, size })),
      ...stale.map(({ manifest, created_at }) => ({ path: manifest, created_at, size: 0 })),
    ],
    freed: removable.reduce((sum, { size }) => sum + size, 0),
    removed_bundles: removedBundles,
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

/** Returns the manifests without a backup, which an earlier run left when it was killed. */
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

/** Decides which backups stay. At least one that verifies stays, whatever the policy. */
async function divide(counted: readonly ListedBackup[], options: PruneOptions): Promise<Division> {
  const { kept, removable } = applyRetention(counted, options.keep);
  if (removable.length === 0) return { kept, removable, verified: null };
  assertNotFromFuture(counted);
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
 * Refuses if a backup is from the future. A machine without a battery-backed clock may have had a
 * wrong date when it made the backup, or has one now, so the newest backup is unknown, and `prune`
 * could remove it.
 */
function assertNotFromFuture(backups: readonly ListedBackup[]): void {
  const ahead = backups.find(({ age_seconds: age }) => age < -clockToleranceSeconds);
  if (!ahead) return;
  throw new StoreError(
    "refused",
    `${ahead.path} was made at ${ahead.created_at}, which is in the future: the clock is or was wrong; nothing was removed`,
    { hint: "Check the clock with date. If it is right, move that backup and its manifest away." },
  );
}

/**
 * Asks for confirmation if several machines made the backups. A hub that has moved continues with
 * the backups of its old machine; but a copy of the store on a test machine has the same
 * passphrase, and its backups would displace the hub's.
 */
async function confirmSeveralMachines(
  backups: readonly ListedBackup[],
  { dryRun, reporter }: PruneOptions,
): Promise<void> {
  const machines = [...new Set(backups.map(({ hostname }) => hostname))];
  if (machines.length < 2) return;
  const notice = `These backups were made on ${machines.length} machines and are counted together: ${escapeControlCharacters(machines.join(", "))}.`;
  if (dryRun) reporter.notice(notice);
  else await reporter.confirm(`${notice}\nDo all of them belong to one store?`);
}

/**
 * Removes backups one by one.
 *
 * @throws {@link StoreError} interrupted - between two backups, with the number removed
 * @throws {@link StoreError} io - if a file cannot be removed
 */
async function removeAll(
  backups: readonly ListedBackup[],
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const [removed, { path }] of backups.entries()) {
    if (signal?.aborted) {
      const { kind, message } = abortReason(signal);
      throw new StoreError(
        kind,
        `${message}: ${removed} of ${backups.length} backups were removed`,
        {
          hint: "Run prune again to remove the rest.",
        },
      );
    }
    await removeBackup(path);
  }
}

function isListed(path: string, backups: readonly ListedBackup[]): boolean {
  return backups.some((backup) => backup.path === path);
}

function reasonNotCounted({ mac, present }: ListedBackup): string {
  if (!present) return "its file is missing, or its size differs from the manifest";
  if (mac === false) return "its manifest was altered";
  return "no known passphrase opens it";
}

/**
 * Returns the first backup that verifies.
 *
 * @param backups - those to be kept, then those to be removed, each newest first
 * @throws {@link StoreError} corrupted - if none verifies
 */
async function newestSound(
  backups: readonly ListedBackup[],
  { source, storePath, signal }: PruneOptions,
): Promise<ListedBackup> {
  for (const backup of backups) {
    try {
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
 * Returns the files of this store's bundles that no backup and no store here needs any more.
 *
 * A bundle directory may serve several stores. So a bundle counts as this store's only if a backup
 * that is being removed has its key, or the keyring has its passphrase as a previous one of this
 * store.
 */
async function unneededBundles(
  options: PruneOptions,
  bundleDirectory: string,
  removable: readonly ListedBackup[],
): Promise<string[]> {
  const own = new Set(removable.map(({ key_id }) => key_id));
  if (options.source.kind === "keyring") {
    for (const { slot } of await listEntries(options.storePath)) {
      if (slot.startsWith("previous:")) own.add(slot.slice("previous:".length));
    }
  }
  const needed = await neededKeys(options, removable);
  const found: string[] = [];
  for (const keyId of own) {
    if (!needed.has(keyId)) found.push(...(await bundleFiles(bundleDirectory, keyId)));
  }
  return found;
}

/**
 * Returns the key_ids of the store, of the replaced stores next to it, and of the remaining
 * backups.
 */
async function neededKeys(
  { folder, storePath }: PruneOptions,
  removable: readonly ListedBackup[],
): Promise<Set<string>> {
  const replaced = ((await listDirectory(dirname(storePath))) ?? [])
    .filter((name) => name.startsWith(`${basename(storePath)}.`))
    .map((name) => join(dirname(storePath), name));
  const staying = ((await listDirectory(folder)) ?? [])
    .map((name) => join(folder, name))
    .filter((path) => !path.endsWith(".json") && !isListed(path, removable));
  const needed = new Set<string>();
  for (const path of [storePath, ...replaced, ...staying]) {
    const { keyId } = await identify(path);
    if (keyId !== undefined) needed.add(keyId);
  }
  return needed;
}
