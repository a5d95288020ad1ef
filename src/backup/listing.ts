/**
 * Lists the backups in a directory by their manifests, and checks each manifest's MAC.
 *
 * Checking a MAC requires the backup's key, and deriving a key takes 200 ms or more. So each key is
 * derived only once, from a backup of its `key_id`. Nothing else of a backup is read here: see
 * `verify`.
 */
import { basename, join } from "node:path";
import { bundleName, describeBundle } from "../bundle/bundle.js";
import { readStoreId } from "../config/store-id.js";
import { hasCode, isKind, StoreError } from "../errors.js";
import { recogniseFile, withFileKind } from "../fs/file-kind.js";
import { listDirectory, lstatIfExists, statIfExists } from "../fs/read.js";
import { type PassphraseSource, readPassphrases } from "../keys/source.js";
import { identify, type StoreKey } from "../store/cipher.js";
import {
  backupOf,
  isNamedBy,
  isNameOfBackup,
  type Manifest,
  manifestPath,
  mayBelongTo,
  readManifest,
  verifyManifestMac,
} from "./manifest.js";
import type { NamedBackup } from "./name.js";
import { openBackup } from "./verify.js";

export interface ListingOptions {
  /** The directory of the backups. */
  readonly folder: string;
  /** The store's resolved path. Its backups are named after it, and its passphrases open them. */
  readonly storePath: string;
  readonly source: PassphraseSource;
  /** The directory of the bundles; undefined if unknown. */
  readonly bundleFolder?: string | undefined;
}

export interface ListedBackup extends Omit<NamedBackup, "sha256"> {
  readonly ageSeconds: number;
  /** The machine that made the backup. */
  readonly hostname: string;
  /** The id of its store; null for a backup of an earlier version. */
  readonly storeId: string | null;
  /** Whether the file exists and has the size in the manifest. */
  readonly present: boolean;
  /** Whether the manifest's MAC is right; null if no known key can check it. */
  readonly mac: boolean | null;
  /** The bundle of its key in the bundle directory; null if there is none that can be read. */
  readonly bundle: string | null;
}

/** A file of a backup that does not count or could not be removed, and why. */
export interface FileProblem {
  readonly path: string;
  readonly problem: string;
}

export interface Listing {
  readonly folder: string;
  /** Newest first. */
  readonly backups: ListedBackup[];
  readonly others: FileProblem[];
  /** The number of backups left out because they have the id of another store. */
  readonly ofOtherStores: number;
  /** The error if no passphrase is known, so that no manifest can be checked; otherwise null. */
  readonly unchecked: StoreError | null;
}

/**
 * Lists the backups of a store. Changes no file.
 *
 * @throws {@link StoreError} notFound - if the directory does not exist
 * @throws {@link StoreError} io - if the directory cannot be read
 */
export async function listBackups(options: ListingOptions): Promise<Listing> {
  const { folder, storePath, bundleFolder } = options;
  const names = (await listBackupDirectory(folder)).filter((name) =>
    isNameOfBackup(name, storePath),
  );
  const { manifests, others, ...found } = await findManifests(folder, names, storePath);
  let { ofOtherStores } = found;

  const keys = await BackupKeys.load(options);
  const bundles = new Map<string, string | null>();
  const backups: ListedBackup[] = [];
  const inspected = await Promise.all(
    manifests.map(async (each) => ({
      ...each,
      present: await isFileOfSize(each.path, each.manifest.size),
    })),
  );
  // Begin with the complete backups: their keys also check the manifests of the others.
  inspected.sort((a, b) => Number(b.present) - Number(a.present));
  for (const { manifest, path, present, isOfAnother } of inspected) {
    const mac = await keys.checkMac(manifest, present ? path : undefined);
    // A manifest with this store's key_id and a wrong MAC was altered, so its id proves nothing.
    if (isOfAnother && mac !== false) {
      ofOtherStores += 1;
      continue;
    }
    const { created_at: createdAt, key_id: keyId, size, clients, method, hostname } = manifest;
    if (!bundles.has(keyId)) bundles.set(keyId, await findBundle(keyId, bundleFolder));
    backups.push({
      path,
      manifest: manifestPath(path),
      createdAt,
      ageSeconds: Math.round((Date.now() - Date.parse(createdAt)) / 1000),
      size,
      clients,
      keyId,
      schemaVersion: manifest.schema_version,
      method,
      hostname,
      storeId: manifest.store_id ?? null,
      present,
      mac,
      bundle: bundles.get(keyId) ?? null,
    });
  }
  backups.sort((a, b) => Date.parse(b.createdAt) - Date.parse(a.createdAt));
  return { folder, backups, others, ofOtherStores, unchecked: keys.unavailable };
}

interface FoundManifest {
  readonly manifest: Manifest;
  /** The path of its backup. */
  readonly path: string;
  /**
   * Whether the manifest has another store's id, but this store's key_id: a copy of the store made
   * the backup, or the manifest was altered.
   */
  readonly isOfAnother: boolean;
}

interface FoundManifests {
  readonly manifests: FoundManifest[];
  readonly others: FileProblem[];
  readonly ofOtherStores: number;
}

