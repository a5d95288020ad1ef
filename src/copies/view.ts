/**
 * Shows a remote as a private directory, for the code that lists, verifies and restores backups in
 * directories.
 *
 * The directory has the manifests. In the view of one store's backups (`withView`), it also has a
 * sparse file for each backup, as large as the backup. For the backups in `heads`, the first page
 * is downloaded: it contains the salt, and is enough to derive the key that checks a manifest.
 * Results and errors name the remote, not the directory.
 */
import { open, readFile, rename, rm } from "node:fs/promises";
import { basename, dirname, extname, join } from "node:path";
import { type BackupFiles, localFiles } from "../backup/backup-files.js";
import { directoryFiles, type FleetFiles } from "../backup/fleet.js";
import {
  backupOf,
  isNameOfBackup,
  type Manifest,
  manifestPath,
  mayBelongTo,
  readManifestIfValid,
} from "../backup/manifest.js";
import { findParts, joinParts } from "../backup/parts.js";
import { isRemote } from "../config/paths.js";
import { readStoreId } from "../config/store-id.js";
import { StoreError, systemError, wrap } from "../errors.js";
import { assertFreeSpace, copyFile } from "../fs/copy.js";
import { listDirectory, lstatIfExists, statIfExists } from "../fs/read.js";
import { mapInGroups } from "../process/groups.js";
import { abortOnSignal } from "../process/signals.js";
import { withTemporaryDirectory } from "../process/temporary-directory.js";
import type { Reporter } from "../reporter.js";
import { keyIdOf } from "../store/cipher.js";
import { saltBytes } from "../store/page-cipher.js";
import { shellQuote } from "../text/escape.js";
import { RemoteTarget } from "./remote.js";
import type { TargetFiles } from "./target.js";

/** Enough for the first page of every page size that SQLite knows. */
const headBytes = 65_536;

/** The number of backups of each key_id from which the listing tries to derive the key. */
const headsPerKey = 2;

/** The maximum number of concurrent downloads, each by a process of rclone. */
const downloadsAtOnce = 4;

const spaceHint = "Free some space there, or name another directory: TMPDIR=DIRECTORY";

export interface View {
  /** The directory: that of the target, or the private directory that shows a remote. */
  readonly folder: string;
  /** Reads and removes the backups in the directory. */
  readonly files: BackupFiles;
  /** Replaces the path of the private directory with the target, in every text of a value. */
  readonly translatePaths: <Value>(value: Value) => Value;
}

/**
 * Shows a directory or a remote as a directory of a store's backups.
 *
 * @param target - a directory, or `rclone:REMOTE:PATH`
 * @param heads - for which backups of a remote the first page is downloaded
 * @throws {@link StoreError} notFound, io - if the remote does not exist or cannot be read
 */
export async function withView<Result>(
  target: string,
  { storePath, heads }: { storePath: string; heads: "two of each key" | "all" },
  use: (view: View) => Promise<Result>,
): Promise<Result> {
  if (!isRemote(target)) {
    return await use({ folder: target, files: localFiles, translatePaths: (value) => value });
  }
  const remote = new RemoteTarget(target);
  return await inPrivateDirectory(remote.name, async (folder, translatePaths) => {
    const stem = basename(storePath, extname(storePath));
    await remote.downloadSmall(`${stem}.`, ".manifest.json", folder);
    const targetFiles = await remote.list();
    const backups = await findOwnBackups(folder, targetFiles, storePath);
    const names = [...backups.keys()];
    const withHead = new Set(heads === "all" ? names : chooseHeads(backups, targetFiles));
    await mapInGroups(names, downloadsAtOnce, async (name) => {
      const path = join(folder, name);
      if (withHead.has(name)) await remote.download(name, path, headBytes);
      await setSize(path, targetFiles.get(name) ?? 0);
    });
    return await use({ folder, files: remoteFiles(remote, targetFiles), translatePaths });
  });
}

/**
 * Shows a directory or a remote as the files of a fleet. From a remote, downloads all manifests
 * first, and each backup only for as long as it is used.
 *
 * @param target - a directory, or `rclone:REMOTE:PATH`
 * @throws {@link StoreError} notFound, io - if the remote does not exist or cannot be read
 */
export async function withFleet<Result>(
  target: string,
  use: (files: FleetFiles, translatePaths: View["translatePaths"]) => Promise<Result>,
): Promise<Result> {
  if (!isRemote(target)) return await use(directoryFiles(target), (value) => value);
  const remote = new RemoteTarget(target);
  return await inPrivateDirectory(remote.name, async (folder, translatePaths) => {
    await remote.downloadSmall("", ".manifest.json", folder);
    return await use(remoteFleet(remote, folder, await remote.list()), translatePaths);
  });
}

/**
 * Returns the key_ids of the backups on remotes, from their manifests. If a manifest is missing or
 * invalid, downloads the salt of the backup.
 *
 * @param except - the path of a store. Its backups are left out, because the caller finds them
 *   with {@link withView}
 * @throws {@link StoreError} notFound, io - if a remote does not exist or cannot be read
 */
