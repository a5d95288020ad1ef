import { type Command, Option } from "commander";
import { hubContainer } from "../../config/hub-account.js";
import { expandIfGiven } from "../../config/paths.js";
import { exitCodes, StoreError } from "../../errors.js";
import { formatSource, parseSource } from "../../keys/source.js";
import { isManager, type Manager } from "../../service/systemctl.js";
import type { Obstacle } from "../../setup/obstacles.js";
import type { Plan } from "../../setup/plan.js";
import type { RecoveryKeyFile } from "../../setup/recovery-key-file.js";
import type { SetupRequest } from "../../setup/request.js";
import type { Survey } from "../../setup/survey.js";
import { addHelp } from "../command.js";
import {
  addGlobalOptions,
  type Context,
  ownCommand,
  programLine,
  recoveryCommand,
  withValues,
} from "../context.js";
import { buildDoctorOptions } from "../inspect.js";
import { recoverFirst } from "../open.js";
import {
  addRecipientOptions,
  buildRecipientOptions,
  type RecipientCommandOptions,
} from "../options/recovery-key.js";
import { resolveServiceChoice } from "../options/service.js";
import { assertUnused } from "../options/unused.js";
import { resolveSetupContext } from "../system-hub.js";
import { toJson } from "../ui/json.js";
import { hasTerminal } from "../ui/prompt.js";
import { obstacleLines, planLines, setupLines, undoLines, undoStepLines } from "../ui/setup.js";

interface SetupOptions extends RecipientCommandOptions {
  dryRun?: boolean;
  undo?: boolean;
  to?: string;
  bundleTo?: string;
  onlineBackups?: boolean;
  installHubPackages?: boolean;
  unit?: string;
  service?: "auto" | Manager;
  hubPython?: string;
  headless?: boolean;
}

export function addCommand(program: Command): void {
  const command = program
    .command("setup")
    .description("Set up an encrypted store with backups for a hub")
    .option("--dry-run", "Show the plan, change nothing")
    .option("--undo", "Restore the hub's former database, with its clients")
    .option("--headless", "Set up for reboots without a login")
    .option("--to <directory>", "Write backups here (default: on another disk)")
    .option("--bundle-to <directory>", "Write bundles here, apart from the backups")
    .option("--online-backups", "Back up without stopping the hub")
    .option("--install-hub-packages", "Install the hub's SQLite plugin with its pip")
    .option("--unit <name>", "Set up this systemd unit (default: the hub's)")
    .addOption(
      new Option("--service <kind>", "Look for the unit in this manager (default: both)").choices([
        "auto",
        "systemd-user",
        "systemd",
      ]),
    )
    .option("--hub-python <path>", "Use this Python of the hub (default: from its unit)");
  addRecipientOptions(command);
  addGlobalOptions(command);
  addHelp(command, {
    details: [
      "Inspects the hub's unit, packages, database and server.json, prints a plan, and asks once. Then it creates or converts the store, switches server.json, starts the hub through run by a drop-in, makes and verifies the first backup and its bundle, and installs a daily timer. If it is interrupted, the hub runs, and the same command continues.",
      "Root sets up a system unit that runs as another user: systemd-creds seals the passphrase to this machine, and systemd unseals it for the unit. --headless does so for every system unit, and with systemd 256 or later for a user unit; otherwise it names the commands that unlock the keyring at boot.",
      "For a hub in a container, it writes a drop-in for the quadlet (Podman since 5.0) or an override of the compose file (Docker, Podman; for a project of root as root), and prints the steps for any other container.",
      "With --yes it needs --recovery-key-file, or --recipient, and --install-hub-packages if the hub's packages ignore the password; on a terminal, the plan contains their installation. --undo keeps the clients that were added since, and the encrypted store.",
    ],
    examples: [
      "hivemind-sqlcipher setup --dry-run",
      "hivemind-sqlcipher setup --yes --recovery-key-file ~/recovery-key.txt",
      "hivemind-sqlcipher setup --undo",
    ],
  });
  command.action(async ({ recoveryKeyFile, ...given }: SetupOptions) => {
    const file = expandIfGiven(recoveryKeyFile);
    const options = file === undefined ? given : { ...given, recoveryKeyFile: file };
    const context = await resolveSetupContext(command, options);
    await (options.undo ? runUndo(context, options) : runSetup(command, context, options));
  });
}

