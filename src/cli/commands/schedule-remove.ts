import type { Command } from "commander";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import { toJson } from "../ui/json.js";

export function addRemove(group: Command): void {
  const command = group.command("remove").description("Stop and remove the timer");
  addGlobalOptions(command);
  addHelp(command, {
    details: ["A backup that is running continues."],
    examples: ["hivemind-sqlcipher schedule remove"],
  });
  command.action(async () => runRemove(await contextOf(command)));
}

async function runRemove(context: Context): Promise<void> {
  const { removeSchedule } = await import("../../service/schedule.js");
  const removed = await removeSchedule(context.storePath);
  context.output.result(toJson({ removed }), () => [
    `Removed ${removed.unit}; backups are no longer scheduled`,
    ...removed.dropIns.map((path) => `Your drop-in was kept: ${path}`),
  ]);
}
