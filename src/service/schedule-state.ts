/** The state of the installed schedules: their times, commands and last runs. */
import { join } from "node:path";
import { findNextElapse, parseTime } from "./calendar.js";
import { isLingerEnabled } from "./linger.js";
import { type Properties, parseList, parseTimespanMs } from "./properties.js";
import {
  isOwnUnit,
  readOwnUnit,
  resolveUnits,
  type ScheduledJob,
  type ScheduleTimes,
} from "./schedule-units.js";
import { show } from "./systemctl.js";

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
  /** The first calendar expression; null if the timer has none. */
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
      "NextElapseUSecMonotonic",
      "LastTriggerUSec",
      "Result",
      "ExecMainStatus",
      "ExecMainStartTimestamp",
      "ExecMainExitTimestamp",
    ],
    [timer, service],
  );
  const calendar = parseCalendar(clock);
  return {
    unit: timer,
    service,
    onCalendar: calendar[0] ?? null,
    enabled: clock.UnitFileState === "enabled",
    active: clock.ActiveState === "active",
    nextRun: await findNextRun(clock, calendar),
    lastRun: toLastRun(clock, main),
    lingers: manager === "systemd" || isLingerEnabled(),
    dropIns: [...parseList(clock.DropInPaths), ...parseList(main.DropInPaths)],
  };
}

/** Parses the calendar expressions of a timer. The manager prints the last line of a unit first. */
function parseCalendar({ TimersCalendar: text = "" }: Properties): string[] {
  return [...text.matchAll(/OnCalendar=(.*?) ;/g)].map(([, time = ""]) => time).reverse();
}

/** Returns when a timer elapses next; null if all its times are past. */
async function findNextRun(clock: Properties, calendar: readonly string[]): Promise<string | null> {
  // During a job the manager reports no next time. The metrics of the job itself need it.
  const isJobRunning = clock.ActiveState === "active" && clock.SubState === "running";
  const times = isJobRunning
    ? await Promise.all(calendar.map(findNextElapse))
    : [parseTime(clock.NextElapseUSecRealtime), toTime(clock.NextElapseUSecMonotonic)];
  return times.filter((time) => time !== null).sort()[0] ?? null;
}

/** Converts a time since boot, as of OnUnitActiveSec=. Returns null if there is none. */
function toTime(sinceBoot: string | undefined): string | null {
  const elapsesMs = parseTimespanMs(sinceBoot);
  if (elapsesMs === 0 || elapsesMs === Number.POSITIVE_INFINITY) return null;
  const upMs = Number(process.hrtime.bigint() / 1_000_000n);
  return `${new Date(Date.now() + elapsesMs - upMs).toISOString().slice(0, 19)}Z`;
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
  const text = await readOwnUnit(join(directory, service));
  return text && /^ExecStart=(.*)$/m.exec(text)?.[1];
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
  const text = (await readOwnUnit(join(directory, timer))) ?? "";
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
