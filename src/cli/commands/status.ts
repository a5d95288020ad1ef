import type { Command } from "commander";
import type { StoreStatus } from "../../diagnostics/status.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { serviceChoice } from "../options/operation.js";
import { formatLastRun } from "../ui/schedule-text.js";

export function addCommand(program: Command): void {
  const status = addGlobalOptions(
    program
      .command("status")
      .description(
        "what this store is, and how it is doing; changes nothing, exits 0 whatever it finds",
      )
      .addHelpText(
        "after",
        "\nExamples:\n  hivemind-sqlcipher status\n  hivemind-sqlcipher status --json",
      ),
  );
  status.action(async () => runStatus(await contextOf(status)));
}

async function runStatus(context: Context): Promise<void> {
  const { storeStatus } = await import("../../diagnostics/status.js");
  const status = await storeStatus({
    storePath: context.storePath,
    source: context.source,
    service: serviceChoice(context, {}),
    backupFolder: context.settings.backup?.to,
  });
  const { output } = context;
  output.result(status, () => [
    `store          ${status.path}`,
    `format         ${format(status.format, status.cipher_compatibility)}`,
    ...(status.key_id ? [`key_id         ${status.key_id}`] : []),
    ...(status.schema_version === null ? [] : [`schema         ${status.schema_version}`]),
    ...(status.clients
      ? [`clients        ${status.clients.active}, and ${status.clients.revoked} revoked`]
      : []),
    ...(status.service ? [`service        ${formatService(status.service)}`] : []),
    `last backup    ${status.last_backup ? `${status.last_backup.path}, ${status.last_backup.created_at}` : "none known"}`,
    ...(status.schedule
      ? [
          `schedule       ${status.schedule.on_calendar ?? status.schedule.unit}, next ${status.schedule.next_run ?? "never: the timer does not run"}`,
          `  last run     ${formatLastRun(status.schedule.last_run)}`,
        ]
      : []),
    ...(status.pending
      ? [
          output.style(
            "yellow",
            `interrupted    ${status.pending.operation}, since ${status.pending.started_at}; the next command settles it`,
          ),
        ]
      : []),
    ...status.problems.map((problem) => output.style("yellow", `note           ${problem}`)),
  ]);
}

function formatService({ kind, unit, active }: NonNullable<StoreStatus["service"]>): string {
  if (kind === "none") return "none";
  return `${unit ?? kind}, ${active ? "running" : "not running"}`;
}

function format(format: string, compatibility: number | null): string {
  if (format === "sqlcipher") {
    return compatibility === null ? "encrypted" : `SQLCipher ${compatibility}`;
  }
  if (format === "plaintext") return "not encrypted";
  return format === "absent" ? "there is no store yet" : "not a database";
}
