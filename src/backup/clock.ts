/**
 * Compares the clock with the newest backup.
 *
 * A machine without a battery-backed clock starts with a time in the past. A backup that is made
 * before the clock is set has an earlier date in its name and manifest than the older backups, and
 * a retention policy would remove it as the oldest.
 */
import { hostname } from "node:os";
import { StoreError } from "../errors.js";
import { type ListedBackup, type ListingOptions, listBackups } from "./listing.js";
import { findNewestBackup } from "./manifest.js";

/** 1 minute, for backups of this machine: a time server may set the clock back by seconds. */
const ownToleranceMs = 60_000;

/** 1 hour, for backups of other machines in the directory: their clocks differ. */
const othersToleranceMs = 3_600_000;

const clockHint =
  "Set the clock (date shows it). If it is right, move that backup and its manifest away, or add --yes to go on.";

export function isFromFuture(backup: { createdAt: string; hostname: string }): boolean {
  const tolerance = backup.hostname === hostname() ? ownToleranceMs : othersToleranceMs;
  return Date.parse(backup.createdAt) - Date.now() > tolerance;
}

/**
 * Throws if the clock is behind a backup of the store. Counts only manifests with a valid MAC:
 * otherwise any program that can write to the directory could prevent all backups with a forged
 * manifest.
 *
 * @throws {@link StoreError} refused - if the clock is behind
 */
export async function assertClockNotBehind(options: ListingOptions): Promise<void> {
  const newest = await findNewestBackup(options.folder, options.storePath);
  // Checking a MAC requires a key, and deriving it takes 200 ms or more.
  if (newest === undefined || Date.parse(newest.createdAt) < Date.now()) return;
  const { backups } = await listBackups(options);
  const ahead = backups.find((backup) => backup.mac === true && isFromFuture(backup));
  if (ahead !== undefined) throw clockError(ahead);
}

export function clockError({ path, createdAt }: ListedBackup): StoreError {
  const now = new Date().toISOString();
  return new StoreError(
    "refused",
    `the clock is at ${now}, but ${path} was made at ${createdAt}, which is in the future: the clock is or was wrong; nothing was changed`,
    { hint: clockHint },
  );
}
