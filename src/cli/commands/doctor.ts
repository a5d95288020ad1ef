import type { Command } from "commander";
import type { Diagnosis } from "../../diagnostics/doctor.js";
import { counted } from "../../text/count.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import { type Context, programLine } from "../context.js";
import { buildDoctorOptions, readWithNewestSource } from "../inspect.js";
import { addServiceOptions, type ServiceOptions } from "../options/service.js";

interface DoctorOptions extends ServiceOptions {
  fillGaps?: boolean;
  hubPython?: string;
}

export function addCommand(program: Command): void {
  const command = program
    .command("doctor")
    .description("Check the store, hub, keyring and backups for problems")
    .option("--fill-gaps", "Insert revoked rows where client ids are missing")
    .option("--hub-python <path>", "Use this Python of the hub (default: from its unit)");
  addServiceOptions(command);
  finishCommand(command, runDoctor, {
    details: [
      "Prints each check, with a fix for each finding, and exits with 1 if there is a finding. With --quiet, as for cron, prints only the findings. Changes nothing without --fill-gaps. The hub gives a new client the number of rows plus one as its id, so if ids are missing, it overwrites an existing client: --fill-gaps inserts a revoked row for each missing id.",
    ],
    examples: [
      "hivemind-sqlcipher doctor",
      "hivemind-sqlcipher doctor --quiet",
      "hivemind-sqlcipher doctor --fill-gaps",
      "hivemind-sqlcipher doctor --json | jq '.checks[] | select(.ok | not)'",
    ],
  });
}

async function runDoctor(context: Context, options: DoctorOptions): Promise<void> {
  const { doctor } = await import("../../diagnostics/doctor.js");
  const { output } = context;
  const program = programLine(context);
  const diagnosis = await readWithNewestSource(context, () =>
    doctor({ ...buildDoctorOptions(context, options), program }),
  );
  output.result(diagnosis, () => diagnosisLines(diagnosis, context));
  if (!diagnosis.ok) process.exitCode = 1;
}

function diagnosisLines({ checks, filled }: Diagnosis, { output }: Context): string[] {
  const marks = {
    error: output.style("red", "ERROR  "),
    warning: output.style("yellow", "WARNING"),
    note: output.style("green", "ok     "),
  };
  const findings = checks.filter(({ ok }) => !ok).length;
  const shown = output.quiet ? checks.filter(({ ok }) => !ok) : checks;
  return [
    ...(filled ? [`Filled ${counted(filled, "missing id")} with revoked rows.`] : []),
    ...shown.flatMap(({ name, severity, detail, fix }) => [
      `${marks[severity]}  ${name.padEnd(13)}  ${escapeControlCharacters(detail)}`,
      ...(fix === null ? [] : fixLines(fix).map((line) => output.style("dim", line))),
    ]),
    ...(output.quiet
      ? []
      : [findings === 0 ? "No problems found." : `${counted(findings, "finding")}.`]),
  ];
}

function fixLines(fix: string): string[] {
  return fix
    .split("\n")
    .map(
      (line, index) =>
        `         ${index === 0 ? "fix: " : "     "}${escapeControlCharacters(line)}`,
    );
}