async function runSetup(command: Command, context: Context, given: SetupOptions): Promise<void> {
  const { abortOnSignal } = await import("../../process/signals.js");
  const { survey } = await import("../../setup/survey.js");
  const { keepsHubRunning } = await import("../../setup/facts.js");
  const { isFinished, planSetup } = await import("../../setup/plan.js");
  const { readRecoveryKey, resolveRecoveryKeyFile } = await import(
    "../../setup/recovery-key-file.js"
  );
  const { quoteCommand } = await import("../../service/unit-file.js");
  const { output } = context;
  // A killed setup may have left the hub stopped.
  if (!given.dryRun) await recoverFirst(context);
  const found = await survey(buildChoice(context, given));
  const onlineBackups = keepsHubRunning(found, given.onlineBackups ?? false);
  const options = { ...given, onlineBackups };
  const key = await resolveRecoveryKeyFile(found, {
    path: options.recoveryKeyFile,
    recipients: options.recipient ?? [],
  });
  const request = (signal: AbortSignal) => buildRequest(context, options, signal, key);
  const plan = planSetup(found, {
    installHubPackages: options.installHubPackages || isPlanConfirmed(context),
    onlineBackups,
    isHeadless: options.headless ?? false,
    scheduledCommand: quoteCommand(...request(new AbortController().signal).backupCommand),
    recoveryKeyFile: key.isTaken ? key.path : key.newKeyPath,
    isRecoveryKeyFileTaken: key.isTaken,
    hasRecipient: key.recipients.length > 0,
  });
  if (options.dryRun) return showPlan(context, found, plan);
  if (plan.obstacles.length > 0) throw obstacleError(plan.obstacles);
  if (isFinished(plan, found)) {
    const document = { changed: false, unit: found.hubs[0]?.name, store: found.storePath };
    output.result({ setup: document }, () => [
      `Nothing to do: ${document.unit} runs on the encrypted store ${document.store}, with backups`,
    ]);
    return;
  }
  await assertKeyDelivery(context, found, key, request(new AbortController().signal));
  if (!output.json) output.line(planLines(found, plan).join("\n"));
  await context.reporter.confirm("Continue?");
  const { setUp } = await import("../../setup/set-up.js");
  const result = await abortOnSignal((signal) => setUp(request(signal), found, plan));
  const program = programLine(context);
  const findings = await diagnose(await resolveSetupContext(command, options), options, program);
  // The file of this setup, or of an earlier one; not another key, nor a file that was not needed.
  const isFileInUse = (await readRecoveryKey(key)) !== undefined;
  const known = { onlineBackups, recoveryKeyFile: isFileInUse ? key.path : undefined };
  output.result(toJson({ setup: { ...result, findings } }), () =>
    setupLines(context, found, result, findings, known, program),
  );
}

/** Returns whether the user sees the plan, with the packages to install, and confirms it. */
function isPlanConfirmed({ yes, output }: Context): boolean {
  return !yes && !output.json && hasTerminal();
}

function buildChoice(context: Context, options: SetupOptions) {
  const { storePath, settings, settingsPath, settingsSection, source } = context;
  const { service, unit } = resolveServiceChoice(context, options);
  // The survey finds why a container in the settings, as of a setup that was undone, is no hub.
  if ((service === "command" || service === "none") && hubContainer() === undefined) {
    throw new StoreError("usage", `setup works with units and containers, not with ${service}`, {
      hint: "Name the hub's unit with --unit NAME; docs/guide/containers.md has the steps for a container.",
    });
  }
  return {
    storePath,
    settings,
    settingsPath,
    section: settingsSection,
    source,
    unit,
    manager: isManager(service) ? service : undefined,
    hubPython: options.hubPython,
    to: options.to,
    bundleTo: options.bundleTo,
    isHeadless: options.headless ?? false,
  };
}

function buildRequest(
  context: Context,
  options: SetupOptions,
  signal: AbortSignal,
  recoveryKeyFile: RecoveryKeyFile,
): SetupRequest {
  const { source, reporter, settingsInFile } = context;
  const { recipients, recoveryKey } = buildRecipientOptions(context, {
    recoveryKeyFile: recoveryKeyFile.newKeyPath,
    recipient: recoveryKeyFile.recipients,
  });
  // The unit and the timer read the settings that setup saves first.
  const passphrase_source = formatSource(source);
  const saved = withValues(context, {
    settingsInFile: { ...settingsInFile, passphrase_source },
  });
  return {
    ...buildChoice(context, options),
    backupCommand: ownCommand(saved, "backup", ...(options.onlineBackups ? ["--online"] : [])),
    recipients,
    recoveryKey,
    recoveryKeyFile,
    ownCommand: (...args) => ownCommand(saved, ...args),
    // The hub's user cannot read the settings of root.
    preparation: ownCommand(
      { ...context, settingsInFile: undefined, source: parseSource("credential") },
      "run",
    ),
    recoveryCommand: recoveryCommand(saved),
    reporter,
    signal,
  };
}