export async function readKeyIds(
  targets: readonly string[],
  { except }: { except?: string } = {},
): Promise<string[]> {
  const keyIds = targets.map((target) => readKeyIdsOf(new RemoteTarget(target), except));
  return (await Promise.all(keyIds)).flat();
}

async function readKeyIdsOf(remote: RemoteTarget, except: string | undefined): Promise<string[]> {
  return await inPrivateDirectory(remote.name, async (folder) => {
    await remote.downloadSmall("", ".manifest.json", folder);
    const described = ((await listDirectory(folder)) ?? []).map(backupOf);
    const targetFiles = await remote.list();
    const present = [...targetFiles.keys()].filter((name) => name.endsWith(".db"));
    const names = new Set([...described, ...present]);
    const excepted = except === undefined ? [] : await findOwnBackups(folder, targetFiles, except);
    for (const [name] of excepted) names.delete(name);
    const keyIds = await mapInGroups([...names], downloadsAtOnce, async (name) => {
      const manifest = await readManifestIfValid(manifestPath(join(folder, name)));
      if (manifest !== undefined || !targetFiles.has(name)) return manifest?.key_id;
      const path = join(folder, name);
      await remote.download(name, path, saltBytes);
      return keyIdOf(await readFile(path));
    });
    return keyIds.filter((keyId) => keyId !== undefined);
  });
}

function remoteFleet(remote: RemoteTarget, folder: string, targetFiles: TargetFiles): FleetFiles {
  return {
    folder,
    names: async () => [...targetFiles.keys()],
    sizeOf: async (name) => targetFiles.get(name),
    assertFits: (name) => assertFreeSpace(folder, targetFiles.get(name) ?? 0, name, spaceHint),
    withFile: async (name, use) => {
      const path = join(folder, name);
      await downloadWhole(remote, path, targetFiles);
      try {
        return await use(path);
      } finally {
        await rm(path, { force: true });
      }
    },
  };
}

/**
 * Runs `use` with a local path of a backup or bundle. In a private directory, downloads a file of a
 * remote and its manifest, or joins the parts of a backup that `export --split` wrote. Any other
 * local file keeps its path.
 */
export async function withLocalFile<Result>(
  path: string,
  use: (path: string, translatePaths: View["translatePaths"]) => Promise<Result>,
): Promise<Result> {
  if (!isRemote(path)) {
    const parts = await findParts(path);
    return parts.length > 0
      ? await withJoinedParts(path, parts, use)
      : await use(path, (value) => value);
  }
  const slash = Math.max(path.lastIndexOf("/"), path.lastIndexOf(":"));
  const remote = new RemoteTarget(path.slice(0, slash + 1));
  const name = path.slice(slash + 1);
  return await inPrivateDirectory(remote.name, async (folder, translatePaths) => {
    const targetFiles = await remote.list();
    if (!targetFiles.has(name)) {
      throw new StoreError("notFound", `no such file: ${path}`, {
        hint: `List the backups: hivemind-sqlcipher backups ${shellQuote(remote.name)}`,
      });
    }
    const local = join(folder, name);
    await downloadWhole(remote, local, targetFiles);
    const manifest = manifestPath(name);
    if (name.endsWith(".db") && targetFiles.has(manifest)) {
      await remote.download(manifest, join(folder, manifest));
    }
    return await use(local, translatePaths);
  });
}

async function withJoinedParts<Result>(
  path: string,
  parts: readonly string[],
  use: (path: string, translatePaths: View["translatePaths"]) => Promise<Result>,
): Promise<Result> {
  return await inPrivateDirectory(dirname(path), async (folder, translatePaths) => {
    const local = join(folder, basename(path));
    const sizes = await Promise.all(parts.map(async (part) => (await statIfExists(part))?.size));
    const size = sizes.reduce<number>((sum, each = 0) => sum + each, 0);
    await assertFreeSpace(folder, size, basename(path), spaceHint);
    await joinParts(parts, local);
    const manifest = manifestPath(path);
    if (await lstatIfExists(manifest)) await copyFile(manifest, manifestPath(local));
    return await use(local, translatePaths);
  });
}

/** Returns a reporter that replaces the private directory's path with the target in every text. */
export function createTargetReporter(
  reporter: Reporter,
  { translatePaths }: Pick<View, "translatePaths">,
): Reporter {
  const confirmOnTerminal = reporter.confirmOnTerminal?.bind(reporter);
  return {
    notice: (text) => reporter.notice(translatePaths(text)),
    detail: (text) => reporter.detail(translatePaths(text)),
    confirm: (question) => reporter.confirm(translatePaths(question)),
    ...(confirmOnTerminal && {
      confirmOnTerminal: (question: string) => confirmOnTerminal(translatePaths(question)),
    }),
  };
}

