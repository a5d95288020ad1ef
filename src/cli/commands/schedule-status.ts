import type { Command } from "commander";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { formatLinger, scheduleLines } from "../ui/schedule-text.js";

export function addStatus(schedule: Command): void {
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

async function runStatus(context: Context): Promise<void> {
  const { scheduleOf } = await import("../../service/schedule.js");
  const schedule = await scheduleOf(context.storePath);
  context.output.result({ schedule: schedule ?? null }, () =>
    schedule
      ? scheduleLines(schedule)
      : [`No backups of ${context.storePath} are scheduled: hivemind-sqlcipher schedule install`],
  );
  if (schedule && !schedule.lingers) context.output.warning(formatLinger());
}
