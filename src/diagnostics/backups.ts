/** Whether the store could be had back: backups, the bundle, and whether that was ever tried. */
import { stat } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { type ListedBackup, listBackups } from "../backup/listing.js";
import { findLastRestoreTest } from "../backup/restore-test.js";
import { bundleName, describeBundle, isVerified } from "../bundle/bundle.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import type { PassphraseSource } from "../keys/source.js";
import { scheduleOf } from "../service/schedule.js";
import type { StoreKey } from "../store/cipher.js";
import { escapeControlCharacters, shellQuote } from "../text/escape.js";
import { type Check, finding, good } from "./check.js";
import type { StoreLocations } from "./files.js";

const dayMs = 86_400_000;

/** A weekly backup, and a day for its being late. */
const oldBackupMs = 8 * dayMs;

/** Clocks of machines differ, as for prune: 1 hour. */
const clockToleranceMs = 3_600_000;

/** Half a year: recovery keys get lost, disks get replaced, and people forget how it went. */
const oldRehearsalMs = 183 * dayMs;

/** A backup counts if its manifest holds: whoever may write to the folder could keep an alarm from being given. */
export async function checkLastBackup(
  places: StoreLocations & { readonly source: PassphraseSource },
): Promise<Check[]> {
  const { backupFolder } = places;
  const make = "hivemind-sqlcipher backup --to FOLDER --bundle-to ANOTHER";
  if (backupFolder === undefined) {
    return [finding("last-backup", "error", "the settings name no folder for backups", make)];
  }
  const { newest, doubtful } = await newestIn(backupFolder, places);
  if (doubtful !== undefined) {
    const why =
      doubtful.mac === false
        ? "its manifest was altered"
        : "no passphrase that is kept here opens it";
    const detail = `the newest does not count, for ${why}: ${doubtful.path}`;
    const counted = newest === undefined ? "none" : `${newest.path}, made ${newest.created_at}`;
    return [
      finding(
        "last-backup",
        "warning",
        `${detail}; the newest that does: ${counted}`,
        "hivemind-sqlcipher backup makes a new one; hivemind-sqlcipher backups lists what is there",
      ),
    ];
  }
  if (newest === undefined) {
    const detail = `there is no backup in ${backupFolder}`;
    return [finding("last-backup", "error", detail, "hivemind-sqlcipher backup")];
  }
  const age = Date.now() - Date.parse(newest.created_at);
  const elsewhere =
    newest.hostname === hostname() ? "" : ` on ${escapeControlCharacters(newest.hostname)}`;
  const detail = `${newest.path}, made ${newest.created_at}${elsewhere}`;
  if (age < -clockToleranceMs) {
    return [
      finding(
        "last-backup",
        "warning",
        `the newest is from the future, so a clock was wrong, then or now, and when the last one was made is not known: ${detail}`,
        "see what date says; if it is right now, move that backup and its manifest elsewhere",
      ),
    ];
  }
  if (age <= oldBackupMs) return [good("last-backup", detail)];
  return [
    finding(
      "last-backup",
      "warning",
      `the newest is ${Math.floor(age / dayMs)} days old: ${detail}`,
      "hivemind-sqlcipher backup; by the clock: hivemind-sqlcipher schedule install",
    ),
  ];
}

/** The newest backup whose manifest holds (or of which nobody can tell), and one that says it is newer, if there is. */
async function newestIn(
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
    if (error instanceof StoreError && error.kind === "notFound") return {};
    throw error;
  }
}

/**
 * @param keyId the store's; undefined if there is no encrypted store.
 * @param key the store's; undefined if it does not open, and then the record beside the bundle is taken for what it says.
 */
