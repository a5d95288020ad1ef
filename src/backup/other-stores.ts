/**
 * The other stores of this machine, which may need the bundles in the directory of a store.
 *
 * A store that was restored from another store's backup has the key_id of that backup, so one
 * bundle opens both stores.
 */
import { isAbsolute } from "node:path";
import { expandPath, expandTarget } from "../config/paths.js";
import { loadStoreSections } from "../config/settings-file.js";
import { listStoresInKeyring, nameInSlot } from "../keys/keyring.js";
import type { PassphraseSource } from "../keys/source.js";
import { identify } from "../store/cipher.js";

export interface OtherStores {
  /** Their paths; the files may be missing. */
  readonly paths: string[];
  /** The key_ids, from the keyring, of stores with a missing file. */
  readonly keyIds: string[];
  /** The targets of the stores that may have bundles in this store's bundle directory. */
  readonly targets: string[];
}

export interface OwnStore {
  readonly storePath: string;
  readonly settingsPath: string;
  readonly source: PassphraseSource;
  /** The directory of the bundles. */
  readonly bundleFolder: string;
}

/**
 * Finds the other stores in the settings file, and in the keyring if the store uses it.
 *
 * @throws {@link StoreError} passphraseUnavailable - if the keyring cannot be read
 * @throws {@link StoreError} usage or io - if the settings or a store cannot be read
 */
export async function findOtherStores(own: OwnStore): Promise<OtherStores> {
  const sections = await loadStoreSections(own.settingsPath);
  const inSettings = sections.filter(([path]) => path !== own.storePath);
  const targets = inSettings.flatMap(([, { backup }]) =>
    sharesBundles(backup?.bundle_to, own) ? [backup?.to, ...(backup?.copies ?? [])] : [],
  );
  const inKeyring = await listOtherStoresInKeyring(own);
  return {
    paths: [...new Set([...inSettings, ...inKeyring].map(([path]) => path))],
    keyIds: inKeyring.flatMap(([, keyIds]) => keyIds),
    targets: targets.filter((target) => target !== undefined).map((target) => expandTarget(target)),
  };
}

function sharesBundles(bundleTo: string | undefined, { bundleFolder }: OwnStore): boolean {
  return bundleTo === undefined || expandPath(bundleTo) === bundleFolder;
}

/**
 * Returns the paths of stores, each with the key_ids of its derived keys if its file is missing.
 */
async function listOtherStoresInKeyring({
  storePath: own,
  source,
}: OwnStore): Promise<(readonly [string, string[]])[]> {
  if (source.kind !== "keyring") return [];
  const found: (readonly [string, string[]])[] = [];
  for (const { storePath, slots } of await listStoresInKeyring({ unlock: true })) {
    // Databases on Redis have entries, too, under a URL.
    if (storePath === own || !isAbsolute(storePath)) continue;
    const isMissing = (await identify(storePath)).format === "absent";
    const derived = slots.flatMap((slot) => nameInSlot(slot, "derived") ?? []);
    found.push([storePath, isMissing ? derived : []]);
  }
  return found;
}
