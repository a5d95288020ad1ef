/**
 * Finds the files of a store's bundles that no remaining backup or store needs.
 *
 * Several stores may share a bundle directory. So a bundle counts as this store's only if a removed
 * backup has its key, or if the keyring has its passphrase as a previous passphrase of this store.
 */
import { basename, dirname, join } from "node:path";
import { listBundleFiles } from "../bundle/bundle.js";
import { listDirectory } from "../fs/read.js";
import { listEntries, nameInSlot } from "../keys/keyring.js";
import type { ListedBackup, ListingOptions } from "./listing.js";
import { readBackupKeyIds } from "./manifest.js";

/** The directory of bundles, and what may need them in addition to the store and its backups. */
export interface BundleSearch {
  /** The directory of the bundles. */
  readonly directory: string;
  /** Other directories with backups of the store. */
  readonly otherFolders: readonly string[];
  /** Paths of other stores. */
  readonly otherStores: readonly string[];
  /** The key_ids of other backups and stores, such as those on remotes. */
  readonly otherKeyIds: readonly string[];
}

/**
 * Returns the paths of the unneeded bundles' files.
 *
 * @param removable - the backups to be removed
 */
export async function findUnneededBundles(
  search: BundleSearch,
  store: ListingOptions,
  removable: readonly ListedBackup[],
): Promise<string[]> {
  const own = new Set(removable.map(({ keyId }) => keyId));
  if (store.source.kind === "keyring") {
    for (const { slot } of await listEntries(store.storePath)) {
      const keyId = nameInSlot(slot, "previous");
      if (keyId !== undefined) own.add(keyId);
    }
  }
  const needed = await readNeededKeyIds(search, store, removable);
  const found: string[] = [];
  for (const keyId of own) {
    if (!needed.has(keyId)) found.push(...(await listBundleFiles(search.directory, keyId)));
  }
  return found;
}

/**
 * Returns the key_ids of the store and of other stores, of the replaced stores next to them, and of
 * the remaining backups, in all directories and on remotes.
 */
async function readNeededKeyIds(
  { otherFolders, otherStores, otherKeyIds }: BundleSearch,
  { folder, storePath }: ListingOptions,
  removable: readonly ListedBackup[],
): Promise<Set<string>> {
  const stores: string[] = [];
  for (const path of [storePath, ...otherStores]) stores.push(...(await listWithReplaced(path)));
  const backups: string[] = [];
  for (const directory of new Set([folder, ...otherFolders])) {
    const names = (await listDirectory(directory)) ?? [];
    backups.push(...names.map((name) => join(directory, name)));
  }
  const removed = new Set(removable.map(({ path }) => path));
  const staying = backups.filter((path) => !path.endsWith(".json") && !removed.has(path));
  const needed = new Set(otherKeyIds);
  for (const path of [...stores, ...staying]) {
    for (const keyId of await readBackupKeyIds(path)) needed.add(keyId);
  }
  return needed;
}

/** Returns a store's path and those of the replaced stores next to it. */
async function listWithReplaced(storePath: string): Promise<string[]> {
  const names = (await listDirectory(dirname(storePath))) ?? [];
  const replaced = names.filter((name) => name.startsWith(`${basename(storePath)}.`));
  return [storePath, ...replaced.map((name) => join(dirname(storePath), name))];
}
