/**
 * Lists the backups in a directory by their manifests, and checks each manifest's MAC.
 *
 * Checking a MAC requires the backup's key, and deriving a key takes 200 ms or more. So each key is
 * derived only once, from a backup of its `key_id`. Nothing else of a backup is read here: see
 * `verify`.
 */
import { basename, join } from "node:path";
import { describeBundle } from "../bundle/bundle.js";
import { readStoreId } from "../config/store-id.js";
import { hasCode, ignoreKind, StoreError } from "../errors.js";
import { recogniseFile, withFileKind } from "../fs/file-kind.js";
import { listDirectory, lstatIfExists, statIfExists } from "../fs/read.js";
import { bundleName } from "../keys/bundle-name.js";
import { type PassphraseSource, readPassphrases } from "../keys/source.js";
import { mapInGroups } from "../process/groups.js";
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
import { unlockBackup } from "./verify.js";

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
  /** The bundle of its key in the bundle directory; null if it is missing or unreadable. */
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
  const { manifests, others } = await readManifests(folder, names);
  const own = await readStoreId(storePath);
  const { keyId: ownKeyId } = await identify(storePath);
  const keys = await BackupKeys.load(options);
  const bundles = new Map<string, string | null>();
  const backups: ListedBackup[] = [];
  let ofOtherStores = 0;
  for (const { manifest, path, present } of manifests) {
    const { created_at: createdAt, key_id: keyId, size, clients, method, hostname } = manifest;
    const isOfAnother = !mayBelongTo(manifest, own?.id);
    if (isOfAnother && keyId !== ownKeyId) {
      ofOtherStores += 1;
      continue;
    }
    const mac = await keys.checkMac(manifest, present ? path : undefined);
    // A copy of the store made a backup with another id and a right MAC. If the MAC is wrong, the
    // manifest was altered, so its id proves nothing.
    if (isOfAnother && mac !== false) {
      ofOtherStores += 1;
      continue;
    }
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

/** Manifests that are read at a time. A target may have the manifests of a thousand stores. */
export const readsAtOnce = 32;

/**
 * Reads the manifests among the files of backups.
 *
 * @returns the manifests, and the files that belong to none. The manifests of complete backups are
 *   first: the keys of these backups also check the other manifests.
 */
async function readManifests(folder: string, names: readonly string[]) {
  const manifestNames = names.filter((name) => name.endsWith(".manifest.json"));
  const found = await mapInGroups(manifestNames, readsAtOnce, async (name) => {
    const read = await readNamedManifest(folder, name).catch(describeFailure(folder, name));
    if (read === undefined || "problem" in read) return read;
    return { ...read, present: await isFileOfSize(read.path, read.manifest.size) };
  });
  const manifests = found.filter((each) => each !== undefined && "manifest" in each);
  const problems = found.filter((each) => each !== undefined && "problem" in each);
  manifests.sort((a, b) => Number(b.present) - Number(a.present));
  const described = new Set(manifests.map(({ path }) => basename(path)));
  const undescribed = names
    .filter((name) => name.endsWith(".db") && !described.has(name))
    .map((name) => ({ path: join(folder, name), problem: "the backup has no manifest" }));
  return { manifests, others: [...problems, ...undescribed] };
}

/**
 * Reads a manifest. It must be named after its backup.
 *
 * @returns the manifest with its backup's path; undefined if the manifest was removed after the
 *   listing of the directory, for example because another hub has pruned it
 * @throws {@link StoreError} corrupted - if the manifest is damaged or belongs to another backup
 * @throws {@link StoreError} newerVersion, io - if the manifest cannot be read
 */
export async function readNamedManifest(
  folder: string,
  name: string,
): Promise<{ manifest: Manifest; path: string } | undefined> {
  const path = join(folder, name);
  const manifest = await readManifest(path).catch(ignoreKind("notFound", undefined));
  if (manifest === undefined) return undefined;
  if (isNamedBy(backupOf(name), manifest)) return { manifest, path: backupOf(path) };
  throw new StoreError("corrupted", `the manifest belongs to ${manifest.file}`);
}

/** Returns a handler for `catch` that returns why a file is left out. */
export function describeFailure(folder: string, name: string): (error: unknown) => FileProblem {
  return (error) => {
    if (!(error instanceof StoreError)) throw error;
    return { path: join(folder, name), problem: error.message };
  };
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
        return (await unlockBackup(path, { passphrase })).key;
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
