/** What the commands have in common that run an operation on the store: their options, the lock, and what they say. */
import { type Command, Option } from "commander";
import { expandPath } from "../../config/paths.js";
import { serviceKinds } from "../../config/settings.js";
import { StoreError } from "../../errors.js";
import type { OperationLock } from "../../operation/lock.js";
import { abortOnSignal } from "../../process/signals.js";
import { defaultUnit } from "../../service/service.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { recoveryCommand } from "../commands/settle.js";
import type { Context } from "../context.js";
import { asStoreError } from "../ui/output.js";
import {
  addRecipientOptions,
  type RecipientCommandOptions,
  recipientOptions,
} from "./recovery-key.js";

export interface ServiceOptions {
  unit?: string;
  service?: string;
  stopCommand?: string;
  startCommand?: string;
}

/** How the service that holds the store open is stopped and started: the same for every command that does so. */
export function addServiceOptions(command: Command): Command {
  return command
    .option("--unit <name>", "the systemd unit that holds the store open (default: hivemind-core)")
    .option("--service <kind>", `${serviceKinds.join(", ")} (default: auto)`)
    .option("--stop-command <command>", "stop it with this shell command instead")
    .option("--start-command <command>", "and start it with this one");
}

/** @throws StoreError `usage` for a kind of service there is none of. */
export function serviceChoice(context: Context, options: ServiceOptions) {
  const settings = context.settings.backup ?? {};
  const kind = options.service ?? settings.service ?? "auto";
  const service = serviceKinds.find((known) => known === kind);
  if (service === undefined) {
    throw new StoreError(
      "usage",
      `there is no kind of service "${escapeControlCharacters(kind)}"`,
      {
        hint: `--service is one of: ${serviceKinds.join(", ")}.`,
      },
    );
  }
  // A unit that is named here and now is meant, and not the commands that the settings have.
  const { stop_command, start_command } = options.unit === undefined ? settings : {};
  return {
    service,
    unit: options.unit ?? settings.unit ?? defaultUnit,
    stopCommand: options.stopCommand ?? stop_command,
    startCommand: options.startCommand ?? start_command,
    storePath: context.storePath,
  };
}

export interface SwapOptions extends ServiceOptions {
  hub?: "auto" | "none";
}

export interface BundleTargetOptions extends RecipientCommandOptions {
  bundleTo?: string;
}

/** Options of every command that replaces the store's file. */
export function addSwapOptions(command: Command): Command {
  return addServiceOptions(command).addOption(
    new Option("--hub <auto|none>", "none: no hub needs to be told the new passphrase").choices([
      "auto",
      "none",
    ]),
  );
}

export function addBundleTarget(command: Command): Command {
  return addRecipientOptions(command).option(
    "--bundle-to <folder>",
    "where the bundle goes (default: from the settings)",
  );
}

/** What every operation of this kind is given. */
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

/** Where the bundle goes, and who can open it: a recovery key is made if nobody can yet. */
export async function bundleOptions(context: Context, options: BundleTargetOptions) {
  const { ensureRecipients } = await import("../../bundle/recipients.js");
  const settings = context.settings.backup ?? {};
  const bundleTo = options.bundleTo ?? settings.bundle_to;
  if (bundleTo === undefined) {
    throw new StoreError("usage", "where should the passphrase bundle go?", {
      hint: "Name a folder that is not the backups': --bundle-to FOLDER.",
    });
  }
  // Before a recovery key is made that would then be for nothing.
  const { assertBundleDirectory } = await import("../../swap/prepare.js");
  await assertBundleDirectory(expandPath(bundleTo));
  return {
    bundleTo: expandPath(bundleTo),
    backupFolder: settings.to,
    recipients: await ensureRecipients(recipientOptions(context, options)),
  };
}

/**
 * Writes to the settings file where backups and bundles go, as far as it was said now and nothing is remembered yet. What was
 * done is done by then: a file that cannot be written is said, and no failure.
 */
export async function rememberDirectories(
  { settingsPath, output }: Context,
  { to, bundleTo }: { to?: string; bundleTo?: string },
): Promise<void> {
  const { loadSettings, saveSettings } = await import("../../config/settings.js");
  try {
    const settings = await loadSettings(settingsPath);
    const backup = {
      ...(to !== undefined && { to: expandPath(to) }),
      ...(bundleTo !== undefined && { bundle_to: expandPath(bundleTo) }),
      ...settings?.backup,
    };
    if (Object.keys(backup).length === Object.keys(settings?.backup ?? {}).length) return;
    await saveSettings(settingsPath, { ...settings, backup });
    output.notice(`where that goes is remembered in ${settingsPath}`);
  } catch (error) {
    output.notice(`where that goes is not remembered: ${asStoreError(error).message}`);
  }
}

/**
 * Runs an operation under the store's lock, Ctrl-C included.
 *
 * @param options as `withOperation` has them.
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

export function formatSourceName(source: string): string {
  return source === "keyring" ? "the keyring" : source;
}

export function bundleLines(bundle: { path: string } | null): string[] {
  return bundle ? [`  bundle      ${bundle.path}`] : [];
}

export function downtimeLines(service: {
  unit: string | null;
  stopped_ms: number | null;
}): string[] {
  if (service.stopped_ms === null) return [];
  return [`  service     ${service.unit ?? "it"} was away for ${service.stopped_ms} ms`];
}
