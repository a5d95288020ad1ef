/** Options and lock of commands that run an operation on the store. */
import { type Command, Option } from "commander";
import { expandIfGiven, expandPath, expandTarget, isRemote } from "../../config/paths.js";
import {
  mergeServiceSettings,
  omitUndefined,
  type ServiceSettings,
} from "../../config/settings.js";
import { type Settings, serviceKinds } from "../../config/settings-file.js";
import { addHint, isKind, StoreError, systemError } from "../../errors.js";
import { formatSource, parseSource } from "../../keys/source.js";
import type { OperationLock } from "../../operation/lock.js";
import { throwIfAborted } from "../../process/abort.js";
import { abortOnSignal } from "../../process/signals.js";
import type { OperationRequirements } from "../../recovery/recover.js";
import type { ServiceChoice } from "../../service/select.js";
import type { BundleOptions, OperationOptions } from "../../swap/options.js";
import { addParagraph, choiceOption } from "../command.js";
import { type Context, recoveryCommand, withValues } from "../context.js";
import { toStoreError } from "../ui/output.js";
import {
  addRecipientOptions,
  buildRecipientOptions,
  type RecipientCommandOptions,
} from "./recovery-key.js";

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

export interface SwapOptions extends ServiceOptions {
  hub?: "auto" | "none";
}

export interface BundleTargetOptions extends RecipientCommandOptions {
  /** The directory for backups: bundles are kept apart from it. */
  to?: string;
  bundleTo?: string;
}

export function addSwapOptions(command: Command): Command {
  return addServiceOptions(command).addOption(
    choiceOption("--hub <auto|none>", "Update the hub's password if a hub uses this store"),
  );
}

export function addBundleTarget(command: Command): Command {
  return addRecipientOptions(command).option(
    "--bundle-to <directory>",
    "Write the bundle here (default: backup.bundle_to setting)",
  );
}

export function buildOperationOptions(
  context: Context,
  options: SwapOptions,
  lock: OperationLock,
  signal: AbortSignal,
): OperationOptions {
  return {
    lock,
    source: context.source,
    settingsSection: context.settingsSection,
    service: resolveServiceChoice(context, options),
    hub: options.hub ?? "auto",
    recoveryCommand: recoveryCommand(context),
    reporter: context.reporter,
    signal,
  };
}

/**
 * Runs an operation with the directory and the recipients for its bundle.
 *
 * Generates a recovery key if there is no recipient or the options request a key. If the operation
 * fails before a bundle is encrypted to the key, revokes the key.
 */
export async function withBundleTarget<Result>(
  context: Context,
  options: BundleTargetOptions,
  operation: (target: BundleOptions) => Promise<Result>,
): Promise<Result> {
  const { planRecipients } = await import("../../bundle/recipients.js");
  const { prepareBundleDirectory } = await import("../../swap/prepare.js");
  const bundleTo = resolveBundleDirectory(context, options);
  const { storePath, reporter } = context;
  await prepareBundleDirectory(bundleTo, storePath, reporter);
  if (context.source.kind === "keyring") {
    const { assertKeyringUsable } = await import("../../keys/keyring.js");
    await assertKeyringUsable();
  }
  const plan = await planRecipients(buildRecipientOptions(context, options));
  return await plan.use(bundleTo, (recipients) =>
    operation({
      bundleTo,
      backupDirectory: findBackupDirectory(context, options),
      storePath,
      recipients,
    }),
  );
}

/** Returns the directories of backups, bundles and copies in the settings or the environment. */
export function listKnownDirectories({ settings: { backup, bundle } }: Context): string[] {
  return [
    ...[backup?.to, backup?.bundle_to].filter((path) => path !== undefined),
    ...[...(backup?.copies ?? []), ...(bundle?.copies ?? [])].filter((text) => !isRemote(text)),
  ];
}

export function findBackupDirectory(
  { settings }: Context,
  { to }: { to?: string },
): string | undefined {
  return expandIfGiven(to) ?? settings.backup?.to;
}

export function resolveBundleDirectory(
  { settings }: Context,
  options: { bundleTo?: string },
): string {
  const directory = options.bundleTo ?? settings.backup?.bundle_to;
  if (directory !== undefined) return expandPath(directory);
  throw new StoreError("usage", "no directory for the passphrase bundle is named", {
    hint: "Name a directory apart from the backups with --bundle-to DIRECTORY.",
  });
}

export interface RememberedOptions {
  to?: string;
  bundleTo?: string;
  copyTo?: string[];
  copyBundleTo?: string[];
  recipient?: string[];
}

/**
 * Saves this command's directories and copy targets if the store's settings have none, and adds its
 * recipients to theirs. Reports a write error without failing, because the operation has finished.
 */
