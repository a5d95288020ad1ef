import type { Command } from "commander";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { toJson } from "../ui/json.js";

export function addRemove(group: Command): void {
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
  context.output.result(toJson({ removed: { unit, units, dropIns } }), () => [
    `Removed ${units.join(" and ")}; nothing is scheduled for this store any more`,
    ...dropIns.map((path) => `Your drop-in was kept: ${path}`),
  ]);
}
