/** Chooses the store id of a new backup's manifest: see config/store-id.ts. */
import { hostname } from "node:os";
import { join } from "node:path";
import { readStoreId, recordStoreId } from "../config/store-id.js";
import { listDirectory } from "../fs/read.js";
import { keyIdOf, type StoreKey } from "../store/cipher.js";
import { isNameOfBackup, type Manifest, readManifest, verifyManifestMac } from "./manifest.js";

export interface StoreIdentity {
  readonly storePath: string;
  /** The directory of the backups. */
  readonly directory: string;
  readonly key: StoreKey;
}

/**
 * Returns the id for a new backup. Generates and records an id if the store has none.
 *
 * If this machine's record is lost, the id is that of the newest authentic backup. If another
 * machine made that backup, this store may be a copy of the other machine's store, and `prune` must
 * not count their backups together. So the new backup gets no id, and `prune` asks, as it does for
 * the backups of earlier versions. A store that moves to another machine by `restore` keeps its id.
 *
 * @returns undefined if another machine has the id, or the state directory cannot be written
 * @throws {@link StoreError} io - if the directory or the record cannot be read
 */
export async function chooseStoreId(store: StoreIdentity): Promise<string | undefined> {
  const known = await readStoreId(store.storePath);
  if (known) return known.id;
  const newest = await findNewestWithId(store);
  if (newest && newest.hostname !== hostname()) return undefined;
  return (await recordStoreId(store.storePath, newest?.store_id))?.id;
}

/** Returns the newest manifest with an id and a signature of the store's key. */
async function findNewestWithId({
  storePath,
  directory,
  key,
}: StoreIdentity): Promise<Manifest | undefined> {
  let newest: Manifest | undefined;
  for (const name of (await listDirectory(directory)) ?? []) {
    if (!isNameOfBackup(name, storePath) || !name.endsWith(".manifest.json")) continue;
    const manifest = await readManifest(join(directory, name)).catch(() => undefined);
    if (manifest?.store_id === undefined || manifest.key_id !== keyIdOf(key.salt)) continue;
    if (newest && newest.created_at >= manifest.created_at) continue;
    if (verifyManifestMac(manifest, key)) newest = manifest;
  }
  return newest;
}