export async function rememberDirectories(
  context: Context,
  { to, bundleTo, copyTo, copyBundleTo, recipient }: RememberedOptions,
): Promise<void> {
  const targets = (named?: string[]) => named?.map((target) => expandTarget(target));
  const backup = omitUndefined({
    to: expandIfGiven(to),
    bundle_to: expandIfGiven(bundleTo),
    copies: targets(copyTo),
  });
  const bundle = omitUndefined({ copies: targets(copyBundleTo) });
  const { parseRecipient } = await import("../../bundle/recovery-key.js");
  const named = recipient?.map((text) => parseRecipient(text));
  await remember(context, "these options", (settings) => ({
    ...settings,
    ...(named && { recipients: [...new Set([...(settings.recipients ?? []), ...named])] }),
    ...(Object.keys(backup).length > 0 && { backup: { ...backup, ...settings.backup } }),
    ...(copyBundleTo && { bundle: { ...bundle, ...settings.bundle } }),
  }));
}

/**
 * Checks a directory that an option names, before the settings remember it. A missing directory
 * passes.
 */
export async function assertUsableDirectory(
  option: "--to" | "--bundle-to",
  path: string | undefined,
): Promise<void> {
  if (path === undefined) return;
  const { access, constants, stat } = await import("node:fs/promises");
  const { lstatIfExists } = await import("../../fs/read.js");
  const directory = expandPath(path);
  if (!(await lstatIfExists(directory))) return;
  const hint = `Name a directory with ${option}.`;
  try {
    if (!(await stat(directory)).isDirectory()) {
      throw new StoreError("io", `${directory} is not a directory`, { hint });
    }
    await access(directory, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw systemError(error, `cannot write to the directory ${directory}`);
  }
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
 * @param backup - the settings in the file, without the environment, whose values must not be saved
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

/** Saves the passphrase source of a store encrypted by this command. */
export async function rememberSource(context: Context, source: string): Promise<void> {
  await remember(context, "the passphrase source", (settings) => {
    const saved = formatSource(parseSource(settings.passphrase_source ?? "keyring"));
    return saved === source ? settings : { ...settings, passphrase_source: source };
  });
}

/** Changes the settings. Only reports an error, because the operation has finished. */
async function remember(
  { settingsPath, settingsSection, output }: Context,
  what: string,
  change: (settings: Settings) => Settings,
): Promise<void> {
  const { updateSection } = await import("../../operation/settings.js");
  try {
    const { isChanged } = await updateSection(settingsSection, change);
    if (isChanged) output.notice(`saved ${what} to ${settingsPath}`);
  } catch (error) {
    output.notice(`${what} were not saved: ${toStoreError(error).message}`);
  }
}

/**
 * Creates the directories named on the command line. Directories in the settings are never created:
 * a missing directory there can be a disk that is not mounted.
 *
 * @returns a function that records the directories
 */
export async function createNamedDirectories(
  { storePath, reporter }: Context,
  ...paths: readonly (string | undefined)[]
): Promise<() => Promise<void>> {
  const { createDirectories, recordDirectories } = await import(
    "../../config/known-directories.js"
  );
  const named = paths.filter((path) => path !== undefined).map((path) => expandPath(path));
  await createDirectories(named, { storePath, known: [], reporter });
  return () => recordDirectories(named, storePath);
}

/** Runs an operation under the store's lock. SIGINT, SIGTERM and SIGHUP abort it. */
export async function operate<Result>(
  context: Context,
  operation: (lock: OperationLock, signal: AbortSignal) => Promise<Result>,
  requirements: OperationRequirements = {},
): Promise<Result> {
  const { withOperation } = await import("../../recovery/recover.js");
  const { storePath, reporter, refreshSettings } = context;
  return abortOnSignal(async (signal) => {
    throwIfAborted(signal);
    return await withOperation(
      storePath,
      reporter,
      async (lock) => {
        // The recovery, or an operation before the lock, may have changed the passphrase's source.
        await refreshSettings();
        return await operation(lock, signal);
      },
      requirements,
    );
  });
}

/** Runs work under the lock of each store. It only opens the stores. */
export async function operateOnStores<Result>(
  context: Context,
  [storePath, ...others]: readonly string[],
  work: () => Promise<Result>,
): Promise<Result> {
  if (storePath === undefined) return work();
  return operate(withValues(context, { storePath }), () => operateOnStores(context, others, work), {
    whileServiceDown: "open-only",
  });
}

/**
 * Runs an operation that stops the service, like `operate`. If the service does not stop or start,
 * for example because its hub is in a restart loop, the hint names the option with which the
 * operation neither stops nor starts the service.
 */
export async function operateWithService<Result>(
  context: Context,
  options: SwapOptions,
  operation: (options: OperationOptions) => Promise<Result>,
  requirements: OperationRequirements = {},
): Promise<Result> {
  try {
    return await operate(
      context,
      (lock, signal) => operation(buildOperationOptions(context, options, lock, signal)),
      requirements,
    );
  } catch (error) {
    if (!isKind(error, "service")) throw error;
    throw addHint(
      error,
      "If nothing has the store open, add --service none: the service is then neither stopped nor started.",
    );
  }
}
