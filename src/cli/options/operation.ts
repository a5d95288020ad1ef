/**
 * The options and the lock of commands that run an operation on the store, and parts of their
 * output.
 */
import { type Command, Option } from "commander";
import { expandPath } from "../../config/paths.js";
import { serviceKinds } from "../../config/settings.js";
import { StoreError } from "../../errors.js";
import type { OperationLock } from "../../operation/lock.js";
import { abortOnSignal } from "../../process/signals.js";
import { defaultUnit } from "../../service/service.js";
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
    .option("--unit <name>", "Stop and start this systemd unit (default: hivemind-core)")
    .addOption(
      new Option("--service <kind>", "Choose how the service is managed (default: auto)").choices(
        serviceKinds,
      ),
    )
    .option("--stop-command <command>", "Stop the service with this shell command")
    .option("--start-command <command>", "Start the service with this shell command");
  return addParagraph(
    command,
    "Kinds of service: auto finds the unit in the user's or the system's manager; systemd-user and systemd name one of the two; command runs --stop-command and --start-command; none stops nothing.",
  );
}

/**
 * Returns which service to stop and start, from the options and the settings.
 *
 * @throws {@link StoreError} usage - for a template unit, of which only instances run
 */
export function serviceChoice({ settings, storePath }: Context, options: ServiceOptions) {
  const { service = "auto", unit = defaultUnit, ...commands } = settings.backup ?? {};
  const name = options.unit ?? unit;
  if (/@(\.service)?$/.test(name)) {
    throw new StoreError("usage", `${name} is a template unit, and only its instances run`, {
      hint: `Name an instance: --unit ${name.replace(/(\.service)?$/, "INSTANCE")}.`,
    });
  }
  // A unit on the command line also wins over the commands in the settings.
  const { stop_command, start_command } = options.unit === undefined ? commands : {};
  return {
    service: options.service ?? service,
    unit: name,
    stopCommand: options.stopCommand ?? stop_command,
    startCommand: options.startCommand ?? start_command,
    storePath,
  };
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
  { settingsPath, settingsSection, output }: Context,
  { to, bundleTo, recipient }: { to?: string; bundleTo?: string; recipient?: string[] },
): Promise<void> {
  const { loadSection, saveSection } = await import("../../config/settings.js");
  try {
    const settings = await loadSection(settingsSection);
    const backup = {
      ...(to !== undefined && { to: expandPath(to) }),
      ...(bundleTo !== undefined && { bundle_to: expandPath(bundleTo) }),
      ...settings?.backup,
    };
    const recipients = settings?.recipients ?? recipient;
    const isKnown = recipients === settings?.recipients;
    if (isKnown && Object.keys(backup).length === Object.keys(settings?.backup ?? {}).length)
      return;
    await saveSection(settingsSection, { ...settings, backup, ...(recipients && { recipients }) });
    output.notice(`saved these options to ${settingsPath}`);
  } catch (error) {
    output.notice(`these options were not saved: ${asStoreError(error).message}`);
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
