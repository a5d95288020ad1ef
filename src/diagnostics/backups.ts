/** Checks whether the store could be restored: backups, copies, bundle, restore tests, schedule. */
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { isFromFuture } from "../backup/clock.js";
import { type ListedBackup, listBackups } from "../backup/listing.js";
import { findNewestBackup, manifestPath, readManifest } from "../backup/manifest.js";
import { findLastRestoreTests, type RestoreTest } from "../backup/restore-test.js";
import { describeBundle, isVerified } from "../bundle/bundle.js";
import {
  findMissingDirectories,
  missingHint,
  readUsedDirectories,
} from "../config/known-directories.js";
import { type ConfiguredTarget, type CopyState, readCopyStates } from "../copies/copy-record.js";
import { exitCodes, isKind, StoreError } from "../errors.js";
import { statIfExists } from "../fs/read.js";
import { findNamedSource } from "../hub/password-delivery.js";
import { bundleName } from "../keys/bundle-name.js";
import { describeSource, formatSource, type PassphraseSource } from "../keys/source.js";
import { parseRunName, type Run, readRuns } from "../operation/run-record.js";
import { lingerCommand } from "../service/linger.js";
import { describeOtherInstallation, findUnitPrograms } from "../service/programs.js";
import {
  hasExpired,
  type LastRun,
  readSchedule,
  type Schedule,
} from "../service/schedule-state.js";
import { recoveryService, type ScheduledJob, scheduledService } from "../service/schedule-units.js";
import { journalctlLine, systemctlLine, type UnitName } from "../service/systemctl.js";
import { readCommands } from "../service/unit-commands.js";
import type { StoreKey } from "../store/cipher.js";
import { escapeControlCharacters, shellQuote } from "../text/escape.js";
import { type Check, checksNamed } from "./check.js";
import type { StoreLocations } from "./files.js";

const dayMs = 86_400_000;

/** 8 days: a weekly backup may be late by a day. */
const oldBackupMs = 8 * dayMs;

/** 35 days: a disk that is connected only once a month may be late by four days. */
const oldSkippedMs = 35 * dayMs;

/** Half a year: recovery keys get lost and disks are replaced. */
const oldRestoreTestMs = 183 * dayMs;

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

/**
 * Checks whether the store's bundle exists, was verified, and is on another disk.
 *
 * @param keyId - undefined if there is no encrypted store
 * @param key - undefined if the store does not open; the verification record is then
 *   unauthenticated
 */
export async function checkBundle(
  locations: StoreLocations,
  keyId: string | undefined,
  key: StoreKey | undefined,
): Promise<Check[]> {
  const { bundleFolder, backupFolder, storePath } = locations;
  const { warning, error } = checksNamed("bundle");
  const make = "hivemind-sqlcipher bundle export --bundle-to DIRECTORY";
  if (bundleFolder === undefined) {
    return [error("the settings name no directory for bundles", make)];
  }
  const device = await findDevice(bundleFolder);
  if (device === undefined) {
    return [
      warning(
        `${bundleFolder}: no such directory`,
        `Mount its disk, then run doctor again. If the directory is lost, write the bundle elsewhere: ${make}`,
      ),
    ];
  }
  const checks: Check[] = [];
  if (keyId !== undefined) {
    checks.push(await checkVerificationRecord(join(bundleFolder, bundleName(keyId)), key));
  }
  const together = [];
  if (device === (await findDevice(dirname(storePath)))) together.push("the store");
  if (backupFolder && device === (await findDevice(backupFolder))) together.push("the backups");
  const copy = together.length === 0 ? undefined : await findCopyElsewhere(locations, keyId);
  const disk = checksNamed("bundle-disk");
  checks.push(
    together.length === 0 || copy !== undefined
      ? disk.good(`the bundle is on ${copy ?? "a disk of its own"}`)
      : disk.warning(
          `${bundleFolder} is on the same disk as ${together.join(" and ")}: a failed disk loses all of them`,
          `Keep the bundle on another disk: ${make}`,
        ),
  );
  return checks;
}

/** Finds a copy of the bundle on a disk that has neither the store nor the backups. */
async function findCopyElsewhere(
  { backupFolder, storePath }: StoreLocations,
  keyId: string | undefined,
): Promise<string | undefined> {
  if (keyId === undefined) return undefined;
  const used = [dirname(storePath), ...(backupFolder === undefined ? [] : [backupFolder])];
  const devices = await Promise.all(used.map(findDevice));
  for (const directory of await readUsedDirectories(storePath)) {
    const path = join(directory, bundleName(keyId));
    const device = await findDevice(path);
    if (device !== undefined && !devices.includes(device)) return path;
  }
  return undefined;
}

