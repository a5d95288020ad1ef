/** Directories of backups and bundles: from the options or the settings, checked and remembered. */
import type { Command } from "commander";
import { expandIfGiven, expandPath, expandTarget, isRemote } from "../../config/paths.js";
import { omitUndefined } from "../../config/settings.js";
import { StoreError, systemError } from "../../errors.js";
import type { BundleOptions } from "../../swap/options.js";
import type { Context } from "../context.js";
import {
  addRecipientOptions,
  buildRecipientOptions,
  type RecipientCommandOptions,
} from "./recovery-key.js";
import { remember } from "./remember.js";

export interface BundleTargetOptions extends RecipientCommandOptions {
  /** The directory for backups: bundles are kept apart from it. */
  to?: string;
  bundleTo?: string;
}

export function addBundleTarget(command: Command): Command {
  return addRecipientOptions(command).option(
    "--bundle-to <directory>",
    "Write the bundle here (default: backup.bundle_to setting)",
  );
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

interface RememberedOptions {
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
