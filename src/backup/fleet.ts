/**
 * Lists the stores of a fleet: all stores with backups in a target shared by several hubs.
 *
 * A target may have tens of thousands of backups, so only a summary of each store stays in memory.
 */
import { join } from "node:path";
import { inBatches } from "../client/batches.js";
import type { ClientCounts } from "../client/client.js";
import { readStoreId } from "../config/store-id.js";
import { StoreError } from "../errors.js";
import { listDirectory, statIfExists } from "../fs/read.js";
import { describeFailure, type FileProblem, readNamedManifest, readsAtOnce } from "./listing.js";
import { backupOf, type Manifest, manifestPath, storeNameIn } from "./manifest.js";

/** The files of a target. The manifests of a remote are in a directory on this machine. */
export interface FleetFiles {
  /** The directory with the manifests. */
  readonly folder: string;
  names(): Promise<readonly string[]>;
  /** Returns a file's size in bytes, or undefined if there is no such file. */
  sizeOf(name: string): Promise<number | undefined>;
  /** @throws {@link StoreError} io - if this machine has no space for what `withFile` needs */
  assertFits(name: string): Promise<void>;
  /** Makes a whole file readable for the duration of `use`. */
  withFile<Result>(name: string, use: (path: string) => Promise<Result>): Promise<Result>;
}

/** The backups of one store in a target. */
export interface FleetStore {
  /** Null for backups of earlier versions. Those of one name and key_id count as a store. */
  readonly storeId: string | null;
  /** The name of the store's file without `.db`. */
  readonly name: string;
  /** Sorted. */
  readonly keyIds: readonly string[];
  /** The machines of the backups, sorted. */
  readonly hostnames: readonly string[];
  readonly backups: number;
  /** The number of manifests with a missing file, or with a file of another size. */
  readonly incomplete: number;
  /** Bytes of the complete backups. */
  readonly size: number;
  readonly oldest: string;
  /** The newest backup. Its manifest is not authenticated. */
  readonly newest: {
    readonly path: string;
    readonly createdAt: string;
    readonly ageSeconds: number;
    readonly clients: ClientCounts;
  };
  /** When the newest of the complete backups was made; null if none is complete. */
  readonly newestCompleteAt: string | null;
  readonly own: boolean;
}

export interface FleetListing {
  readonly folder: string;
  /** By name, then the newest backup first. */
  readonly stores: FleetStore[];
  /** Files with a backup's name, but not its contents; at most 100. */
  readonly others: FileProblem[];
  /** The number of all such files. */
  readonly othersCount: number;
  /**
   * How many such files are manifests. The others are backups without a manifest: unfinished
   * copies.
   */
  readonly unreadableManifests: number;
}

const maxOthers = 100;

/**
 * Returns the files of a directory on this machine.
 *
 * @throws {@link StoreError} notFound - from `names`, if the directory does not exist
 */
export function directoryFiles(folder: string): FleetFiles {
  return {
    folder,
    names: async () => {
      const names = await listDirectory(folder);
      if (names !== undefined) return names;
      throw new StoreError("notFound", `no such directory: ${folder}`, {
        hint: "Mount its disk, or name the directory of the backups.",
      });
    },
    sizeOf: async (name) => {
      const stats = await statIfExists(join(folder, name));
      return stats?.isFile() ? stats.size : undefined;
    },
    assertFits: async () => undefined,
    withFile: (name, use) => use(join(folder, name)),
  };
}

export interface FleetEntry {
  /** The backup's name in the target. */
  readonly file: string;
  readonly manifest: Manifest;
}

/**
 * Lists the stores with backups in a target. Reads only manifests and does not authenticate them.
 *
 * @param storePath - the command's own store
 * @throws {@link StoreError} notFound, io - if the target does not exist or cannot be read
 */
export async function listFleet(files: FleetFiles, storePath: string): Promise<FleetListing> {
  const { folder } = files;
  const own = await readStoreId(storePath);
  const summaries = new Map<string, Summary>();
  const others: FileProblem[] = [];
  let othersCount = 0;
  let unreadableManifests = 0;
  for await (const names of inBatches(await files.names(), readsAtOnce)) {
    for (const listed of await Promise.all(names.map((name) => readListed(name, files)))) {
      if (listed === undefined) continue;
      if ("problem" in listed) {
        othersCount += 1;
        if (listed.path.endsWith(".manifest.json")) unreadableManifests += 1;
        if (others.length < maxOthers) others.push(listed);
      } else addToSummary(summaries, listed);
    }
  }
  const stores = [...summaries.values()].map((summary) => toFleetStore(summary, folder, own?.id));
  stores.sort(
    (a, b) => compareTexts(a.name, b.name) || compareTexts(b.newest.createdAt, a.newest.createdAt),
  );
  others.sort((a, b) => compareTexts(a.path, b.path));
  return { folder, stores, others, othersCount, unreadableManifests };
}