/** @throws {@link StoreError} usage - if a new recovery key is needed and cannot be delivered */
async function assertKeyDelivery(
  { yes }: Context,
  found: Survey,
  { isIncomplete }: RecoveryKeyFile,
  { recipients, recoveryKey }: SetupRequest,
): Promise<void> {
  const { needsKeys } = await import("../../setup/facts.js");
  const isKnown = found.recipients.length + recipients.length > 0;
  if (!needsKeys(found) || isKnown) return;
  if (yes && !recoveryKey.isRequested) {
    throw new StoreError("usage", "--yes requires a file for the recovery key", {
      hint: "Add --recovery-key-file PATH, or --recipient with a key that you already have.",
    });
  }
  if (!isIncomplete) await recoveryKey.assertPossible();
}

/** Returns the findings of doctor after a setup, each with its fix. */
async function diagnose(context: Context, options: SetupOptions, program: string) {
  const { doctor } = await import("../../diagnostics/doctor.js");
  const { checks } = await doctor({ ...buildDoctorOptions(context, options), program });
  return checks.filter(({ ok }) => !ok);
}

function showPlan({ output }: Context, found: Survey, plan: Plan): void {
  const { steps, obstacles, notices } = plan;
  const document = { unit: found.hubs[0]?.name ?? null, store: found.storePath };
  output.result({ plan: { ...document, steps, obstacles, notices } }, () => [
    ...planLines(found, plan),
    ...obstacles.flatMap(obstacleLines),
  ]);
  const [first] = obstacles;
  if (first !== undefined) process.exitCode = exitCodes[first.kind];
}

function obstacleError(obstacles: readonly Obstacle[]): StoreError {
  const [first] = obstacles;
  const problems = obstacles.map(({ problem }) => problem).join("; ");
  return new StoreError(first?.kind ?? "refused", `setup cannot begin: ${problems}`, {
    hint: obstacles.map(({ fix }) => fix).join("\n"),
  });
}

/** The options that `--undo` does not read. */
const optionsOfSetup = [
  "service",
  "to",
  "bundleTo",
  "onlineBackups",
  "installHubPackages",
  "recoveryKeyFile",
  "recipient",
  "headless",
] as const;

/** @throws {@link StoreError} usage - if an option contradicts an undo */
async function assertUndoOptions(
  { settingsPath, storePath }: Context,
  options: SetupOptions,
): Promise<void> {
  assertUnused(
    options,
    optionsOfSetup,
    "cannot be combined with --undo",
    "Omit it: --undo returns the unit of the setup to its former database.",
  );
  const { readSetupRecord } = await import("../../setup/record.js");
  const { fullUnitName, shortUnitName } = await import("../../service/systemctl.js");
  const name = (await readSetupRecord(settingsPath, storePath))?.unit.name;
  if (options.unit === undefined || name === undefined) return;
  if (fullUnitName(options.unit) === fullUnitName(name)) return;
  throw new StoreError("usage", `--unit ${options.unit}: setup has changed the unit ${name}`, {
    hint: `Omit it, or name that unit: --unit ${shortUnitName(name)}`,
  });
}

async function runUndo(context: Context, options: SetupOptions): Promise<void> {
  await assertUndoOptions(context, options);
  const { abortOnSignal } = await import("../../process/signals.js");
  const { noRecoveryKeyFile } = await import("../../setup/recovery-key-file.js");
  const { planUndo, undoSetup } = await import("../../setup/undo.js");
  const { output, storePath } = context;
  // A killed undo may have left the hub stopped.
  if (!options.dryRun) await recoverFirst(context);
  // The record names the unit. The settings may name another service by now.
  const ofRecord: SetupOptions = { ...options, service: "auto" };
  const request = (signal: AbortSignal) =>
    buildRequest(context, ofRecord, signal, noRecoveryKeyFile);
  const { steps, record } = await planUndo(request(new AbortController().signal));
  if (options.dryRun) {
    const plan = {
      unit: record?.unit.name ?? null,
      store: storePath,
      steps,
      obstacles: [],
      notices: [],
    };
    output.result({ plan }, () => [
      `Plan to undo the setup of ${storePath}:`,
      ...undoStepLines(steps),
    ]);
    return;
  }
  if (record === undefined) {
    const undone = { changed: false, unit: null, database: null, kept: null, outage: null };
    output.result({ undone }, () => [
      `Nothing to undo: setup has not changed the hub of ${storePath}`,
    ]);
    return;
  }
  if (!output.json) {
    output.line([`Undo the setup of ${record.unit.name}:`, ...undoStepLines(steps)].join("\n"));
  }
  await context.reporter.confirm("The clients' keys will be in plain text again. Continue?");
  const undone = await abortOnSignal((signal) => undoSetup(request(signal), record));
  output.result(toJson({ undone }), () => undoLines(undone));
}
