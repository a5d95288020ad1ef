import type { Command } from "commander";
import { addGlobalOptions, type Context, contextOf } from "../context.js";

export function addRemove(schedule: Command): void {
  const remove = addGlobalOptions(
    schedule
      .command("remove")
      .description("stop the timer and remove it; a backup that is running goes on")
      .addHelpText("after", "\nExample:\n  hivemind-sqlcipher schedule remove"),
  );
  remove.action(async () => runRemove(await contextOf(remove)));
}

async function runRemove(context: Context): Promise<void> {
  const { removeSchedule } = await import("../../service/schedule.js");
  const removed = await removeSchedule(context.storePath);
  context.output.result({ removed }, () => [
    `Removed: ${removed.unit}. Backups are no longer scheduled.`,
    ...removed.drop_ins.map((path) => `Your drop-ins were left: ${path}`),
  ]);
}