/** Manifests that are read at a time. A target may have the manifests of a thousand stores. */
const readsAtOnce = 32;

async function findManifests(
  folder: string,
  names: readonly string[],
  storePath: string,
): Promise<FoundManifests> {
  const own = await readStoreId(storePath);
  const { keyId: ownKeyId } = await identify(storePath);
  const manifests: FoundManifest[] = [];
  const others: FileProblem[] = [];
  const described = new Set<string>();
  let ofOtherStores = 0;
  const manifestNames = names.filter((name) => name.endsWith(".manifest.json"));
  for (let at = 0; at < manifestNames.length; at += readsAtOnce) {
    const group = manifestNames.slice(at, at + readsAtOnce);
    for (const found of await Promise.all(group.map((name) => readNamedManifest(folder, name)))) {
      if (found === undefined) continue;
      if ("problem" in found) {
        others.push(found);
        continue;
      }
      described.add(basename(found.path));
      const isOfAnother = !mayBelongTo(found.manifest, own?.id);
      if (isOfAnother && found.manifest.key_id !== ownKeyId) ofOtherStores += 1;
      else manifests.push({ ...found, isOfAnother });
    }
  }
  for (const name of names) {
    if (!name.endsWith(".db") || described.has(name)) continue;
    others.push({ path: join(folder, name), problem: "the backup has no manifest" });
  }
  return { manifests, others, ofOtherStores };
}

/**
 * Reads a manifest, which must be named after its backup.
 *
 * @returns the manifest with its backup's path; undefined if the manifest was removed after the
 *   listing of the directory, for example because another hub has pruned it
 */
export async function readNamedManifest(
  folder: string,
  name: string,
): Promise<Pick<FoundManifest, "manifest" | "path"> | FileProblem | undefined> {
  const path = join(folder, name);
  try {
    const manifest = await readManifest(path);
    if (isNamedBy(backupOf(name), manifest)) return { manifest, path: backupOf(path) };
    return { path, problem: `the manifest belongs to ${manifest.file}` };
  } catch (error) {
    if (isKind(error, "notFound")) return undefined;
    if (!(error instanceof StoreError)) throw error;
    return { path, problem: error.message };
  }
}

/**
 * The number of backups of a key_id that are tried. A damaged backup cannot be distinguished from a
 * backup of an unknown passphrase, so the next backup is tried after a failure.
 */
const maxKeyFailures = 2;

/** Derives the keys of backups when they are first needed, and caches them. */
class BackupKeys {
  readonly #passphrases: readonly string[];
  readonly #knownKeys = new Map<string, StoreKey[]>();
  readonly #failures = new Map<string, number>();
  /** The error if no passphrase is known; otherwise null. */
  readonly unavailable: StoreError | null;

  private constructor(passphrases: readonly string[], unavailable: StoreError | null) {
    this.#passphrases = passphrases;
    this.unavailable = unavailable;
  }

  static async load({ source, storePath }: ListingOptions): Promise<BackupKeys> {
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

  /**
   * Checks a manifest's MAC.
   *
   * @param path - the backup, to derive its key; undefined if it is missing
   * @returns null if no key is known
   */
  async checkMac(manifest: Manifest, path: string | undefined): Promise<boolean | null> {
    const known = this.#knownKeys.get(manifest.key_id) ?? [];
    if (known.some((key) => verifyManifestMac(manifest, key))) return true;
    const key = path === undefined ? undefined : await this.#deriveKey(manifest.key_id, path);
    if (key === undefined) return known.length > 0 ? false : null;
    this.#knownKeys.set(manifest.key_id, [...known, key]);
    return verifyManifestMac(manifest, key);
  }

  async #deriveKey(keyId: string, path: string): Promise<StoreKey | undefined> {
    const failures = this.#failures.get(keyId) ?? 0;
    if (failures >= maxKeyFailures) return undefined;
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

async function findBundle(keyId: string, directory: string | undefined): Promise<string | null> {
  if (directory === undefined) return null;
  try {
    return (await describeBundle(join(directory, bundleName(keyId)))).path;
  } catch (error) {
    if (error instanceof StoreError) return null;
    throw error;
  }
}

/** Returns false for a circular symbolic link: an error would hide the other backups. */
async function isFileOfSize(path: string, size: number): Promise<boolean> {
  try {
    const stats = await statIfExists(path);
    return stats?.isFile() === true && stats.size === size;
  } catch (error) {
    if (error instanceof StoreError && hasCode(error.cause, "ELOOP")) return false;
    throw error;
  }
}

async function listBackupDirectory(path: string): Promise<string[]> {
  const names = await listDirectory(path);
  if (names !== undefined) return names;
  if (await lstatIfExists(path)) {
    const error = new StoreError("notFound", `${path} is not a directory`, {
      hint: "Name the directory of the backups.",
    });
    throw withFileKind(error, await recogniseFile(path), []);
  }
  throw new StoreError("notFound", `no such file or directory: ${path}`, {
    hint: `Mount the disk of ${path} if it has one, or name the directory of the backups.`,
  });
}