interface ListedEntry extends FleetEntry {
  /** Whether the backup exists with the size in its manifest. */
  readonly isComplete: boolean;
}

/** Reads a backup's manifest, or reports why the file is left out. */
async function readListed(
  name: string,
  files: FleetFiles,
): Promise<ListedEntry | FileProblem | undefined> {
  const entry = await readNamed(name, files).catch(describeFailure(files.folder, name));
  if (entry === undefined || "problem" in entry) return entry;
  return { ...entry, isComplete: (await files.sizeOf(entry.file)) === entry.manifest.size };
}

/** Reads a manifest, or reports a backup without a manifest. */
async function readNamed(
  name: string,
  files: FleetFiles,
): Promise<FleetEntry | FileProblem | undefined> {
  if (storeNameIn(name) === undefined || !name.endsWith(".db")) return await readEntry(name, files);
  if ((await files.sizeOf(manifestPath(name))) !== undefined) return undefined;
  return { path: join(files.folder, name), problem: "the backup has no manifest" };
}

/**
 * Reads a manifest.
 *
 * @returns undefined for any other file
 * @throws {@link StoreError} corrupted, newerVersion, io - from `readNamedManifest`
 */
export async function readEntry(name: string, files: FleetFiles): Promise<FleetEntry | undefined> {
  if (storeNameIn(name) === undefined || !name.endsWith(".manifest.json")) return undefined;
  const found = await readNamedManifest(files.folder, name);
  return found && { file: backupOf(name), manifest: found.manifest };
}

interface Summary {
  readonly storeId: string | null;
  readonly name: string;
  readonly keyIds: Set<string>;
  readonly hostnames: Set<string>;
  backups: number;
  incomplete: number;
  size: number;
  oldest: string;
  newest: FleetEntry;
  newestCompleteAt: string | null;
}

/** Returns the key of a store in a map of summaries or verdicts. */
export function summaryKey(storeId: string | null, keyId: string | null, name: string): string {
  return storeId ?? `${keyId} ${name}`;
}

function addToSummary(summaries: Map<string, Summary>, entry: ListedEntry): void {
  const { file, manifest, isComplete } = entry;
  const { store_id: storeId = null } = manifest;
  const name = storeNameIn(file) ?? "";
  const key = summaryKey(storeId, manifest.key_id, name);
  const summary = summaries.get(key) ?? {
    storeId,
    name,
    keyIds: new Set<string>(),
    hostnames: new Set<string>(),
    backups: 0,
    incomplete: 0,
    size: 0,
    oldest: manifest.created_at,
    newest: entry,
    newestCompleteAt: null,
  };
  summaries.set(key, summary);
  summary.keyIds.add(manifest.key_id);
  summary.hostnames.add(manifest.hostname);
  summary.backups += 1;
  if (isComplete) {
    summary.size += manifest.size;
    const newest = summary.newestCompleteAt;
    if (newest === null || manifest.created_at > newest) {
      summary.newestCompleteAt = manifest.created_at;
    }
  } else summary.incomplete += 1;
  if (manifest.created_at < summary.oldest) summary.oldest = manifest.created_at;
  if (manifest.created_at > summary.newest.manifest.created_at) summary.newest = entry;
}

function toFleetStore(summary: Summary, folder: string, ownId: string | undefined): FleetStore {
  const { storeId, newest, keyIds, hostnames, ...others } = summary;
  const { created_at: createdAt, clients } = newest.manifest;
  return {
    storeId,
    ...others,
    keyIds: [...keyIds].sort(),
    hostnames: [...hostnames].sort(),
    newest: {
      path: join(folder, newest.file),
      createdAt,
      ageSeconds: Math.round((Date.now() - Date.parse(createdAt)) / 1000),
      clients,
    },
    own: storeId !== null && storeId === ownId,
  };
}

export function compareTexts(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
