import { type Command, Option } from "commander";
import type { StoreStatus } from "../../diagnostics/status.js";
import { StoreError } from "../../errors.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import { collectMetrics, statusOptions } from "../inspect.js";
import { toJson } from "../ui/json.js";
import { formatLastRun } from "../ui/schedule-text.js";

export function addCommand(program: Command): void {
  const command = program
    .command("status")
    .description("Show the store, its service, backups and schedule")
    .addOption(
      new Option("--format <text|prometheus>", "Print text or metrics (default: text)").choices([
        "text",
        "prometheus",
      ]),
    );
  addGlobalOptions(command);
  addHelp(command, {
    details: [
      "Changes nothing. Exits with 0 whatever the state of the store and the settings, and with 2 only if the options are invalid. doctor exits with 1 if it finds a problem.",
    ],
    examples: ["hivemind-sqlcipher status", "hivemind-sqlcipher status --json"],
  });
  command.action(async ({ format }: { format?: "text" | "prometheus" }) => {
    const context = await contextOf(command);
    if (format !== "prometheus") return await printStatus(context);
    if (context.output.json) {
      throw new StoreError("usage", "--format prometheus and --json exclude each other", {
        hint: "Give only the option that applies.",
      });
    }
    process.stdout.write(await collectMetrics(context));
  });
}

async function printStatus(context: Context): Promise<void> {
  const { storeStatus } = await import("../../diagnostics/status.js");
  const status = await storeStatus(statusOptions(context));
  context.output.result(toJson(status), () => statusLines(status, context));
}

function statusLines(status: StoreStatus, { output }: Context): string[] {
  const { clients, lastBackup: backup, schedule, pending } = status;
  const optional = (value: unknown, line: () => string) => (value === null ? [] : [line()]);
  const warning = (line: string) => output.style("yellow", line);
  return [
    `store          ${status.path}`,
    `format         ${formatName(status)}`,
    ...optional(
      status.database,
      () =>
        `hub's database ${status.database?.location} (${status.database?.module}), not encrypted`,
    ),
    ...optional(status.keyId, () => `key_id         ${status.keyId}`),
    ...optional(status.schemaVersion, () => `schema         ${status.schemaVersion}`),
    ...optional(
      clients,
      () => `clients        ${clients?.active} active, ${clients?.revoked} revoked`,
    ),
    ...optional(status.service, () => `service        ${serviceText(status.service)}`),
    `last backup    ${backup ? `${backup.path}, ${backup.createdAt}` : "none known"}`,
    ...[...status.runs]
      .filter(([, run]) => run.exit_code !== 0)
      .map(([operation, run]) =>
        warning(`failed         ${operation}, ${run.at}, exit code ${run.exit_code}`),
      ),
    ...status.copies.map((copy) => {
      const line = `copied         ${copy.contents} to ${copy.target}, ${copy.succeededAt ?? "never"}`;
      const problem = copy.skipped ?? copy.error;
      return problem === null ? line : warning(`${line}; the last run: ${problem}`);
    }),
    ...(schedule
      ? [
          `schedule       ${schedule.onCalendar ?? schedule.unit}, next run ${schedule.nextRun ?? "never: the timer is not active"}`,
          `  last run     ${formatLastRun(schedule.lastRun)}`,
        ]
      : []),
    ...(pending
      ? [
          warning(
            `interrupted    ${pending.operation}, since ${pending.startedAt}; the next command recovers it`,
          ),
        ]
      : []),
    ...status.problems.map((problem) => warning(`problem        ${problem}`)),
  ];
}

function serviceText(service: StoreStatus["service"]): string {
  if (service === null || service.kind === "none") return "none";
  return `${service.unit ?? service.kind}, ${service.active ? "running" : "not running"}`;
}

function formatName({ format, cipherCompatibility: version }: StoreStatus): string {
  if (format === "sqlcipher") return version === null ? "encrypted" : `SQLCipher ${version}`;
  if (format === "plaintext") return "not encrypted";
  return format === "absent" ? "no store yet" : "not a database";
}
