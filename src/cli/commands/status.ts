import type { Command } from "commander";
import type { StoreStatus } from "../../diagnostics/status.js";
import { exitCodes, StoreError } from "../../errors.js";
import { choiceOption, finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { buildStatusOptions, collectMetrics, readWithNewestSource } from "../inspect.js";
import { resolveListing } from "../options/backup-directories.js";
import { fieldLines, formatCounts, formatLastRun } from "../ui/lines.js";
import { parseAge } from "../ui/units.js";

export function addCommand(program: Command): void {
  const command = program
    .command("status [target]")
    .description("Show the store, its service, backups and schedule")
    .option("--all", "Show every store that has backups in the target")
    .option("--max-age <age>", "Report stores whose newest backup is older (default: 8d)")
    .addOption(choiceOption("--format <text|prometheus>", "Print text or metrics (default: text)"));
  finishCommand(command, runStatus, {
    details: [
      "Changes neither the store nor the settings. Without --all, exits with 0 whatever the state of the store and the settings, or with 2 if the options are invalid. doctor exits with 1 if it finds a problem.",
      "With --all, prints a line for each store that has backups in the target, which is a directory or rclone:REMOTE:PATH (default: backup.to setting). Exits with 1 if the newest backup of a store is too old, incomplete or dated in the future, if a manifest cannot be read, or if there is no backup. With --quiet, prints only the stores and manifests with such a problem. Manifests are read, but not authenticated: verify --all does that.",
    ],
    examples: [
      "hivemind-sqlcipher status",
      "hivemind-sqlcipher status --json",
      "hivemind-sqlcipher status --all /srv/backup/hivemind --max-age 36h",
    ],
  });
}

async function runStatus(
  context: Context,
  target: string | undefined,
  options: StatusCommandOptions,
): Promise<void> {
  assertOptionsFit(context, target, options);
  if (options.all) await printFleet(context, target, options);
  else if (options.format === "prometheus") {
    process.stdout.write(await readWithNewestSource(context, () => collectMetrics(context)));
  } else await printStatus(context);
}

interface StatusCommandOptions {
  readonly format?: "text" | "prometheus";
  readonly all?: boolean;
  readonly maxAge?: string;
}

function assertOptionsFit(
  { output }: Context,
  target: string | undefined,
  { format, all, maxAge }: StatusCommandOptions,
): void {
  const hint = "Leave one of them out.";
  if (format === "prometheus" && output.json) {
    throw new StoreError("usage", "--format prometheus and --json exclude each other", { hint });
  }
  if (format === "prometheus" && all) {
    throw new StoreError("usage", "--format prometheus and --all exclude each other", { hint });
  }
  if (!all && (target !== undefined || maxAge !== undefined)) {
    throw new StoreError("usage", "a target and --max-age apply only with --all", {
      hint: "Add --all to see every store in the target.",
    });
  }
}

/** A weekly backup may be late by a day, as for `doctor`. */
const defaultMaxAge = "8d";

async function printFleet(
  context: Context,
  target: string | undefined,
  { maxAge = defaultMaxAge }: StatusCommandOptions,
): Promise<void> {
  const { listFleet } = await import("../../backup/fleet.js");
  const { withFleet } = await import("../../copies/view.js");
  const { judgeFleet } = await import("../../diagnostics/fleet.js");
  const { fleetStatusLines } = await import("../ui/fleet-status.js");
  const { folder, storePath } = resolveListing(context, target, {});
  const maxAgeSeconds = parseAge(maxAge, "--max-age");
  const status = await withFleet(folder, async (files, translatePaths) =>
    translatePaths(judgeFleet(await listFleet(files, storePath), maxAgeSeconds)),
  );
  const lines = await fleetStatusLines(context.output, status);
  context.output.result(status, () => lines);
  if (!status.ok) process.exitCode = exitCodes.failed;
}

async function printStatus(context: Context): Promise<void> {
  const { readStoreStatus } = await import("../../diagnostics/status.js");
  const read = () => readStoreStatus(buildStatusOptions(context));
  const status = await readWithNewestSource(context, read);
  context.output.result(status, () => statusLines(status, context));
}

function statusLines(status: StoreStatus, { output }: Context): string[] {
  const { clients, database, lastBackup: backup, schedule, pending } = status;
  const lines = (fields: Parameters<typeof fieldLines>[0]) => fieldLines(fields, 15, "");
  const warning = (line: string) => output.style("yellow", line);
  const failed = [...status.runs].filter(([, run]) => run.exit_code !== 0);
  return [
    ...lines({
      store: status.path,
      format: formatName(status),
      "hub's database": database && `${database.location} (${database.module}), not encrypted`,
      key_id: status.keyId,
      schema: status.schemaVersion,
      clients: clients && formatCounts(clients),
      service: status.service && serviceText(status.service),
      "last backup": backup ? `${backup.path}, ${backup.createdAt}` : "none known",
    }),
    ...lines({
      failed: failed.map(([name, run]) => `${name}, ${run.at}, exit code ${run.exit_code}`),
    }).map(warning),
    ...status.copies.map((copy) => {
      const line = `copied         ${copy.contents} to ${copy.target}, ${copy.succeeded_at ?? "never"}`;
      const problem = copy.skipped ?? copy.error;
      return problem === null ? line : warning(`${line}; the last run: ${problem}`);
    }),
    ...lines({
      schedule:
        schedule &&
        `${schedule.onCalendar ?? schedule.unit}, next run ${schedule.nextRun ?? (schedule.active ? "unknown" : "never: the timer is not active")}`,
      "  last run": schedule && formatLastRun(schedule.lastRun),
    }),
    ...lines({
      unfinished:
        pending &&
        `${pending.operation}, since ${pending.startedAt}: it is running, or the next command recovers it`,
      problem: status.problems,
    }).map(warning),
  ];
}

function serviceText(service: NonNullable<StoreStatus["service"]>): string {
  if (service.kind === "none") return "none";
  return `${service.unit ?? service.kind}, ${service.active ? "running" : "not running"}`;
}

function formatName({ format, cipherCompatibility: version }: StoreStatus): string {
  if (format === "sqlcipher") return version === null ? "encrypted" : `SQLCipher ${version}`;
  if (format === "plaintext") return "not encrypted";
  return format === "absent" ? "no store yet" : "not a database";
}
