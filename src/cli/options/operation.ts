/**
 * The options and the lock of commands that run an operation on the store, and parts of their
 * output.
 */
import { type Command, Option } from "commander";
import { expandPath } from "../../config/paths.js";
import {
  type ServiceSettings,
  type Settings,
  serviceKinds,
  serviceOver,
} from "../../config/settings.js";
import { StoreError } from "../../errors.js";
import type { OperationLock } from "../../operation/lock.js";
import { abortOnSignal } from "../../process/signals.js";
import type { ServiceChoice } from "../../service/select.js";
import type { BundleOptions } from "../../swap/options.js";
import { type Context, recoveryCommand } from "../context.js";
import { addParagraph } from "../help.js";
import { asStoreError } from "../ui/output.js";
import {
  addRecipientOptions,
  type RecipientCommandOptions,
  recipientOptions,
} from "./recovery-key.js";

export interface ServiceOptions {
  unit?: string;
  service?: (typeof serviceKinds)[number];
  stopCommand?: string;
  startCommand?: string;
}

/** Adds the options that say how the service that has the store open is stopped and started. */
export function addServiceOptions(command: Command): Command {
  command
    .option("--unit <name>", "Stop and start this systemd unit (default: the hub's)")
    .addOption(
      new Option("--service <kind>", "Choose how the service is managed (default: auto)").choices(
        serviceKinds,
      ),
    )
    .option("--stop-command <command>", "Stop the service with this shell command")
    .option("--start-command <command>", "Start the service with this shell command");
  return addParagraph(
    command,
    "Kinds of service: auto finds the hub's unit by the store that it has open; systemd-user and systemd name one of the two; command runs --stop-command and --start-command; none stops nothing.",
  );
}

/**
 * Returns the service that the options and the settings choose. An option always wins.
 *
 * @throws {@link StoreError} usage - for options that contradict each other
 */
