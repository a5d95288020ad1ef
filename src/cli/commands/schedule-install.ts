import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import { finishCommand } from "../command.js";
import { type Context, ownCommand, withValues } from "../context.js";
import { findPlainDatabase } from "../open.js";
import {
  addServiceOptions,
  buildOperationOptions,
  listKnownDirectories,
  operate,
  type ServiceOptions,
  saveService,
} from "../options/operation.js";
import { toJson } from "../ui/json.js";
import { lingerWarning, scheduleLines } from "../ui/schedule-text.js";

interface InstallOptions extends ServiceOptions {
  drill?: string;
  onCalendar: string;
  randomDelay: string;
}

export function addInstall(group: Command): void {
  const command = addServiceOptions(
    group
      .command("install")
      .description("Install a timer that backs up this store")
      .option("--on-calendar <time>", "Run at this time, as in systemd.time(7)", "daily")
      .option("--random-delay <span>", "Delay each run by up to this long", "15min")
      .option("--drill <time>", "Run a restore drill at this time, too, such as monthly"),
  );
  finishCommand(command, runInstall, {
    details: [
      "Each run reads the directories, the service and the passphrase's source from the settings file, where this command saves its options for the service. The backup's requirements are checked before the timer is installed. For a notification of failures, add OnFailure= in a drop-in with systemctl --user edit UNIT; drop-ins are never changed.",
      "Without --drill, a drill that is scheduled already stays scheduled.",
    ],
    examples: [
      "hivemind-sqlcipher schedule install",
      "hivemind-sqlcipher schedule install --on-calendar 'Mon..Fri 03:30' --drill monthly",
    ],
  });
}

async function runInstall(context: Context, options: InstallOptions): Promise<void> {
  const { assertSchedulable, installSchedule, lingerCommand, readSchedule, scheduledService } =
    await import("../../service/schedule.js");
  const { journalctlLine } = await import("../../service/systemctl.js");
  const { storePath, output } = context;
  const { onCalendar, randomDelay } = options;
  const command = buildBackupCommand(context);
  const request = { storePath, job: "backup", command, onCalendar, randomDelay } as const;
  const drillTime = options.drill ?? (await readSchedule(storePath, "drill"))?.onCalendar;
  const drillRequest = drillTime && {
    ...{ ...request, job: "drill" as const, onCalendar: drillTime },
    command: ownCommand(context, "drill"),
  };
  await assertSchedulable(request);
  if (drillRequest) await assertSchedulable(drillRequest);
  await assertBackupPossible(context, options);
  await saveService(context, options);
  const schedule = await installSchedule(request);
  const drill = drillRequest ? await installSchedule(drillRequest) : null;
  output.result(toJson({ schedule, drill }), () => [
    "Scheduled backups",
    ...scheduleLines(schedule, journalctlLine(scheduledService(storePath, "backup"))),
    ...(drill
      ? [
          "Scheduled drills",
          ...scheduleLines(drill, journalctlLine(scheduledService(storePath, "drill"))),
        ]
      : []),
  ]);
  if (!schedule.lingers) context.output.warning(lingerWarning(lingerCommand()));
}

/**
 * Returns the command line of the scheduled backup.
 *
 * A timer has neither this shell's options nor its environment, so both directories must be in the
 * settings file.
 *
 * @throws {@link StoreError} usage - if the settings file lacks a directory
 */
function buildBackupCommand(context: Context): string[] {
  const { settingsPath, settingsInFile } = context;
  const { to, bundle_to } = settingsInFile?.backup ?? {};
  if (to === undefined || bundle_to === undefined) {
    const key = to === undefined ? "backup.to" : "backup.bundle_to";
    throw new StoreError("usage", `${settingsPath} has no ${key}, which a scheduled backup needs`, {
      hint: "Make a backup now, which saves both: hivemind-sqlcipher backup --to DIRECTORY --bundle-to OTHER-DIRECTORY.",
    });
  }
  return ownCommand(context, "backup");
}

/**
 * Checks the scheduled backup's requirements with the options and the settings of the timer's run.
 */
async function assertBackupPossible(context: Context, options: InstallOptions): Promise<void> {
  const { checkBackup } = await import("../../backup/backup.js");
  const { checkDatabaseBackup } = await import("../../backup/database-backup.js");
  const { resolveSettings } = await import("../../config/settings.js");
  const { HOME } = process.env;
  const { settings } = await resolveSettings(
    { store: { path: context.storePath } },
    { config: context.settingsPath, environment: { HOME } },
  );
  const { to = "", bundle_to: bundleTo = "" } = settings.backup ?? {};
  const scheduled = withValues(context, { settings });
  const plain = await findPlainDatabase(context);
  const { reporter } = context;
  const common = {
    knownDirectories: listKnownDirectories(scheduled),
    to,
    bundleTo,
    recipients: settings.recipients ?? [],
  };
  await operate(
    context,
    (lock, signal) =>
      plain
        ? checkDatabaseBackup({
            ...{ ...common, ...plain, lock, signal, reporter },
            source: context.source,
          })
        : checkBackup({ ...buildOperationOptions(scheduled, options, lock, signal), ...common }),
    { makeDirectory: plain !== undefined },
  );
}
