/** Checks the timers of `schedule install`, and the last runs of regular operations. */
import { exitCodes } from "../errors.js";
import { findNamedSource } from "../hub/password-delivery.js";
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
import { shellQuote } from "../text/escape.js";
import { oldSkippedMs } from "./backups.js";
import { type Check, checksNamed } from "./check.js";

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
    const option = job === "backup" ? "--on-calendar daily" : "--drill monthly";
    const time = schedule.onCalendar;
    const cause = time === null ? "it has no next time" : `its time is past: ${time}`;
    add(
      `${unit} never elapses, because ${cause}`,
      dropIn === undefined ? `${install} ${option}` : `Correct the time in ${dropIn}`,
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
