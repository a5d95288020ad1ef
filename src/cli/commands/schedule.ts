/** Backups by the clock: a systemd user timer. */
import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import type { LastRun, Schedule } from "../../service/schedule.js";
import {
  addCommandGroup,
  addGlobalOptions,
  type Context,
  contextOf,
  ownCommand,
} from "../context.js";

interface InstallOptions {
  onCalendar: string;
  randomDelay: string;
}

export function addScheduleCommands(program: Command): void {
  const schedule = addCommandGroup(
    program,
    "schedule",
    "backups by the clock: a systemd user timer",
  );

  const install = addGlobalOptions(
    schedule
      .command("install")
      .description("install a timer that runs backup for this store, with these settings")
      .option("--on-calendar <time>", "when, as in systemd.time(7)", "daily")
      .option("--random-delay <span>", "begin up to this much later", "15min")
      .addHelpText(
        "after",
        "\nFolders, unit and source of the passphrase are taken from the settings file at\neach run. To be told of a failure, add OnFailure= in a drop-in (systemctl --user\nedit UNIT); drop-ins are never touched.\n\nExamples:\n  hivemind-sqlcipher schedule install\n  hivemind-sqlcipher schedule install --on-calendar 'Mon..Fri 03:30' --random-delay 5min",
      ),
  );
  install.action(async (options: InstallOptions) => runInstall(await contextOf(install), options));

  const remove = addGlobalOptions(
    schedule
      .command("remove")
      .description("stop the timer and remove it; a backup that is running goes on")
      .addHelpText("after", "\nExample:\n  hivemind-sqlcipher schedule remove"),
  );
  remove.action(async () => runRemove(await contextOf(remove)));

  const status = addGlobalOptions(
    schedule
      .command("status")
      .description("when backups run, and how the last one went")
      .addHelpText(
        "after",
        "\nExamples:\n  hivemind-sqlcipher schedule status\n  hivemind-sqlcipher schedule status --json",
      ),
  );
  status.action(async () => runStatus(await contextOf(status)));
}

async function runInstall(context: Context, options: InstallOptions): Promise<void> {
  const { installSchedule } = await import("../../service/schedule.js");
  const schedule = await installSchedule({
    storePath: context.storePath,
    command: backupCommand(context),
    ...options,
  });
  context.output.result({ schedule }, () => ["Backups are scheduled.", ...lines(schedule)]);
  if (!schedule.lingers) context.output.warning(formatLinger());
}

/**
 * The words that run the backup as it would run now. A timer has nothing of this shell's environment, so everything but
 * the store must be in the settings file.
 *
 * @throws StoreError `usage` if the settings do not name both folders.
 */
function backupCommand(context: Context): string[] {
  const { settingsPath, settingsInFile } = context;
  for (const [key, folder] of [
    ["backup.to", settingsInFile?.backup?.to],
    ["backup.bundle_to", settingsInFile?.backup?.bundle_to],
  ]) {
    if (folder !== undefined) continue;
    throw new StoreError("usage", `${settingsPath} does not say where backups go: no "${key}"`, {
      hint: "A timer sees neither options nor this shell's environment: hivemind-sqlcipher backup --to FOLDER --bundle-to ANOTHER makes one now, and remembers them there.",
    });
  }
  return ownCommand(context, "backup");
}

async function runRemove(context: Context): Promise<void> {
  const { removeSchedule } = await import("../../service/schedule.js");
  const removed = await removeSchedule(context.storePath);
  context.output.result({ removed }, () => [
    `Removed: ${removed.unit}. Backups are no longer scheduled.`,
    ...removed.drop_ins.map((path) => `Your drop-ins were left: ${path}`),
  ]);
}

async function runStatus(context: Context): Promise<void> {
  const { scheduleOf } = await import("../../service/schedule.js");
  const schedule = await scheduleOf(context.storePath);
  context.output.result({ schedule: schedule ?? null }, () =>
    schedule
      ? lines(schedule)
      : [`No backups of ${context.storePath} are scheduled: hivemind-sqlcipher schedule install`],
  );
  if (schedule && !schedule.lingers) context.output.warning(formatLinger());
}

function lines(schedule: Schedule): string[] {
  return [
    `timer         ${schedule.unit}, ${schedule.enabled ? "enabled" : "not enabled"}, ${schedule.active ? "running" : "not running"}`,
    `when          ${schedule.on_calendar ?? "see its file"}`,
    `next run      ${schedule.next_run ?? "none"}`,
    `last run      ${formatLastRun(schedule.last_run)}`,
    ...schedule.drop_ins.map((path) => `drop-in       ${path}`),
    `log           journalctl --user --unit ${schedule.service}`,
  ];
}

/** How the last scheduled backup went, in words. */
export function formatLastRun(run: LastRun | null): string {
  if (run === null) return "none yet";
  if (run.result === null) return `${run.at}, before this session: how it went is in its log`;
  if (run.result === "exit-code") return `${run.at}, failed with exit code ${run.exit_code}`;
  return `${run.at}, ${run.result}`;
}

function formatLinger(): string {
  return "the timer runs only while you are logged in; to have it run from boot on: loginctl enable-linger";
}
