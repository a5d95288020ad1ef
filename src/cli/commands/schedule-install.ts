import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import { addGlobalOptions, type Context, contextOf, ownCommand } from "../context.js";
import { formatLinger, scheduleLines } from "../ui/schedule-text.js";

interface InstallOptions {
  onCalendar: string;
  randomDelay: string;
}

export function addInstall(schedule: Command): void {
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
}

async function runInstall(context: Context, options: InstallOptions): Promise<void> {
  const { installSchedule } = await import("../../service/schedule.js");
  const schedule = await installSchedule({
    storePath: context.storePath,
    command: backupCommand(context),
    ...options,
  });
  context.output.result({ schedule }, () => ["Backups are scheduled.", ...scheduleLines(schedule)]);
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
