/** Checks the directories, the newest backup, and the copies of backups and bundles. */
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { isFromFuture } from "../backup/clock.js";
import { type ListedBackup, listBackups } from "../backup/listing.js";
import { findNewestBackup, manifestPath, readManifest } from "../backup/manifest.js";
import { findMissingDirectories, missingHint } from "../config/known-directories.js";
import { type ConfiguredTarget, type CopyState, readCopyStates } from "../copies/copy-record.js";
import { isKind, StoreError } from "../errors.js";
import { bundleName } from "../keys/bundle-name.js";
import type { PassphraseSource } from "../keys/source.js";
import { escapeControlCharacters, shellQuote } from "../text/escape.js";
import { type Check, checksNamed } from "./check.js";
import type { StoreLocations } from "./files.js";

export const dayMs = 86_400_000;

/** 8 days: a weekly backup may be late by a day. */
const oldBackupMs = 8 * dayMs;

/** 35 days: a disk that is connected only once a month may be late by four days. */
export const oldSkippedMs = 35 * dayMs;

/** Checks that the directories in the settings exist, on the same disks as before. */
export async function checkDirectories(locations: StoreLocations): Promise<Check | Check[]> {
  const { backupFolder, bundleFolder, storePath } = locations;
  const { good, error } = checksNamed("directories");
  const directories = [backupFolder, bundleFolder].filter((path) => path !== undefined);
  const missing = await findMissingDirectories(directories, storePath);
  if (missing.length === 0) return good("the known directories exist");
  return missing.map((directory) => error(directory.message, missingHint(directory)));
}

/**
 * Checks the age of the newest backup. Only manifests with a valid MAC count: any program with
 * write access to the directory could suppress the warning with a forged manifest.
 */
export async function checkLastBackup(
  locations: StoreLocations & { readonly source: PassphraseSource },
): Promise<Check> {
  const { backupFolder } = locations;
  const { good, warning, error } = checksNamed("last-backup");
  const backUp = "hivemind-sqlcipher backup";
  if (backupFolder === undefined) {
    const fix = `${backUp} --to DIRECTORY --bundle-to ANOTHER`;
    return error("the settings name no directory for backups", fix);
  }
  const { newest, doubtful } = await findNewest(backupFolder, locations);
  if (doubtful !== undefined) {
    const why =
      doubtful.mac === false ? "its manifest was altered" : "no known passphrase opens it";
    const counted = newest === undefined ? "none" : `${newest.path}, made ${newest.createdAt}`;
    return warning(
      `the newest backup does not count, because ${why}: ${doubtful.path}; the newest that counts: ${counted}`,
      // A new backup would be older than a backup from the future, so the finding would stay.
      isFromFuture(doubtful) ? moveAway(doubtful) : backUp,
    );
  }
  if (newest === undefined) return error(`there is no backup in ${backupFolder}`, backUp);
  const age = Date.now() - Date.parse(newest.createdAt);
  const elsewhere =
    newest.hostname === hostname() ? "" : ` on ${escapeControlCharacters(newest.hostname)}`;
  const detail = `${newest.path}, made ${newest.createdAt}${elsewhere}`;
  if (isFromFuture(newest)) {
    return warning(
      `the newest backup is from the future, so the clock is or was wrong: ${detail}`,
      // Only the operator knows whether the clock or the backup is wrong.
      `Set the clock if date shows a wrong time; if it is right: ${moveAway(newest)}`,
    );
  }
  if (age <= oldBackupMs) return good(detail);
  return warning(`the newest backup is ${Math.floor(age / dayMs)} days old: ${detail}`, backUp);
}

function moveAway({ path, manifest }: ListedBackup): string {
  const files = [path, manifest].map(shellQuote).join(" ");
  const directory = shellQuote(join(dirname(path), "set-aside"));
  return `mkdir -p -m 700 ${directory} && mv ${files} ${directory}`;
}

/**
 * Finds the newest backup with an authentic manifest. If the newest backup of all has no authentic
 * manifest, returns it as `doubtful`. Without a passphrase, no manifest can be checked, and every
 * backup counts.
 */
async function findNewest(
  folder: string,
  { storePath, source }: StoreLocations & { readonly source: PassphraseSource },
): Promise<{ newest?: ListedBackup | undefined; doubtful?: ListedBackup | undefined }> {
  try {
    const { backups, unchecked } = await listBackups({ folder, storePath, source });
    const present = backups.filter((backup) => backup.present);
    if (unchecked !== null) return { newest: present[0] };
    const newest = present.find(({ mac }) => mac === true);
    return { newest, doubtful: present[0] === newest ? undefined : present[0] };
  } catch (error) {
    if (isKind(error, "notFound")) return {};
    throw error;
  }
}

/** Returns the fix of a damaged or missing store, with its newest backup. */
export async function restoreFix(locations: StoreLocations): Promise<string> {
  const { path } = await findNewestKnown(locations);
  return `Replace the store by a backup: hivemind-sqlcipher restore ${path}`;
}

/**
 * Returns the newest backup by its unverified manifest and its bundle, quoted for a command line.
 * Unknown paths are placeholders.
 */
export async function findNewestKnown({ backupFolder, bundleFolder, storePath }: StoreLocations) {
  const unknown = { path: "BACKUP", bundle: "BUNDLE" };
  if (backupFolder === undefined) return unknown;
  try {
    const newest = await findNewestBackup(backupFolder, storePath);
    if (newest === undefined) return unknown;
    const { key_id: keyId } = await readManifest(manifestPath(newest.path));
    const bundle = bundleFolder && shellQuote(join(bundleFolder, bundleName(keyId)));
    return { path: shellQuote(newest.path), bundle: bundle ?? unknown.bundle };
  } catch (error) {
    // Another check reports this error.
    if (error instanceof StoreError) return unknown;
    throw error;
  }
}

/**
 * Checks when each target in the settings last had a complete copy.
 *
 * @throws {@link StoreError} what `readCopyStates` throws
 */
export async function checkCopyTargets(
  storePath: string,
  targets: readonly ConfiguredTarget[],
): Promise<Check[]> {
  return (await readCopyStates(storePath, targets)).map(checkCopy);
}

function checkCopy({
  target,
  contents,
  succeeded_at: succeededAt,
  skipped,
  error,
}: CopyState): Check {
  const { good, warning } = checksNamed("copy-targets");
  const what = contents === "bundle" ? "the bundle" : "the backups";
  const since =
    succeededAt === null
      ? `${what} were never completely copied to ${target}`
      : `${what} were last copied to ${target} at ${succeededAt}`;
  const problem = error ?? skipped;
  const age = Date.now() - Date.parse(succeededAt ?? "1970-01-01");
  const limit = error === null && skipped !== null ? oldSkippedMs : oldBackupMs;
  // A time in the future is from a clock that was ahead.
  const isOld = age < 0 || age > limit;
  if (!isOld && error === null) return good(since);
  const reason = problem === null ? "" : `: ${problem}`;
  const fix = skipped === null ? "" : "Mount its disk, then run: ";
  return warning(`${since}${reason}`, `${fix}hivemind-sqlcipher backup`);
}
