/**
 * Scheduled backups and restore drills: for each, a systemd timer and a service with the command,
 * and for a store a service for its recovery at boot.
 *
 * Writes the units as files in `$XDG_CONFIG_HOME/systemd/user`, or in `/etc/systemd/system` if
 * root works on the hub of a system unit. They are named after a hash of the store's path, so each
 * store has its own schedules. They contain no secret.
 *
 * The operator's changes, such as `OnFailure=`, belong in drop-ins, which are never changed. See
 * systemd.timer(5) and systemd.unit(5).
 */
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { hubAccount } from "../config/hub-account.js";
import { configHome, realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import { readTextIfExists, sha256Hex } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import { type Outcome, run } from "../process/run.js";
import { copyUnitOf } from "./copy-unit.js";
import { isLingerEnabled } from "./linger.js";
import { type Properties, parseList } from "./properties.js";
import {
  describeManager,
  type Manager,
  managerError,
  queryLimitMs,
  show,
  systemctl,
  systemctlLine,
  systemUnits,
  type UnitName,
} from "./systemctl.js";
import { escapeSetting, keyringUnit, quoteCommand } from "./unit-file.js";

/** The first line of the files, in every version of this program. */
const mark = "# Made by hivemind-sqlcipher schedule install";
const header = `${mark}, which replaces this file each time.`;

/** Tells a user who installs the timer how long satellites are cut off. */
export const outageNote =
  "each backup stops the hub for about two seconds, and satellites reconnect after about seven";
export const outageAdvice = `${outageNote}; with --online-backups, backups do not stop the hub`;

export type ScheduledJob = "backup" | "drill";

const jobs: readonly ScheduledJob[] = ["backup", "drill"];

const jobDescriptions = { backup: "Backup", drill: "Restore drill" } as const;

export interface ScheduleTimes {
  /** The value of OnCalendar=. */
  readonly onCalendar: string;
  readonly randomDelay: string;
}

export interface ScheduleRequest extends ScheduleTimes {
  readonly storePath: string;
  readonly job: ScheduledJob;
  /** The command line of the job for this store. It must contain no secret. */
  readonly command: readonly string[];
  /** The command line for recovering this store, and the path of its journal. */
  readonly recovery: { readonly command: readonly string[]; readonly journal: string };
}

export interface LastRun {
  /** When the run began, UTC. */
  readonly at: string;
  /**
   * `running`, `success`, or systemd's term for the failure; null if the manager has restarted
   * since the run.
   */
  readonly result: string | null;
  /** Null if the run did not exit. */
  readonly exitCode: number | null;
}

export interface Schedule {
  readonly unit: string;
  /** The name of the timer's service. */
  readonly service: string;
  readonly onCalendar: string | null;
  readonly enabled: boolean;
  readonly active: boolean;
  readonly nextRun: string | null;
  readonly lastRun: LastRun | null;
  /** Whether the user manager starts at boot, without a login. */
  readonly lingers: boolean;
  /** Drop-ins of the two units. */
  readonly dropIns: string[];
}

interface ScheduleUnits {
  readonly manager: Manager;
  readonly directory: string;
  readonly timer: string;
  readonly service: string;
  /** The service for the recovery at boot, for all jobs of the store. */
  readonly recovery: string;
}

function resolveUnits(storePath: string, job: ScheduledJob): ScheduleUnits {
  const store = sha256Hex(storePath).slice(0, 8);
  const timerOf = (each: ScheduledJob) => `hivemind-sqlcipher-${each}-${store}.timer`;
  const timer = timerOf(job);
  const recovery = `hivemind-sqlcipher-recovery-${store}.service`;
  const units = { timer, service: timer.replace(/timer$/, "service"), recovery };
  const ofUser = join(configHome(), "systemd", "user");
  const isInstalledIn = (directory: string) =>
    jobs.some((each) => existsSync(join(directory, timerOf(each))));
  const isOfSystem = hubAccount() !== undefined || isInstalledIn(systemUnits);
  // Root keeps using the manager of an earlier timer of this store.
  return isRoot() && isOfSystem && !isInstalledIn(ofUser)
    ? { manager: "systemd", directory: systemUnits, ...units }
    : { manager: "systemd-user", directory: ofUser, ...units };
}

/**
 * Checks in advance that a schedule can be installed.
 *
 * @throws {@link StoreError} usage - if systemd does not accept the time or the delay, or the time
 *   is past
 * @throws {@link StoreError} refused - if the manager reads its units elsewhere, or this program
 *   did not write an existing unit of this name
 * @throws {@link StoreError} service - if there is no user manager
 */
export async function assertSchedulable({
  storePath,
  job,
  onCalendar,
  randomDelay,
}: Omit<ScheduleRequest, "command" | "recovery">): Promise<void> {
  const { manager, directory, timer, service, recovery } = resolveUnits(storePath, job);
  await assertUnitDirectory(manager, directory);
  const example = "--on-calendar daily, or 'Mon *-*-* 03:30'";
  assertElapses(onCalendar, await analyze("calendar", onCalendar, example));
  await analyze("timespan", randomDelay, "--random-delay 15min");
  for (const name of [service, timer, recovery]) await assertOwnUnit(join(directory, name));
}

/**
 * Writes the units, or replaces them, and starts the timer.
 *
 * @throws {@link StoreError} service - if the manager rejects the units
 * @throws {@link StoreError} io - if the files cannot be written
 */
export async function installSchedule(request: ScheduleRequest): Promise<Schedule> {
  await assertSchedulable(request);
  const units = resolveUnits(request.storePath, request.job);
  const { manager, directory, timer, service, recovery } = units;
  await makeDirectory(directory);
  await replaceFile(join(directory, recovery), renderRecovery(request, units));
  await replaceFile(join(directory, service), renderService(request, units));
  await replaceFile(join(directory, timer), renderTimer(request, units));
  await callManager(manager, ["daemon-reload"]);
  await callManager(manager, ["enable", timer, recovery]);
  // `restart` instead of `start`: a running timer would keep its old times.
  await callManager(manager, ["restart", timer]);
  const installed = await readSchedule(request.storePath, request.job);
  if (installed?.active) return installed;
  throw new StoreError("service", `${timer} was installed, but does not run`, {
    hint: `Run ${systemctlLine(manager, `status ${timer}`)} to see why.`,
  });
}

/**
 * Stops the timers of a store and removes their units. A running backup or drill continues.
 * Drop-ins stay.
 *
 * @returns the removed timers, and the directories of the remaining drop-ins
 * @throws {@link StoreError} notFound - if this store has no schedule
 */
export async function removeSchedules(
  storePath: string,
): Promise<{ units: string[]; dropIns: string[] }> {
  const { manager, directory, recovery } = resolveUnits(storePath, "backup");
  const pairs = jobs.map((job) => resolveUnits(storePath, job));
  const present: string[] = [];
  for (const name of [...pairs.flatMap(({ timer, service }) => [timer, service]), recovery]) {
    if (await assertOwnUnit(join(directory, name))) present.push(name);
  }
  if (present.length === 0) {
    throw new StoreError("notFound", `no backups or drills of ${storePath} are scheduled`, {
      hint: `Check --db: each store's path has its own schedules. ${systemctlLine(manager, "list-units 'hivemind-sqlcipher-*.timer'")} lists them.`,
    });
  }
  const timers = present.filter((name) => name.endsWith(".timer"));
  if (timers.length > 0) await callManager(manager, ["disable", "--now", ...timers]);
  if (present.includes(recovery)) await callManager(manager, ["disable", recovery]);
  for (const name of present) await removeFile(join(directory, name));
  await syncDirectory(directory);
  await callManager(manager, ["daemon-reload"]);
  // A failed last run would keep the service in the manager's list. The call fails without such a
  // run.
  await systemctl(manager, ["reset-failed", ...pairs.map(({ service }) => service)]);
  const names = await readdir(directory);
  const dropIns = pairs
    .flatMap(({ timer, service }) => [`${timer}.d`, `${service}.d`])
    .filter((name) => names.includes(name));
  return { units: timers, dropIns: dropIns.map((name) => join(directory, name)) };
}

/**
 * Returns a schedule of a store, or undefined if there is none.
 *
 * @throws {@link StoreError} service - if there is a schedule and the manager does not respond
 * @throws {@link StoreError} io - if the timer's file cannot be read
 */
export async function readSchedule(
  storePath: string,
  job: ScheduledJob,
): Promise<Schedule | undefined> {
  const { manager, directory, timer, service } = resolveUnits(storePath, job);
  if (!(await isOwnUnit(join(directory, timer)))) return undefined;
  const [clock = {}, main = {}] = await show(
    manager,
    [
      "ActiveState",
      "SubState",
      "UnitFileState",
      "DropInPaths",
      "TimersCalendar",
      "NextElapseUSecRealtime",
      "LastTriggerUSec",
      "Result",
      "ExecMainStatus",
      "ExecMainStartTimestamp",
      "ExecMainExitTimestamp",
    ],
    [timer, service],
  );
  const onCalendar = /OnCalendar=(.*?) ;/.exec(clock.TimersCalendar ?? "")?.[1] ?? null;
  // During a job the manager reports no next time. The metrics of the job itself need it.
  const isJobRunning = clock.ActiveState === "active" && clock.SubState === "running";
  return {
    unit: timer,
    service,
    onCalendar,
    enabled: clock.UnitFileState === "enabled",
    active: clock.ActiveState === "active",
    nextRun:
      isJobRunning && onCalendar !== null
        ? await findNextElapse(onCalendar)
        : parseTime(clock.NextElapseUSecRealtime),
    lastRun: toLastRun(clock, main),
    lingers: manager === "systemd" || isLingerEnabled(),
    dropIns: [...parseList(clock.DropInPaths), ...parseList(main.DropInPaths)],
  };
}

/**
 * Returns the command line in the service of a scheduled job, as `quoteCommand` writes it;
 * undefined if there is none. Ignores drop-ins, because installing a schedule does not change them.
 *
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function scheduledCommand(
  storePath: string,
  job: ScheduledJob,
): Promise<string | undefined> {
  const { directory, service } = resolveUnits(storePath, job);
  const text = await readTextIfExists(join(directory, service));
  return text?.startsWith(mark) ? /^ExecStart=(.*)$/m.exec(text)?.[1] : undefined;
}

/**
 * Returns whether a job's command line, as `scheduledCommand` returns it, is a backup that leaves
 * the hub running.
 */
export function isOnlineBackup(command: string | undefined): boolean {
  return command !== undefined && / --online(?: |$)/.test(command);
}

/**
 * Returns the times in the file of an installed timer; undefined if there is none. Ignores
 * drop-ins, as `scheduledCommand` does.
 *
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function scheduledTimes(
  storePath: string,
  job: ScheduledJob,
): Promise<ScheduleTimes | undefined> {
  const { directory, timer } = resolveUnits(storePath, job);
  const text = await readTextIfExists(join(directory, timer));
  if (!text?.startsWith(mark)) return undefined;
  const [, onCalendar] = /^OnCalendar=(.+)$/m.exec(text) ?? [];
  const [, randomDelay] = /^RandomizedDelaySec=(.+)$/m.exec(text) ?? [];
  return onCalendar && randomDelay ? { onCalendar, randomDelay } : undefined;
}

/** Returns the times of the installed timer for backups, or those of a new timer. */
export async function resolveBackupTimes(storePath: string): Promise<ScheduleTimes> {
  const installed = await scheduledTimes(storePath, "backup");
  return installed ?? { onCalendar: "daily", randomDelay: "15min" };
}

/**
 * Returns whether a running timer will never start its job, because all its times are past. Returns
 * false while the job runs, because the manager does not know the next time until the job ends.
 */
export function hasExpired({ active, nextRun, lastRun }: Schedule): boolean {
  return active && nextRun === null && lastRun?.result !== "running";
}

/** Returns the service for the recovery of a store at boot. It may not exist. */
export function recoveryService(storePath: string): UnitName {
  const { manager, recovery } = resolveUnits(storePath, "backup");
  return { manager, name: recovery };
}

/** Returns the service of a store's scheduled job, which may not exist. */
export function scheduledService(storePath: string, job: ScheduledJob): UnitName {
  const { manager, service } = resolveUnits(storePath, job);
  return { manager, name: service };
}

function toLastRun(clock: Properties, job: Properties): LastRun | null {
  const began = parseTime(job.ExecMainStartTimestamp);
  if (began === null) {
    // The timer's timestamp is on disk. The result of the run was in the manager's memory.
    const triggered = parseTime(clock.LastTriggerUSec);
    return triggered === null ? null : { at: triggered, result: null, exitCode: null };
  }
  if (job.ActiveState === "activating") return { at: began, result: "running", exitCode: null };
  const exited = job.Result === "success" || job.Result === "exit-code";
  return {
    at: began,
    result: job.Result ?? null,
    exitCode: exited ? Number(job.ExecMainStatus) : null,
  };
}

function renderService(
  { storePath, job, command }: ScheduleRequest,
  { manager, service }: ScheduleUnits,
): string {
  return `${header}
# Put your own changes, such as OnFailure=, into a drop-in: ${systemctlLine(manager, `edit ${service}`)}
[Unit]
Description=${jobDescriptions[job]} of the HiveMind client store ${escapeSetting(storePath)}
After=${keyringUnit}

[Service]
Type=oneshot
ExecStart=${quoteCommand(...command)}
# a core dump would contain the passphrase
LimitCORE=0
`;
}

/**
 * Returns the service for starting the hub at boot if a power failure has interrupted a backup: an
 * engine does not start a stopped container, and the restart timer is lost.
 */
function renderRecovery(
  { storePath, recovery: { command, journal } }: ScheduleRequest,
  { manager, recovery }: ScheduleUnits,
): string {
  return `${header}
# Put your own changes into a drop-in: ${systemctlLine(manager, `edit ${recovery}`)}
[Unit]
Description=Recovery of the HiveMind client store ${escapeSetting(storePath)} at boot
# exists after an interrupted operation
ConditionPathExists=${escapeSetting(journal)}
After=docker.service ${keyringUnit} ${copyUnitOf(storePath).name}
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=${quoteCommand(...command)}
# the engine may be starting, and the keyring may be locked until a login
Restart=on-failure
RestartSec=30
RestartPreventExitStatus=2 17
# a core dump would contain the passphrase
LimitCORE=0

[Install]
WantedBy=${manager === "systemd" ? "multi-user.target" : "default.target"}
`;
}

function renderTimer(
  { storePath, job, onCalendar, randomDelay }: ScheduleRequest,
  { manager, timer }: ScheduleUnits,
): string {
  return `${header}
# Put your own changes into a drop-in: ${systemctlLine(manager, `edit ${timer}`)}
[Unit]
Description=${jobDescriptions[job]}s of the HiveMind client store ${escapeSetting(storePath)}

[Timer]
OnCalendar=${escapeSetting(onCalendar)}
RandomizedDelaySec=${escapeSetting(randomDelay)}
# catches up after the machine was off
Persistent=true

[Install]
WantedBy=timers.target
`;
}

/** Throws `refused` if the manager does not read units in the directory. */
async function assertUnitDirectory(manager: Manager, directory: string): Promise<void> {
  const { stdout } = await callManager(manager, ["show", "--property=UnitPath", "--value"]);
  const wanted = await realPath(directory);
  for (const path of parseList(stdout)) if ((await realPath(path)) === wanted) return;
  throw new StoreError(
    "refused",
    `${describeManager(manager)} of systemd does not read units in ${directory}`,
    {
      hint: "Unset XDG_CONFIG_HOME, which differs from the manager's, and name the settings file with --config.",
    },
  );
}

/**
 * Returns systemd's analysis of the text. Throws `usage` with systemd's message if the text is
 * invalid.
 */
async function analyze(
  kind: "calendar" | "timespan",
  text: string,
  example: string,
): Promise<string> {
  const { code, stdout, stderr } = await callAnalyze(kind, text);
  if (code === 0) return stdout;
  const reason = stderr.split("\n")[0] || `invalid ${kind} "${text}"`;
  const what = kind === "calendar" ? "calendar expression" : "time span";
  throw new StoreError("usage", `systemd does not accept this ${what}: ${reason}`, {
    hint: `Write it as in ${example}; see systemd.time(7).`,
  });
}

/** Returns the next time from now on, without the random delay; null if there is none. */
async function findNextElapse(onCalendar: string): Promise<string | null> {
  const { stdout } = await callAnalyze("calendar", onCalendar);
  // The line in UTC is printed only if the local time is another.
  const [, time] = /\(in UTC\): (.*)/.exec(stdout) ?? /Next elapse: (.*)/.exec(stdout) ?? [];
  return parseTime(time);
}

function callAnalyze(kind: "calendar" | "timespan", text: string): Promise<Outcome> {
  return run("systemd-analyze", [kind, "--", text], {
    timeoutMs: queryLimitMs,
    // The times of a timer are local times.
    outputVariables: { LC_ALL: "C", SYSTEMD_COLORS: "0" },
  });
}

/** Throws `usage` if all times are past. systemd accepts such a timer, which never elapses. */
function assertElapses(onCalendar: string, analysis: string): void {
  if (!/Next elapse: never/.test(analysis)) return;
  const message = `no time from now on matches ${onCalendar}: the timer would never elapse`;
  throw new StoreError("usage", message, {
    hint: "Give a time that recurs, as in --on-calendar daily; see systemd.time(7).",
  });
}

/** Returns whether the unit's file exists. Throws `refused` for a file not of this program. */
async function assertOwnUnit(path: string): Promise<boolean> {
  const isOwn = await isOwnUnit(path);
  if (isOwn === false) {
    throw new StoreError("refused", `${path} was not written by this program`, {
      hint: "Move it away first, and put your changes to a unit into a drop-in.",
    });
  }
  return isOwn === true;
}

/** Returns whether this program wrote the file, or undefined if there is none. */
async function isOwnUnit(path: string): Promise<boolean | undefined> {
  return (await readTextIfExists(path))?.startsWith(mark);
}

/** Parses a time such as "Tue 2026-11-24 18:50:00 UTC". Returns null if there is none. */
function parseTime(text: string | undefined): string | null {
  const [, day, time] = /(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)/.exec(text ?? "") ?? [];
  return day === undefined ? null : `${day}T${time}Z`;
}

/** Calls a manager. Throws `service` if the call fails. */
async function callManager(manager: Manager, args: readonly string[]): Promise<Outcome> {
  const outcome = await systemctl(manager, args);
  if (outcome.code === 0) return outcome;
  if (outcome.failure !== "missing") throw managerError(manager, outcome);
  throw new StoreError("service", "cannot schedule backups: systemd is not installed", {
    hint: "Run hivemind-sqlcipher backup from cron or another scheduler.",
  });
}
