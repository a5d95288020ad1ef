/**
 * The backups in a folder, as their manifests say, and whether what they say can be believed.
 *
 * A manifest's `mac` takes the key of its backup, which costs a key derivation; so each key is derived once, from the
 * first backup of its `key_id` that opens, and serves all the others. Whether a backup's pages are sound is `verify`'s to
 * say: that means reading all of it.
 */
import { join } from "node:path";
import { bundleName, describeBundle } from "../bundle/bundle.js";
import { hasCode, StoreError } from "../errors.js";
import { listDirectory, statIfExists } from "../fs/read.js";
import { type PassphraseSource, readPassphrases } from "../keys/source.js";
import type { StoreKey } from "../store/cipher.js";
import {
  isNameOfBackup,
  type Manifest,
  manifestPath,
  readManifest,
  verifyManifestMac,
} from "./manifest.js";
import { openBackup } from "./verify.js";

export interface ListingOptions {
  /** Where the backups are. */
  readonly folder: string;
  /** The store's resolved path: its backups are named after it, and its passphrases open them. */
  readonly storePath: string;
  readonly source: PassphraseSource;
  /** Where bundles are; undefined if that is not known. */
  readonly bundleFolder?: string | undefined;
}

export interface ListedBackup {
  readonly path: string;
  readonly manifest: string;
  readonly created_at: string;
  readonly age_seconds: number;
  /** Bytes. */
  readonly size: number;
  readonly clients: { readonly active: number; readonly revoked: number };
  readonly key_id: string;
  readonly schema_version: number;
  readonly method: Manifest["method"];
  /** The machine that it was made on. */
  readonly hostname: string;
  /** Whether the file is there, with the size that the manifest says. */
  readonly present: boolean;
  /** Whether the manifest is as it was made; null if nothing that is kept here can tell. */
  readonly mac: boolean | null;
  /** The bundle for its key in the bundle folder; null if there is none. */
  readonly bundle: string | null;
}

/** What has a backup's name, and is none that can be listed. */
export interface Unlisted {
  readonly path: string;
  readonly problem: string;
}

export interface Listing {
  readonly folder: string;
  /** Newest first. */
  readonly backups: ListedBackup[];
  readonly others: Unlisted[];
  /** Why no manifest could be checked; null if they could. */
  readonly unchecked: StoreError | null;
}

/**
 * Lists the backups of a store. No file is changed.
 *
 * @throws StoreError `notFound` if there is no such folder, `io` if it cannot be read.
 */
export async function listBackups(options: ListingOptions): Promise<Listing> {
  const { folder, storePath, bundleFolder } = options;
  const names = (await namesInBackupDirectory(folder)).filter((name) =>
    isNameOfBackup(name, storePath),
  );
  const manifests: Manifest[] = [];
  const others: Unlisted[] = [];
  for (const name of names.filter((name) => name.endsWith(".manifest.json"))) {
    const path = join(folder, name);
    try {
      const manifest = await readManifest(path);
      if (manifestPath(join(folder, manifest.file)) === path) manifests.push(manifest);
      else others.push({ path, problem: `it is the manifest of ${manifest.file}` });
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      others.push({ path, problem: error.message });
    }
  }
  const described = new Set(manifests.map(({ file }) => file));
  for (const name of names) {
    if (!name.endsWith(".db") || described.has(name)) continue;
    others.push({ path: join(folder, name), problem: "it has no manifest" });
  }

  const keys = await BackupKeys.of(options);
  const bundles = new Map<string, string | null>();
  const backups: ListedBackup[] = [];
  const found = await Promise.all(
    manifests.map(async (manifest) => {
      const path = join(folder, manifest.file);
      return { manifest, path, present: await isFileOfSize(path, manifest.size) };
    }),
  );
  // The manifest of a file that is gone can be checked with a key from another.
  found.sort((a, b) => Number(b.present) - Number(a.present));
  for (const { manifest, path, present } of found) {
    const { created_at, size, clients, key_id, schema_version, method, hostname } = manifest;
    if (!bundles.has(key_id)) bundles.set(key_id, await bundleFor(key_id, bundleFolder));
    backups.push({
      path,
      manifest: manifestPath(path),
      created_at,
      age_seconds: Math.round((Date.now() - Date.parse(created_at)) / 1000),
      size,
      clients,
      key_id,
      schema_version,
      method,
      hostname,
      present,
      mac: await keys.holds(manifest, present ? path : undefined),
      bundle: bundles.get(key_id) ?? null,
    });
  }
  backups.sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
  return { folder, backups, others, unchecked: keys.unavailable };
}

/** A damaged file looks like one of an unknown passphrase, so one that does not open is not the last word on its key. */
const triesForAKey = 2;

/** The keys of backups, each derived when it is first needed. */
class BackupKeys {
  readonly #passphrases: readonly string[];
  readonly #storeKeys = new Map<string, StoreKey[]>();
  readonly #failures = new Map<string, number>();
  /** Why there are no passphrases. */
  readonly unavailable: StoreError | null;

  private constructor(passphrases: readonly string[], unavailable: StoreError | null) {
    this.#passphrases = passphrases;
    this.unavailable = unavailable;
  }

  static async of({ source, storePath }: ListingOptions): Promise<BackupKeys> {
    const passphrases: string[] = [];
    try {
      for await (const { passphrase } of readPassphrases(source, storePath)) {
        passphrases.push(passphrase);
      }
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      return new BackupKeys([], error);
    }
    return new BackupKeys(passphrases, null);
  }

  /** @param path the backup; undefined if it is gone, and only keys known from others can tell. */
  async holds(manifest: Manifest, path: string | undefined): Promise<boolean | null> {
    const known = this.#storeKeys.get(manifest.key_id) ?? [];
    if (known.some((key) => verifyManifestMac(manifest, key))) return true;
    const key = path === undefined ? undefined : await this.#keyOf(manifest.key_id, path);
    if (key === undefined) return known.length > 0 ? false : null;
    this.#storeKeys.set(manifest.key_id, [...known, key]);
    return verifyManifestMac(manifest, key);
  }

  async #keyOf(keyId: string, path: string): Promise<StoreKey | undefined> {
    const failures = this.#failures.get(keyId) ?? 0;
    if (failures >= triesForAKey) return undefined;
    for (const passphrase of this.#passphrases) {
      try {
        const { connection, key } = await openBackup(path, { passphrase });
        await connection.close();
        return key;
      } catch (error) {
        if (!(error instanceof StoreError)) throw error;
      }
    }
    this.#failures.set(keyId, failures + 1);
    return undefined;
  }
}

async function bundleFor(keyId: string, folder: string | undefined): Promise<string | null> {
  if (folder === undefined) return null;
  try {
    return (await describeBundle(join(folder, bundleName(keyId)))).path;
  } catch (error) {
    if (error instanceof StoreError) return null;
    throw error;
  }
}

/** A link in a circle is no reason not to list the other backups. */
async function isFileOfSize(path: string, size: number): Promise<boolean> {
  try {
    const stats = await statIfExists(path);
    return stats?.isFile() === true && stats.size === size;
  } catch (error) {
    if (error instanceof StoreError && hasCode(error.cause, "ELOOP")) return false;
    throw error;
  }
}

async function namesInBackupDirectory(path: string): Promise<string[]> {
  const names = await listDirectory(path);
  if (names !== undefined) return names;
  throw new StoreError("notFound", `no such file or directory: ${path}`, {
    hint: `Mount the disk of ${path} if it has one, or name the directory of the backups.`,
  });
}
