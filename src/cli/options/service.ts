/** Options that choose the service, and the service in the store's settings. */
import { type Command, Option } from "commander";
import {
  mergeServiceSettings,
  omitUndefined,
  type ServiceSettings,
} from "../../config/settings.js";
import { type Settings, serviceKinds } from "../../config/settings-file.js";
import { StoreError } from "../../errors.js";
import type { ServiceChoice } from "../../service/select.js";
import { addParagraph } from "../command.js";
import type { Context } from "../context.js";
import { remember } from "./remember.js";

export interface ServiceOptions {
  unit?: string;
  service?: (typeof serviceKinds)[number];
  stopCommand?: string;
  startCommand?: string;
}

export function addServiceOptions(command: Command): Command {
  command
    .option("--unit <name>", "Stop and start this unit or container (default: the hub's)")
    .addOption(
      new Option("--service <kind>", "Choose how the service is managed (default: auto)").choices(
        serviceKinds,
      ),
    )
    .option("--stop-command <command>", "Stop the service with this shell command")
    .option("--start-command <command>", "Start the service with this shell command");
  return addParagraph(
    command,
    "Kinds of service: auto finds the unit or container of the hub that has the store open; systemd-user and systemd choose a user unit or a system unit; podman and docker choose a container, which --unit names; command runs --stop-command and --start-command; none stops nothing.",
  );
}

/** Returns the service that the options name, or else the settings. */
export function resolveServiceChoice(context: Context, options: ServiceOptions): ServiceChoice {
  const chosen = resolveServiceSettings(options, context.settings.backup);
  return {
    service: chosen.service ?? "auto",
    unit: chosen.unit,
    stopCommand: chosen.stop_command,
    startCommand: chosen.start_command,
    storePath: context.storePath,
    remember: ({ name, kind }) =>
      rememberService(context, { service: kind, ...(name !== null && { unit: name }) }),
  };
}

/** Returns the service settings of the options, completed by those of the settings file. */
function resolveServiceSettings(
  options: ServiceOptions,
  backup: Settings["backup"],
): ServiceSettings {
  const { unit, service: kind, stopCommand, startCommand } = options;
  const hasCommands = stopCommand !== undefined || startCommand !== undefined;
  const commandOption = stopCommand === undefined ? "--start-command" : "--stop-command";
  if (hasCommands && unit !== undefined) throw exclusiveOptionsError("--unit", commandOption);
  if (hasCommands && kind !== undefined && kind !== "auto" && kind !== "command") {
    throw exclusiveOptionsError(`--service ${kind}`, commandOption);
  }
  if (unit !== undefined && (kind === "none" || kind === "command")) {
    throw exclusiveOptionsError("--unit", `--service ${kind}`);
  }
  return mergeServiceSettings(
    { unit, service: kind, stop_command: stopCommand, start_command: startCommand },
    backup ?? {},
  );
}

function exclusiveOptionsError(option: string, other: string): StoreError {
  return new StoreError("usage", `${option} and ${other} exclude each other`, {
    hint: "Give only the option that applies.",
  });
}

/** Saves the service of the options in the store's settings, instead of the service there. */
export async function saveService(context: Context, options: ServiceOptions): Promise<void> {
  if (!namesService(options)) return;
  const { updateSection } = await import("../../operation/settings.js");
  await updateSection(context.settingsSection, (settings) => ({
    ...settings,
    backup: withNamedService(options, settings.backup),
  }));
}

/**
 * Returns backup settings in which the service of the options replaces the service.
 *
 * @param backup - the settings in the file; values from the environment must not be saved
 */
export function withNamedService(
  options: ServiceOptions,
  backup: Settings["backup"],
): Settings["backup"] {
  if (!namesService(options)) return backup;
  const others = Object.entries(backup ?? {}).filter(([key]) => !isServiceKey(key));
  return { ...Object.fromEntries(others), ...selectServiceToSave(options, backup) };
}

/**
 * Saves the service of the options in the store's settings, unless the settings name a service.
 * Reports a write error without failing.
 *
 * Does not save `none`, which may be meant for this run only: later runs would not stop a hub that
 * has the store open.
 */
export async function rememberNamedService(
  context: Context,
  options: ServiceOptions,
): Promise<void> {
  if (!namesService(options) || options.service === "none") return;
  await rememberService(context, selectServiceToSave(options, context.settingsInFile?.backup));
}

/** Saves a service in the store's settings, unless the settings name a service. */
async function rememberService(context: Context, service: ServiceSettings): Promise<void> {
  await remember(context, "these service settings", (settings) => {
    const { service: kind = "auto", ...others } = settings.backup ?? {};
    if (kind !== "auto" || Object.keys(others).some(isServiceKey)) return settings;
    return { ...settings, backup: { ...settings.backup, ...service } };
  });
}

function namesService({ unit, service, stopCommand, startCommand }: ServiceOptions): boolean {
  return [unit, service, stopCommand, startCommand].some((option) => option !== undefined);
}

function isServiceKey(key: string): boolean {
  return ["unit", "service", "stop_command", "start_command"].includes(key);
}

function selectServiceToSave(options: ServiceOptions, backup: Settings["backup"]): ServiceSettings {
  const { service, ...others } = resolveServiceSettings(options, backup);
  return omitUndefined({ ...others, ...(service !== "auto" && { service }) });
}
