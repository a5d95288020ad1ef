import type { Command } from "commander";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { toJson } from "../ui/json.js";
import { lingerWarning, scheduleLines } from "../ui/schedule-text.js";

export function addStatus(group: Command): void {
  const command = group
    .command("status")
    .description("Show when backups run and how the last one ended");
  finishCommand(command, printSchedule, {
    examples: ["hivemind-sqlcipher schedule status", "hivemind-sqlcipher schedule status --json"],
  });
}

async function printSchedule({ storePath, output }: Context): Promise<void> {
  const { lingerCommand, readSchedule, scheduledService } = await import(
    "../../service/schedule.js"
  );
  const { journalctlLine } = await import("../../service/systemctl.js");
  const schedule = await readSchedule(storePath, "backup");
  const drill = await readSchedule(storePath, "drill");
  output.result(toJson({ schedule: schedule ?? null, drill: drill ?? null }), () => [
    ...(schedule
      ? scheduleLines(schedule, journalctlLine(scheduledService(storePath, "backup")))
      : [`No backups of ${storePath} are scheduled: hivemind-sqlcipher schedule install`]),
    ...(drill
      ? ["Drills:", ...scheduleLines(drill, journalctlLine(scheduledService(storePath, "drill")))]
      : []),
  ]);
  if (schedule && !schedule.lingers) output.warning(lingerWarning(lingerCommand()));
}