/**
 * Runs `use` with a new directory in `$TMPDIR`, mode 0700, and removes the directory, also after
 * SIGINT, SIGTERM or SIGHUP, which abort `use` and its downloads.
 */
async function inPrivateDirectory<Result>(
  name: string,
  use: (folder: string, translatePaths: View["translatePaths"]) => Promise<Result>,
): Promise<Result> {
  return await withTemporaryDirectory("hivemind-sqlcipher-view", async (folder) => {
    const translatePaths: View["translatePaths"] = (value) => replacePath(value, folder, name);
    try {
      return await abortOnSignal(() => use(folder, translatePaths));
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      const { message, hint } = error;
      throw wrap(error, { message: translatePaths(message), hint: translatePaths(hint) });
    }
  });
}

function replacePath<Value>(value: Value, folder: string, name: string): Value {
  const convert = (each: unknown): unknown => {
    if (typeof each === "string") {
      // No slash follows the colon of a remote: rclone:nas: contains rclone:nas:clients.db.
      const prefix = /[:/]$/.test(name) ? name : `${name}/`;
      return each.replaceAll(`${folder}/`, prefix).replaceAll(folder, name);
    }
    if (Array.isArray(each)) return each.map(convert);
    if (typeof each !== "object" || each === null || each instanceof Error) return each;
    return Object.fromEntries(Object.entries(each).map(([key, item]) => [key, convert(item)]));
  };
  return convert(value) as Value;
}

/**
 * Returns the backups that may belong to the store, by name, with their manifests. The backups of
 * other stores get no file in the directory, because a remote may have thousands: the listing needs
 * only their manifests.
 */
async function findOwnBackups(
  folder: string,
  targetFiles: TargetFiles,
  storePath: string,
): Promise<Map<string, Manifest | undefined>> {
  const id = (await readStoreId(storePath))?.id;
  const own = new Map<string, Manifest | undefined>();
  for (const name of [...targetFiles.keys()].sort()) {
    if (!isNameOfBackup(name, storePath) || !name.endsWith(".db")) continue;
    const manifest = await readManifestIfValid(manifestPath(join(folder, name)));
    if (manifest === undefined || mayBelongTo(manifest, id)) own.set(name, manifest);
  }
  return own;
}

/** Frees the space of a downloaded backup except its first page. The file keeps its size. */
async function keepHead(path: string, targetFiles: TargetFiles): Promise<void> {
  const size = targetFiles.get(basename(path)) ?? 0;
  await setSize(path, Math.min(size, headBytes));
  await setSize(path, size);
}

/** Sets the size of a file without writing to the disk. Creates a missing file. */
async function setSize(path: string, size: number): Promise<void> {
  try {
    await using file = await open(path, "a", 0o600);
    await file.truncate(Math.max(size, 0));
  } catch (error) {
    throw systemError(error, `cannot create ${path}`);
  }
}

/**
 * Returns the first `headsPerKey` backups of each key_id. Leaves out a backup if its size differs
 * from the size in its manifest.
 */
function chooseHeads(
  backups: ReadonlyMap<string, Manifest | undefined>,
  targetFiles: TargetFiles,
): string[] {
  const counts = new Map<string, number>();
  return [...backups].flatMap(([name, manifest]) => {
    if (manifest === undefined || manifest.size !== targetFiles.get(name)) return [];
    const count = counts.get(manifest.key_id) ?? 0;
    counts.set(manifest.key_id, count + 1);
    return count < headsPerKey ? [name] : [];
  });
}

/** Downloads a file to a path with the same name, and replaces the sparse file of `withView`. */
async function downloadWhole(
  remote: RemoteTarget,
  path: string,
  targetFiles: TargetFiles,
): Promise<void> {
  const file = basename(path);
  await assertFreeSpace(dirname(path), targetFiles.get(file) ?? 0, file, spaceHint);
  await remote.download(file, `${path}.whole`);
  await rename(`${path}.whole`, path);
}

/** Removes a file of a remote. Another program may have removed it since the listing. */
async function removeIfPresent(remote: RemoteTarget, file: string): Promise<void> {
  try {
    await remote.remove(file);
  } catch (error) {
    if ((await remote.list()).has(file)) throw error;
  }
}

function remoteFiles(remote: RemoteTarget, targetFiles: TargetFiles): BackupFiles {
  // Only one whole backup at a time, because $TMPDIR may be in memory.
  let whole: string | undefined;
  return {
    names: async () => [...targetFiles.keys()],
    makeReadable: async (path) => {
      if (path === whole) return;
      if (whole !== undefined) await keepHead(whole, targetFiles);
      whole = undefined;
      await downloadWhole(remote, path, targetFiles);
      whole = path;
    },
    remove: async (path) => {
      for (const file of [basename(path), basename(manifestPath(path))]) {
        if (targetFiles.has(file)) await removeIfPresent(remote, file);
      }
    },
  };
}