async function checkVerificationRecord(path: string, key: StoreKey | undefined): Promise<Check> {
  const { good, warning, error: missing } = checksNamed("bundle");
  const make = `hivemind-sqlcipher bundle export --bundle-to ${shellQuote(dirname(path))}`;
  try {
    const { proof } = await describeBundle(path);
    if (proof?.matches && (key === undefined || (await isVerified(path, key)))) {
      return good(`${path} opens the store`);
    }
    return warning(`${path} was not verified to open the store`, make);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const without = "if the stored passphrase is lost, nothing opens the store and its backups";
    return missing(`${error.message}; ${without}`, make);
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
async function findNewestKnown({ backupFolder, bundleFolder, storePath }: StoreLocations) {
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
 * Checks when a backup was last restored as a test, and when this was last done with the bundle.
 * Before the first restore test there is only one finding, because a test with the bundle fixes
 * both.
 */
export async function checkRestoreTest(
  locations: StoreLocations,
  keyId: string | undefined,
): Promise<Check[]> {
  const { last, withBundle } = await findLastRestoreTests(locations.storePath);
  const { path, bundle } = await findNewestKnown(locations);
  const withKey = `hivemind-sqlcipher verify ${path} --bundle ${bundle} --identity RECOVERY-KEY`;
  if (last === undefined) {
    const detail = "no backup was ever restored, or verified with its bundle";
    return [checksNamed("restore-tried").warning(detail, withKey)];
  }
  return [
    checkTest("restore-tried", "restore test", {
      test: last,
      keyId,
      fix: "hivemind-sqlcipher drill",
    }),
    checkTest("bundle-tried", "test with the bundle and its recovery key", {
      test: withBundle,
      keyId,
      fix: withKey,
    }),
  ];
}

function checkTest(
  name: string,
  what: string,
  { test, keyId, fix }: { test: RestoreTest | undefined; keyId: string | undefined; fix: string },
): Check {
  const { good, warning } = checksNamed(name);
  if (test === undefined) return warning(`no ${what} is recorded`, fix);
  const when = `${test.backup}, by ${test.how}, on ${test.at.slice(0, 10)}`;
  if (keyId !== undefined && test.key_id !== keyId) {
    return warning(`no ${what} since the passphrase changed; the last before that: ${when}`, fix);
  }
  const age = Date.now() - Date.parse(test.at);
  if (age < 0) {
    return warning(`the last ${what} is from the future, so the clock was wrong: ${when}`, fix);
  }
  if (age > oldRestoreTestMs) {
    return warning(`the last ${what} was long ago: ${when}`, fix);
  }
  return good(when);
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

/**
 * Checks the timers of `schedule install`: their programs, times and states; and the last runs of
 * the operations that run regularly, also by another scheduler.
 *
 * @param script - this program's script
 */
export async function checkSchedule(
  storePath: string,
  source: PassphraseSource,
  script: string,
): Promise<Check | Check[]> {
  const { good, warning } = checksNamed("schedule");
  const schedule = await readSchedule(storePath, "backup");
  const drill = schedule && (await readSchedule(storePath, "drill"));
  const runs = await readRuns(storePath);
  const found = [
    ...(schedule ? await checkTimers(storePath, { source, script }, schedule, drill) : []),
    ...checkLastRun("backup", runs.backup, toTimerRun(storePath, "backup", schedule)),
    ...checkLastRun("drill", runs.drill, toTimerRun(storePath, "drill", drill)),
    ...["prune", ...selectTargetRuns(runs)].flatMap((name) => checkLastRun(name, runs[name])),
  ];
  if (schedule && !schedule.lingers) {
    found.push(warning("scheduled backups are made only while you are logged in", lingerCommand()));
  }
  if (found.length > 0) return found;
  return good(
    schedule ? `next backup ${schedule.nextRun ?? "unknown"}` : "this program schedules no backups",
  );
}

/** What the timers are expected to use. */
interface Expected {
  readonly source: PassphraseSource;
  readonly script: string;
}

async function checkTimers(
  storePath: string,
  expected: Expected,
  schedule: Schedule,
  drill: Schedule | undefined,
): Promise<Check[]> {
  // `schedule install` also installs the drill's timer again, without changing its time.
  const install = `hivemind-sqlcipher schedule install${timeOption(schedule)}`;
  return [
    ...(await checkTimer(storePath, "backup", schedule, { install, ...expected })),
    ...(drill ? await checkTimer(storePath, "drill", drill, { install, ...expected }) : []),
  ];
}

/**
 * @param options.install - the command that installs the timer again
 */
async function checkTimer(
  storePath: string,
  job: ScheduledJob,
  schedule: Schedule,
  { install, source, script }: Expected & { readonly install: string },
): Promise<Check[]> {
  const { unit, service, active, enabled } = schedule;
  const name = scheduledService(storePath, job);
  const found: Check[] = [];
  const add = (detail: string, fix: string) =>
    found.push(checksNamed("schedule").error(detail, fix));
  const recovery = job === "backup" ? [recoveryService(storePath)] : [];
  const programs = await findUnitPrograms([name, ...recovery]);
  const gone = programs.filter(({ isPresent }) => !isPresent);
  const other = describeOtherInstallation(programs, script);
  if (gone.length > 0) {
    const paths = [...new Set(gone.map(({ path }) => path))].join(", ");
    add(`${gone[0]?.name} names a program that is gone or cannot be executed: ${paths}`, install);
  } else if (other !== undefined) {
    found.push(checksNamed("schedule").warning(other, `Unless the other one is newer: ${install}`));
  }
  const args = (await readCommands(name)).flatMap((command) => command.args);
  const { source: named = source } = findNamedSource({ args, environment: {} });
  if (formatSource(named) !== formatSource(source)) {
    add(
      `${service} reads the passphrase from ${describeSource(named)}, not from ${describeSource(source)}`,
      install,
    );
  }
  if (hasExpired(schedule)) {
    const dropIn = schedule.dropIns.find((path) => path.includes(`/${unit}.d/`));
    const time = job === "backup" ? "--on-calendar daily" : "--drill monthly";
    add(
      `${unit} never elapses, because its time is past: ${schedule.onCalendar}`,
      dropIn === undefined ? `${install} ${time}` : `Correct the time in ${dropIn}`,
    );
  }
  if (!active || !enabled) add(`${unit} is ${active ? "not enabled" : "not running"}`, install);
  return found;
}

/** A timer's service, and its last run as the manager knows it. */
interface TimerRun {
  readonly service: UnitName;
  readonly last: LastRun | null;
}

function toTimerRun(
  storePath: string,
  job: ScheduledJob,
  schedule: Schedule | undefined,
): TimerRun | undefined {
  return schedule && { service: scheduledService(storePath, job), last: schedule.lastRun };
}

/**
 * Checks the last run of an operation. The manager forgets the result of a run when it restarts,
 * as at a reboot, and does not know it while the service is running, as for the metrics and hooks
 * of the run itself. The recorded run then tells whether it failed.
 */
function checkLastRun(name: string, run: Run | undefined, timer?: TimerRun): Check[] {
  const { error } = checksNamed("schedule");
  const { operation, target } = parseRunName(name);
  const { last, service } = timer ?? {};
  const start = service && systemctlLine(service.manager, `start ${service.name}`);
  const argument = target === undefined ? "" : ` ${shellQuote(target)}`;
  const cause = service ? `the cause, which ${journalctlLine(service)} shows` : "the cause";
  const fix = `Remove ${cause}; then: ${start ?? `hivemind-sqlcipher ${operation}${argument}`}`;
  if (last?.result === "success") return [];
  if (last && last.result !== null && last.result !== "running") {
    const code = last.exitCode === null ? last.result : `exit code ${last.exitCode}`;
    return [error(`the last scheduled ${operation} failed on ${last.at}: ${code}`, fix)];
  }
  if (run === undefined || !isFailure(run)) return [];
  const what = target === undefined ? operation : `${operation} of ${target}`;
  return [error(`the last ${what} failed on ${run.at}: exit code ${run.exit_code}`, fix)];
}

/**
 * Returns the names of the runs on targets other than the directory in the settings. Leaves out old
 * runs: a scheduler would have repeated them, and the target may be no longer in use.
 */
function selectTargetRuns(runs: Readonly<Record<string, Run>>): string[] {
  return Object.entries(runs)
    .filter(([name, { at }]) => {
      const isRecent = Date.now() - Date.parse(at) <= oldSkippedMs;
      return isRecent && parseRunName(name).target !== undefined;
    })
    .map(([name]) => name);
}

/** An interrupted run, or one that began during another operation, has no cause to remove. */
function isFailure({ exit_code: code }: Run): boolean {
  return code !== 0 && code !== exitCodes.inUse && code < 128;
}

/** Returns the option to keep a schedule's time when the schedule is installed again. */
function timeOption(schedule: Schedule): string {
  const { onCalendar: time } = schedule;
  return time === null || hasExpired(schedule) ? "" : ` --on-calendar ${shellQuote(time)}`;
}

async function findDevice(path: string): Promise<number | undefined> {
  return (await statIfExists(path))?.dev;
}
