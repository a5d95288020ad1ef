import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import { formatSource } from "../../keys/source.js";
import type { Schedule } from "../../service/schedule-state.js";
import type { ScheduledJob } from "../../service/schedule-units.js";
import { shellQuote } from "../../text/escape.js";
import { addCommandGroup, finishCommand } from "../command.js";
import { type Context, ownCommand, recoveryCommand, withValues } from "../context.js";
import { findPlainDatabase } from "../open.js";
import { buildOperationOptions, operate } from "../operate.js";
import { listKnownDirectories } from "../options/directories.js";
import { rememberSource } from "../options/remember.js";
import { addServiceOptions, type ServiceOptions, saveService } from "../options/service.js";
import { fieldLines, formatLastRun } from "../ui/lines.js";
import { askYesNo, hasTerminal } from "../ui/prompt.js";

export function addCommand(program: Command): void {
  const group = addCommandGroup(program, "schedule", "Schedule backups with a systemd user timer");
  addInstall(group);
  addRemove(group);
  addStatus(group);
}

interface InstallOptions extends ServiceOptions {
  drill?: string;
  onlineBackups?: boolean;
  onCalendar?: string;
  randomDelay?: string;
}

function addInstall(group: Command): void {
  const command = addServiceOptions(
    group
      .command("install")
      .description("Install a timer that backs up this store")
      .option("--on-calendar <time>", "Run at this time, as in systemd.time(7) (default: daily)")
      .option("--random-delay <span>", "Delay each run by up to this long (default: 15min)")
      .option("--drill <time>", "Run a restore drill at this time, too, such as monthly")
      .option("--online-backups", "Back up without stopping the hub"),
  );
  finishCommand(command, runInstall, {
    details: [
      "Each run reads the directories, the service and the passphrase's source from the settings file, where this command saves its options for the service and the source. The backup's requirements are checked before the timer is installed. For a notification of failures, add OnFailure= in a drop-in with systemctl edit UNIT, with --user for a user timer; drop-ins are never changed.",
      "On a terminal, asks once whether backups stop the hub, unless --online-backups is given; otherwise, and with --yes, they stop it. An installed timer keeps its times without these options, and its backups still leave the hub running if they did. Without --drill, a drill that is scheduled already stays scheduled. To begin again, run schedule remove first.",
    ],
    examples: [
      "hivemind-sqlcipher schedule install",
      "hivemind-sqlcipher schedule install --on-calendar 'Mon..Fri 03:30' --drill monthly",
    ],
  });
}

async function runInstall(context: Context, options: InstallOptions): Promise<void> {
  const { assertSchedulable, installSchedule } = await import("../../service/schedule.js");
  const { resolveBackupTimes, scheduledTimes } = await import("../../service/schedule-state.js");
  const { journalPath } = await import("../../operation/journal.js");
  const { storePath, output } = context;
  assertDirectoriesSaved(context);
  const installed = await resolveBackupTimes(storePath);
  const { onCalendar = installed.onCalendar, randomDelay = installed.randomDelay } = options;
  const request = { storePath, job: "backup", onCalendar, randomDelay } as const;
  const drillTime = options.drill ?? (await scheduledTimes(storePath, "drill"))?.onCalendar;
  const drillRequest = drillTime && { ...request, job: "drill" as const, onCalendar: drillTime };
  await assertSchedulable(request);
  if (drillRequest) await assertSchedulable(drillRequest);
  const isOnline = await resolveOnline(context, options);
  await saveService(context, options);
  await rememberSource(context, formatSource(context.source));
  await context.refreshSettings();
  const command = (...args: string[]) => ownCommand(context, ...args);
  const recovery = { command: recoveryCommand(context), journal: journalPath(storePath) };
  const schedule = await installSchedule({
    ...request,
    recovery,
    command: command("backup", ...(isOnline ? ["--online"] : [])),
  });
  const drill = drillRequest
    ? await installSchedule({ ...drillRequest, recovery, command: command("drill") })
    : null;
  const lines = [
    "Scheduled backups",
    ...(await scheduleLines(storePath, "backup", schedule)),
    ...(drill ? ["Scheduled drills", ...(await scheduleLines(storePath, "drill", drill))] : []),
  ];
  output.result({ schedule, drill }, () => lines);
  await warnWithoutLinger(context, schedule);
}

/**
 * Checks that the settings file has both directories: a timer has neither this shell's options nor
 * its environment.
 *
 * @throws {@link StoreError} usage - if a directory is missing there
 */
function assertDirectoriesSaved({ storePath, settingsPath, settingsInFile }: Context): void {
  const { to, bundle_to } = settingsInFile?.backup ?? {};
  if (to !== undefined && bundle_to !== undefined) return;
  const key = to === undefined ? "backup.to" : "backup.bundle_to";
  throw new StoreError("usage", `${settingsPath} has no ${key}, which a scheduled backup needs`, {
    hint: `Make a backup now, which saves both: hivemind-sqlcipher backup --db ${shellQuote(storePath)} --to DIRECTORY --bundle-to OTHER-DIRECTORY`,
  });
}

/**
 * Checks the scheduled backup's requirements. Returns whether its backups leave the hub running: by
 * the option, like the installed timer's, or as the user answers on a terminal.
 */
