import type { Command } from "commander";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addServiceOptions, type ServiceOptions, serviceChoice } from "../options/operation.js";

interface DoctorCommandOptions extends ServiceOptions {
  fillGaps?: boolean;
  hubPython?: string;
}

export function addCommand(program: Command): void {
  const doctor = addGlobalOptions(
    addServiceOptions(
      program
        .command("doctor")
        .description("check everything that could cost you the store, each finding with its fix")
        .option("--fill-gaps", "put revoked rows where ids are missing, lest the hub overwrite")
        .option("--hub-python <path>", "the hub's Python, where it cannot be told from its unit"),
    ).addHelpText(
      "after",
      "\nExits with 1 if there is a finding. Only --fill-gaps changes anything.\n\nExamples:\n  hivemind-sqlcipher doctor\n  hivemind-sqlcipher doctor --fill-gaps\n  hivemind-sqlcipher doctor --json | jq '.checks[] | select(.ok | not)'",
    ),
  );
  doctor.action(async (options: DoctorCommandOptions) =>
    runDoctor(await contextOf(doctor), options),
  );
}

async function runDoctor(context: Context, options: DoctorCommandOptions): Promise<void> {
  const { doctor } = await import("../../diagnostics/doctor.js");
  const { output, settings } = context;
  const diagnosis = await doctor({
    storePath: context.storePath,
    settingsPath: context.settingsPath,
    backupFolder: settings.backup?.to,
    bundleFolder: settings.backup?.bundle_to,
    source: context.source,
    service: serviceChoice(context, options),
    hubPython: options.hubPython,
    fillGaps: options.fillGaps ?? false,
  });
  const marks = {
    error: output.style("red", "ERROR  "),
    warning: output.style("yellow", "WARNING"),
    note: output.style("green", "ok     "),
  };
  output.result(diagnosis, () => {
    const findings = diagnosis.checks.filter(({ ok }) => !ok).length;
    const lines = diagnosis.checks.flatMap(({ name, severity, detail, fix }) => [
      `${marks[severity]}  ${name.padEnd(13)}  ${escapeControlCharacters(detail)}`,
      ...(fix === null
        ? []
        : [`         ${output.style("dim", `fix: ${escapeControlCharacters(fix)}`)}`]),
    ]);
    return [
      ...(diagnosis.filled ? [`${diagnosis.filled} revoked rows were put into gaps.`] : []),
      ...lines,
      findings === 0 ? "All is well." : `${findings} finding${findings === 1 ? "" : "s"}.`,
    ];
  });
  if (!diagnosis.ok) process.exitCode = 1;
}