export async function checkBundle(
  places: StoreLocations,
  keyId: string | undefined,
  key: StoreKey | undefined,
): Promise<Check[]> {
  const { bundleFolder, backupFolder, storePath } = places;
  const make = "hivemind-sqlcipher bundle export --bundle-to FOLDER";
  if (bundleFolder === undefined) {
    return [finding("bundle", "error", "the settings name no folder for bundles", make)];
  }
  const device = await deviceOf(bundleFolder);
  if (device === undefined) {
    return [
      finding(
        "bundle",
        "warning",
        `${bundleFolder} is not there, so whether it has the store's bundle is not known`,
        "mount its disk, and run doctor again",
      ),
    ];
  }
  const checks: Check[] = [];
  if (keyId !== undefined) {
    checks.push(await checkVerificationRecord(join(bundleFolder, bundleName(keyId)), key));
  }
  const together = [];
  if (device === (await deviceOf(dirname(storePath)))) together.push("the store");
  if (backupFolder && device === (await deviceOf(backupFolder))) together.push("the backups");
  checks.push(
    together.length === 0
      ? good("bundle-disk", "the bundle is on a disk of its own")
      : finding(
          "bundle-disk",
          "warning",
          `${bundleFolder} is on the same disk as ${together.join(" and ")}: one that dies takes all of it`,
          `keep a copy of the bundle elsewhere, and name that place: --bundle-to, or print it: hivemind-sqlcipher bundle print ${shellQuote(bundleFolder)}/….age`,
        ),
  );
  return checks;
}

async function checkVerificationRecord(path: string, key: StoreKey | undefined): Promise<Check> {
  const make = `hivemind-sqlcipher bundle export --bundle-to ${shellQuote(dirname(path))}`;
  try {
    const { proof } = await describeBundle(path);
    if (proof?.matches && (key === undefined || (await isVerified(path, key))))
      return good("bundle", `${path} was proven to open the store`);
    return finding("bundle", "warning", `${path} was not proven to open the store`, make);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const without = "without the keyring, nothing opens the store and its backups";
    return finding("bundle", "error", `${error.message}; ${without}`, make);
  }
}

export async function checkRestoreTest(
  storePath: string,
  keyId: string | undefined,
): Promise<Check[]> {
  const last = await findLastRestoreTest(storePath);
  const mend =
    "hivemind-sqlcipher verify BACKUP --bundle BUNDLE --identity RECOVERY-KEY, or restore --to another file";
  const name = "restore-tried";
  if (last === undefined) {
    const detail = "no backup was ever tried with its bundle, or restored";
    return [finding(name, "warning", detail, mend)];
  }
  const when = `${last.backup}, by ${last.how}, on ${last.at.slice(0, 10)}`;
  if (keyId !== undefined && last.key_id !== keyId) {
    return [
      finding(name, "warning", `not since the passphrase changed; before that: ${when}`, mend),
    ];
  }
  if (Date.now() - Date.parse(last.at) > oldRehearsalMs) {
    return [finding(name, "warning", `long ago: ${when}`, mend)];
  }
  return [good(name, when)];
}

export async function checkSchedule(storePath: string): Promise<Check[]> {
  const schedule = await scheduleOf(storePath);
  if (schedule === undefined) return [good("schedule", "no backups are scheduled by this program")];
  const { unit, service, active, enabled, lingers, last_run: last } = schedule;
  const found: Check[] = [];
  if (!active || !enabled) {
    const detail = `${unit} is ${active ? "not enabled" : "not running"}`;
    found.push(finding("schedule", "error", detail, "hivemind-sqlcipher schedule install"));
  }
  if (last && last.result !== null && last.result !== "success" && last.result !== "running") {
    const code = last.exit_code === null ? last.result : `exit code ${last.exit_code}`;
    found.push(
      finding(
        "schedule",
        "error",
        `the last scheduled backup failed on ${last.at}: ${code}`,
        `journalctl --user --unit ${service}`,
      ),
    );
  }
  if (!lingers) {
    found.push(
      finding(
        "schedule",
        "warning",
        "scheduled backups are made only while you are logged in",
        "loginctl enable-linger",
      ),
    );
  }
  if (found.length > 0) return found;
  return [good("schedule", `next backup ${schedule.next_run ?? "unknown"}`)];
}

async function deviceOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).dev;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot look at ${path}`);
  }
}