export function serviceChoice(context: Context, options: ServiceOptions): ServiceChoice {
  const { unit, service: kind, stopCommand, startCommand } = options;
  const hasCommands = stopCommand !== undefined || startCommand !== undefined;
  if (hasCommands && unit !== undefined) throw contradiction("--unit", "--stop-command");
  if (hasCommands && kind !== undefined && kind !== "auto" && kind !== "command") {
    throw contradiction(`--service ${kind}`, "--stop-command");
  }
  if (unit !== undefined && (kind === "none" || kind === "command")) {
    throw contradiction("--unit", `--service ${kind}`);
  }
  const chosen = serviceOver(
    { unit, service: kind, stop_command: stopCommand, start_command: startCommand },
    context.settings.backup ?? {},
  );
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

function contradiction(option: string, other: string): StoreError {
  return new StoreError("usage", `${option} and ${other} exclude each other`, {
    hint: "Give only the option that applies.",
  });
}

export interface SwapOptions extends ServiceOptions {
  hub?: "auto" | "none";
}

export interface BundleTargetOptions extends RecipientCommandOptions {
  bundleTo?: string;
}

/** Adds the options of commands that replace the store's file. */
export function addSwapOptions(command: Command): Command {
  return addServiceOptions(command).addOption(
    new Option("--hub <auto|none>", "Update the hub's password if a hub uses this store").choices([
      "auto",
      "none",
    ]),
  );
}

export function addBundleTarget(command: Command): Command {
  return addRecipientOptions(command).option(
    "--bundle-to <directory>",
    "Write the bundle here (default: backup.bundle_to setting)",
  );
}

/** Returns the options that every operation takes. */
export function operationOptions(
  context: Context,
  options: SwapOptions,
  lock: OperationLock,
  signal: AbortSignal,
) {
  return {
    lock,
    source: context.source,
    service: serviceChoice(context, options),
    hub: options.hub ?? ("auto" as const),
    recoveryCommand: recoveryCommand(context),
    reporter: context.reporter,
    signal,
  };
}

/**
 * Runs an operation that writes a bundle, with the bundle's directory and recipients. Generates a
 * recovery key if there is no recipient, and takes it back if the operation fails.
 *
 * @throws {@link StoreError} usage - if no directory for the bundle is named
 */
export async function withBundleTarget<Result>(
  context: Context,
  options: BundleTargetOptions,
  operation: (target: BundleOptions) => Promise<Result>,
): Promise<Result> {
  const { planRecipients } = await import("../../bundle/recipients.js");
  const { assertBundleDirectory } = await import("../../swap/prepare.js");
  const bundleTo = bundleDirectory(context, options);
  await assertBundleDirectory(bundleTo);
  if (context.source.kind === "keyring") {
    const { assertKeyringUsable } = await import("../../keys/keyring.js");
    await assertKeyringUsable();
  }
  const plan = await planRecipients(recipientOptions(context, options));
  return await plan.use(bundleTo, (recipients) =>
    operation({ bundleTo, backupFolder: context.settings.backup?.to, recipients }),
  );
}

/** Returns the directories of backups and bundles that the settings or the environment name. */
export function knownDirectories({ settings }: Context): string[] {
  return [settings.backup?.to, settings.backup?.bundle_to].filter((path) => path !== undefined);
}

/**
 * Returns the directory for bundles.
 *
 * @throws {@link StoreError} usage - if neither the options nor the settings name one
 */
export function bundleDirectory({ settings }: Context, options: { bundleTo?: string }): string {
  const directory = options.bundleTo ?? settings.backup?.bundle_to;
  if (directory !== undefined) return expandPath(directory);
  throw new StoreError("usage", "no directory for the passphrase bundle is named", {
    hint: "Name one, apart from the backups, with --bundle-to DIRECTORY.",
  });
}

/**
 * Writes the directories and recipients of this command to the settings of the store, unless they
 * have some. The operation is done by then, so a file that cannot be written is only reported.
 */
export async function rememberDirectories(
  context: Context,
  { to, bundleTo, recipient }: { to?: string; bundleTo?: string; recipient?: string[] },
): Promise<void> {
  await remember(context, "these options", (settings) => ({
    ...settings,
    backup: {
      ...settings.backup,
      ...(settings.backup?.to === undefined && to !== undefined && { to: expandPath(to) }),
      ...(settings.backup?.bundle_to === undefined &&
        bundleTo !== undefined && { bundle_to: expandPath(bundleTo) }),
    },
    ...(settings.recipients === undefined && recipient && { recipients: recipient }),
  }));
}

/**
 * Writes the service that the options name to the settings of the store, in place of a service that
 * is there.
 *
 * @throws {@link StoreError} io - if the file cannot be written
 */
export async function saveService(context: Context, options: ServiceOptions): Promise<void> {
  if (!namesService(options)) return;
  const { loadSection, saveSection } = await import("../../config/settings.js");
  const settings = await loadSection(context.settingsSection);
  const others = Object.entries(settings?.backup ?? {}).filter(([key]) => !isServiceKey(key));
  const service = toSettings(serviceChoice(context, options));
  await saveSection(context.settingsSection, {
    ...settings,
    backup: { ...Object.fromEntries(others), ...service },
  });
}

/**
 * Writes the service that the options name to the settings of the store, unless they name a service
 * already. A file that cannot be written is only reported. `none` is not written: it may be true of
 * this run only, and later runs would copy a store that a hub has open.
 */
export async function rememberNamedService(
  context: Context,
  options: ServiceOptions,
): Promise<void> {
  if (!namesService(options) || options.service === "none") return;
  await rememberService(context, toSettings(serviceChoice(context, options)));
}

/** Writes a service to the settings of the store, unless they name a service. */
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

function toSettings({ service, unit, stopCommand, startCommand }: ServiceChoice): ServiceSettings {
  return {
    ...(unit !== undefined && { unit }),
    ...(service !== "auto" && { service }),
    ...(stopCommand !== undefined && { stop_command: stopCommand }),
    ...(startCommand !== undefined && { start_command: startCommand }),
  };
}

/**
 * Changes the settings of the store after an operation. The operation is done by then, so a file
 * that cannot be written is only reported.
 */
async function remember(
  { settingsPath, settingsSection, output }: Context,
  what: string,
  change: (settings: Settings) => Settings,
): Promise<void> {
  const { loadSection, saveSection } = await import("../../config/settings.js");
  try {
    const settings = { backup: {}, ...(await loadSection(settingsSection)) };
    const changed = change(settings);
    if (JSON.stringify(changed) === JSON.stringify(settings)) return;
    await saveSection(settingsSection, changed);
    output.notice(`saved ${what} to ${settingsPath}`);
  } catch (error) {
    output.notice(`${what} were not saved: ${asStoreError(error).message}`);
  }
}

/**
 * Makes the directories that are named on the command line and that the settings remember from now
 * on. A directory that the settings name is not made later.
 */
export async function makeNamed(
  context: Context,
  paths: readonly (string | undefined)[],
): Promise<void> {
  const { prepareDirectories } = await import("../../config/known-directories.js");
  const named = paths.filter((path) => path !== undefined).map((path) => expandPath(path));
  const { storePath, reporter } = context;
  await prepareDirectories(named, { storePath, known: [], reporter });
}

/**
 * Runs an operation under the store's lock; SIGINT, SIGTERM and SIGHUP abort it.
 *
 * @param options - as for `withOperation`
 */
export async function operate<Result>(
  context: Context,
  operation: (lock: OperationLock, signal: AbortSignal) => Promise<Result>,
  options: { makeFolder?: boolean; onlyOpens?: boolean; paysOwed?: boolean } = {},
): Promise<Result> {
  const { withOperation } = await import("../../recovery/recover.js");
  return abortOnSignal((signal) =>
    withOperation(context.storePath, context.reporter, (lock) => operation(lock, signal), options),
  );
}

export function passphraseLine(source: string): string {
  return `  passphrase  in ${source === "keyring" ? "the keyring" : source}`;
}

export function bundleLines(bundle: { path: string } | null): string[] {
  return bundle ? [`  bundle      ${bundle.path}`] : [];
}

export function downtimeLines(service: {
  unit: string | null;
  stopped_ms: number | null;
}): string[] {
  if (service.stopped_ms === null) return [];
  const name = service.unit ?? "the service";
  return [`  service     ${name} was stopped for ${service.stopped_ms} ms`];
}