async function resolveOnline(context: Context, options: InstallOptions): Promise<boolean> {
  const { outageAdvice, outageNote } = await import("../../service/schedule.js");
  const { isOnlineBackup, scheduledCommand } = await import("../../service/schedule-state.js");
  const { storePath, yes, output } = context;
  const installed = await scheduledCommand(storePath, "backup");
  const isOnline = options.onlineBackups ?? isOnlineBackup(installed);
  const { stopsHub } = await assertBackupPossible(context, options, isOnline);
  if (!stopsHub) return isOnline;
  if (installed === undefined && !yes && !output.json && hasTerminal()) {
    return askYesNo(`Back up without stopping the hub (otherwise ${outageNote})?`);
  }
  output.notice(outageAdvice);
  return false;
}

/**
 * Checks the scheduled backup's requirements with the options and the settings of the timer's run.
 *
 * @returns whether each backup stops a hub that it could leave running
 */
async function assertBackupPossible(
  context: Context,
  options: InstallOptions,
  online: boolean,
): Promise<{ stopsHub: boolean }> {
  const { prepareBackup } = await import("../../backup/prepare.js");
  const { prepareDatabaseBackup } = await import("../../backup/database-backup.js");
  const { resolveSettings } = await import("../../config/settings.js");
  const { HOME } = process.env;
  const { settings } = await resolveSettings(
    { store: { path: context.storePath } },
    { config: context.settingsPath, environment: { HOME } },
  );
  const { to = "", bundle_to: bundleTo = "" } = settings.backup ?? {};
  const scheduled = withValues(context, { settings });
  const plain = await findPlainDatabase(context);
  const { reporter, source } = context;
  const common = {
    knownDirectories: listKnownDirectories(scheduled),
    to,
    bundleTo,
    recipients: settings.recipients ?? [],
  };
  return operate(
    context,
    async (lock, signal) => {
      if (plain) {
        await prepareDatabaseBackup({ ...common, ...plain, lock, source, signal, reporter });
        return { stopsHub: false };
      }
      const operation = buildOperationOptions(scheduled, options, lock, signal);
      const { service, isWal } = await prepareBackup({ ...operation, ...common, online });
      return { stopsHub: isWal && service.service.kind !== "none" };
    },
    { makeDirectory: plain !== undefined },
  );
}

function addRemove(group: Command): void {
  const command = group
    .command("remove")
    .description("Stop and remove the timers of backups and drills");
  finishCommand(command, runRemove, {
    details: ["A backup or drill that is running continues."],
    examples: ["hivemind-sqlcipher schedule remove"],
  });
}

async function runRemove(context: Context): Promise<void> {
  const { removeSchedules } = await import("../../service/schedule.js");
  const { units, dropIns } = await removeSchedules(context.storePath);
  const [unit = null] = units;
  context.output.result({ removed: { unit, units, dropIns } }, () => [
    `Removed ${units.join(" and ")}; nothing is scheduled for this store any more`,
    ...dropIns.map((path) => `Your drop-in was kept: ${path}`),
  ]);
}

function addStatus(group: Command): void {
  const command = group
    .command("status")
    .description("Show when backups run and how the last one ended");
  finishCommand(command, printSchedule, {
    examples: ["hivemind-sqlcipher schedule status", "hivemind-sqlcipher schedule status --json"],
  });
}

async function printSchedule(context: Context): Promise<void> {
  const { readSchedule } = await import("../../service/schedule-state.js");
  const { storePath, output } = context;
  const schedule = (await readSchedule(storePath, "backup")) ?? null;
  const drill = (await readSchedule(storePath, "drill")) ?? null;
  const lines = [
    ...(schedule
      ? await scheduleLines(storePath, "backup", schedule)
      : [`No backups of ${storePath} are scheduled: hivemind-sqlcipher schedule install`]),
    ...(drill ? ["Drills:", ...(await scheduleLines(storePath, "drill", drill))] : []),
  ];
  output.result({ schedule, drill }, () => lines);
  await warnWithoutLinger(context, schedule);
}

async function scheduleLines(
  storePath: string,
  job: ScheduledJob,
  schedule: Schedule,
): Promise<string[]> {
  const { scheduledService } = await import("../../service/schedule-units.js");
  const { journalctlLine } = await import("../../service/systemctl.js");
  const { unit, enabled, active, onCalendar, nextRun, lastRun, dropIns } = schedule;
  const fields = {
    timer: `${unit}, ${enabled ? "enabled" : "not enabled"}, ${active ? "active" : "not active"}`,
    when: onCalendar ?? "see its unit file",
    "next run": nextRun ?? "none",
    "last run": formatLastRun(lastRun),
    "drop-in": dropIns,
    log: journalctlLine(scheduledService(storePath, job)),
  };
  return fieldLines(fields, 14, "");
}

async function warnWithoutLinger({ output }: Context, schedule: Schedule | null): Promise<void> {
  const { lingerCommand } = await import("../../service/linger.js");
  if (schedule === null || schedule.lingers) return;
  output.warning(
    `the timer runs only while you are logged in; to start it at boot: ${lingerCommand()}`,
  );
}
