/**
 * Finds the backup with the newest contents, which is not the newest by date if the clock was
 * wrong.
 *
 * The backups are ordered by SQLite's change counter, the number of rows and the number of revoked
 * rows. Only a restore decreases these numbers, and after a restore the backup with the highest
 * numbers still counts as the newest. In WAL mode an update may change none of the numbers. Among
 * backups with equal numbers, the backup that shares the most pages with the store is the newest.
 * Backups with another key_id are from before a rotation and are not compared.
 */
import { StoreError } from "../errors.js";
import type { PassphraseSource } from "../keys/source.js";
import { identify, type StoreKey } from "../store/cipher.js";
import { readHeader } from "../store/database-header.js";
import { countSharedPages, readCopyIvs, readStoreIvs } from "../store/shared-pages.js";
import type { BackupFiles } from "./backup-files.js";
import type { ListedBackup } from "./listing.js";
import type { Retention } from "./retention.js";
import { unlockBackup } from "./verify.js";

export interface ContentsOptions {
  readonly storePath: string;
  readonly source: PassphraseSource;
  readonly files: BackupFiles;
}

/**
 * Returns the removable backup with newer contents than all kept backups; undefined if there is
 * none.
 */
export async function findRemovableWithNewestContents(
  { kept, removable }: Retention<ListedBackup>,
  { storePath, source, files }: ContentsOptions,
): Promise<ListedBackup | undefined> {
  const { keyId } = await identify(storePath);
  const all = [...kept.map(({ backup }) => backup), ...removable];
  const comparable = all.filter((backup) => backup.keyId === keyId);
  const key = await deriveAnyKey(comparable, { source, storePath });
  const furthest = await selectMostProgressed(comparable, key);
  return await findNewestRemovable(furthest, removable, { storePath, key, files });
}

async function selectMostProgressed(
  backups: readonly ListedBackup[],
  key: StoreKey | undefined,
): Promise<ListedBackup[]> {
  const measured: { backup: ListedBackup; progress: readonly number[] }[] = [];
  for (const backup of backups) {
    const header = key && (await readHeader(backup.path, key));
    measured.push({ backup, progress: measureProgress(backup, header?.changeCounter ?? 0) });
  }
  measured.sort((a, b) => compareProgress(b.progress, a.progress));
  return measured
    .filter(({ progress }) => compareProgress(progress, measured[0]?.progress ?? []) === 0)
    .map(({ backup }) => backup);
}

/** Returns the numbers of a backup that never decrease in a store, the most precise first. */
function measureProgress({ clients }: ListedBackup, counter: number): readonly number[] {
  return [counter, clients.active + clients.revoked, clients.revoked];
}

function compareProgress(a: readonly number[], b: readonly number[]): number {
  const differing = a.findIndex((number, index) => number !== b[index]);
  return differing < 0 ? 0 : (a[differing] ?? 0) - (b[differing] ?? 0);
}

/**
 * Returns the removable backup that shares the most pages with the store, unless a kept backup
 * shares as many. Without a key, assumes that a kept backup is the newest.
 */
async function findNewestRemovable(
  backups: readonly ListedBackup[],
  removable: readonly ListedBackup[],
  { storePath, key, files }: { storePath: string; key: StoreKey | undefined; files: BackupFiles },
): Promise<ListedBackup | undefined> {
  const candidates = backups.filter((backup) => removable.includes(backup));
  const kept = backups.filter((backup) => !removable.includes(backup));
  if (candidates.length === 0) return undefined;
  if (key === undefined) return kept.length === 0 ? candidates[0] : undefined;
  const store = await readStoreIvs(storePath, key.cipherCompatibility);
  const all = countSharedPages(store, store);
  const countShared = async ({ path }: ListedBackup) => {
    await files.makeReadable(path);
    return countSharedPages(store, await readCopyIvs(path, key.cipherCompatibility));
  };
  let most = -1;
  for (const backup of kept) {
    most = Math.max(most, await countShared(backup));
    // No backup can share more. On a remote, each further comparison would download a backup.
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
async function deriveAnyKey(
  backups: readonly ListedBackup[],
  secret: { readonly source: PassphraseSource; readonly storePath: string },
): Promise<StoreKey | undefined> {
  for (const { path } of backups) {
    try {
      return (await unlockBackup(path, secret)).key;
    } catch (error) {
      if (!(error instanceof StoreError) || error.kind === "io") throw error;
    }
  }
  return undefined;
}
