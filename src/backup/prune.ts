/**
 * Retention: removing the backups that a policy does not keep.
 *
 * Only backups whose manifest holds count, and only they are removed: what is damaged, altered, of an unknown passphrase or
 * somebody else's is left where it is. Before anything is removed, one of the backups that stay has been verified,
 * every page of it. Hold the store's operation lock: a backup at work writes into the same folder.
 */
import { readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { bundleFiles } from "../bundle/bundle.js";
import { StoreError } from "../errors.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { listEntries } from "../keys/keyring.js";
import { abortReason, orAbort, throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { identify } from "../store/cipher.js";
import { escapeControlCharacters } from "../text/escape.js";
import { type ListedBackup, type ListingOptions, listBackups, type Unlisted } from "./listing.js";
import { removeBackup } from "./remove.js";
import { applyRetention, type KeepPolicy, type KeepRule, keepsSomething } from "./retention.js";
import { verifyBackup } from "./verify.js";

/** Backups of several machines may come to one folder, and their clocks differ: 1 hour. */
const clockToleranceSeconds = 3600;

export interface PruneOptions extends ListingOptions {
  readonly keep: KeepPolicy;
  /** Also remove bundles that nothing here needs any more. */
  readonly bundles: boolean;
  /** Say what would be done, and do nothing. */
  readonly dryRun: boolean;
  /** Is asked before backups of several machines are counted together. */
  readonly reporter: Reporter;
  /** Interrupts it: what is removed by then is removed whole. */
  readonly signal?: AbortSignal | undefined;
}

export interface PruneResult {
  readonly folder: string;
  readonly dry_run: boolean;
  /** Newest first. `rules` may be empty for the one that stays because no newer one verifies. */
  readonly kept: { path: string; created_at: string; rules: readonly KeepRule[] }[];
  /** A manifest by itself, with no bytes, is one whose backup is not there any more. */
  readonly removed: { path: string; created_at: string; size: number }[];
  /** Bytes. */
  readonly freed: number;
  readonly removed_bundles: string[];
  /** The newest of those that stay that was verified, every page of it; null if there was nothing to remove. */
  readonly verified: string | null;
  /** What was left alone, and why. */
  readonly left: Unlisted[];
}

/**
 * Applies a policy to the backups of a store.
 *
 * @throws StoreError `usage` for a policy that keeps nothing, or if there is nobody to ask; `refused` if the answer is no;
 *   `notFound` if there is no such folder;
 *   `passphraseUnavailable` if no manifest can be checked; `corrupted` if no backup verifies, and then nothing has
 *   been removed; `io`; `interrupted`.
 */
export async function prune(options: PruneOptions): Promise<PruneResult> {
  const { keep, bundles, bundleFolder, dryRun, reporter, signal } = options;
  if (!keepsSomething(keep)) {
    throw new StoreError("usage", "how many backups should be kept?", {
      hint: 'Say so by --keep-last, --keep-daily, --keep-weekly or --keep-monthly, or by "keep" in the settings.',
    });
  }
  if (bundles && bundleFolder === undefined) {
    throw new StoreError("usage", "where are the bundles?", { hint: "--bundle-to FOLDER" });
  }
  const listing = listBackups(options);
  const { folder, backups, others, unchecked } = await orAbort(listing, signal);
  if (unchecked) throw unchecked;
  const counted = backups.filter(({ mac, present }) => mac === true && present);
  const { kept, removable } = applyRetention(counted, keep);
  // Its backup was removed, and then the process was killed.
  const orphans = backups.filter(({ mac, path }) => mac === true && !isListed(path, counted));
  const stale: ListedBackup[] = [];
  for (const orphan of orphans) if (!(await lstatIfExists(orphan.path))) stale.push(orphan);

  if (removable.length > 0) {
    assertNotFromFuture(counted);
    await confirmSeveralMachines(counted, dryRun, reporter);
  }

  const staying = kept.map(({ backup, rules }) => ({ backup, rules }));
  let verified: string | null = null;
  if (removable.length > 0) {
    const sound = await newestSound([...kept.map(({ backup }) => backup), ...removable], options);
    verified = sound.path;
    const rescued = removable.indexOf(sound);
    if (rescued !== -1) {
      removable.splice(rescued, 1);
      staying.push({ backup: sound, rules: [] });
    }
  }
  const removedBundles =
    bundles && bundleFolder !== undefined
      ? await unneededBundles(options, bundleFolder, removable)
      : [];
  if (!dryRun) {
    await removeAll([...removable, ...stale], signal);
    for (const path of removedBundles) await removeFile(path);
    if (removedBundles.length > 0 && bundleFolder !== undefined) await syncDirectory(bundleFolder);
  }
  const touched = [...counted, ...stale];
  return {
    folder,
    dry_run: dryRun,
    kept: staying.map(({ backup: { path, created_at }, rules }) => ({ path, created_at, rules })),
    removed: [
      ...removable.map(({ path, created_at, size }) => ({ path, created_at, size })),
      ...stale.map(({ manifest, created_at }) => ({ path: manifest, created_at, size: 0 })),
    ],
    freed: removable.reduce((sum, { size }) => sum + size, 0),
    removed_bundles: removedBundles,
    verified,
    left: [
      ...backups
        .filter(({ path }) => !isListed(path, touched))
        .map((backup) => ({ path: backup.path, problem: reasonNotCounted(backup) })),
      ...others,
    ],
  };
}

/**
 * A machine without a clock of its own may have been in another year when it made a backup, or be there now. Which one is
 * the newest is not known then, and it could be the one to be removed.
 */
function assertNotFromFuture(backups: readonly ListedBackup[]): void {
  const ahead = backups.find(({ age_seconds: age }) => age < -clockToleranceSeconds);
  if (!ahead) return;
  throw new StoreError(
    "refused",
    `${ahead.path} was made at ${ahead.created_at}, which is still to come: a clock was wrong, then or now, and none was removed`,
    { hint: "see what date says; if it is right now, move that backup and its manifest elsewhere" },
  );
}

/**
 * A hub that has moved goes on with the backups of its old machine. A copy of the store on a test machine, under the
 * same passphrase, has backups of its own: counted together, its many would crowd out the hub's.
 */
async function confirmSeveralMachines(
  backups: readonly ListedBackup[],
  dryRun: boolean,
  reporter: Reporter,
): Promise<void> {
  const machines = [...new Set(backups.map(({ hostname }) => hostname))];
  if (machines.length < 2) return;
  const said = `These backups were made on ${machines.length} machines, and are counted together: ${escapeControlCharacters(machines.join(", "))}.`;
  if (dryRun) reporter.notice(said);
  else await reporter.confirm(`${said}\nAre they all of one store?`);
}

/**
 * Removes backups one by one.
 *
 * @throws StoreError `interrupted`, between two of them, saying how far it has come; `io`.
 */
async function removeAll(
  backups: readonly ListedBackup[],
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const [removed, { path }] of backups.entries()) {
    if (signal?.aborted) {
      const { kind, message } = abortReason(signal);
      throw new StoreError(kind, `${message}: ${removed} of ${backups.length} were removed`, {
        hint: "the others are whole; prune again goes on with them",
      });
    }
    await removeBackup(path);
  }
}

function isListed(path: string, backups: readonly ListedBackup[]): boolean {
  return backups.some((backup) => backup.path === path);
}

function reasonNotCounted({ mac, present }: ListedBackup): string {
  if (!present) return "its file is missing, or has another size than its manifest says";
  if (mac === false) return "its manifest was altered";
  return "no passphrase that is kept here opens it";
}

/**
 * The first of these backups, which are ordered from the newest to be kept to the oldest to be removed, that verifies.
 *
 * @throws StoreError `corrupted` if none does.
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
  throw new StoreError("corrupted", "none of the backups verifies, so none was removed", {
    hint: "make a new one now: hivemind-sqlcipher backup; verify FILE says what is wrong with an old one",
  });
}

/**
 * The files of bundles that belonged to this store's backups, and that nothing here needs any more. A bundle folder may
 * serve several stores, so a bundle counts as this store's only if a backup that is being removed has its key, or the
 * keyring keeps its passphrase as a previous one of this store.
 */
async function unneededBundles(
  options: PruneOptions,
  bundleFolder: string,
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
    if (!needed.has(keyId)) found.push(...(await bundleFiles(bundleFolder, keyId)));
  }
  return found;
}

/** The keys of the store, of what lies beside it (replaced stores), and of every file that stays with the backups. */
async function neededKeys(
  { folder, storePath }: PruneOptions,
  removable: readonly ListedBackup[],
): Promise<Set<string>> {
  const beside = (await readdir(dirname(storePath)))
    .filter((name) => name.startsWith(`${basename(storePath)}.`))
    .map((name) => join(dirname(storePath), name));
  const staying = (await readdir(folder))
    .map((name) => join(folder, name))
    .filter((path) => !path.endsWith(".json") && !isListed(path, removable));
  const needed = new Set<string>();
  for (const path of [storePath, ...beside, ...staying]) {
    const { keyId } = await identify(path);
    if (keyId !== undefined) needed.add(keyId);
  }
  return needed;
}
