import type { Command } from "commander";
import { expandIfGiven, expandTarget } from "../../config/paths.js";
import { isKind, StoreError } from "../../errors.js";
import type { RunTarget } from "../../operation/run-record.js";
import type { Context } from "../context.js";

export interface BundleDirectoryOption {
  bundleTo?: string;
}

export function addBundleDirectoryOption(command: Command): Command {
  return command.option(
    "--bundle-to <directory>",
    "Look for bundles here (default: backup.bundle_to setting)",
  );
}

/**
 * Returns the target of a command for the records; undefined if there is none, which the command
 * reports.
 *
 * @throws {@link StoreError} usage - for an empty or malformed target
 */
export async function findRunTarget(
  { settings }: Context,
  directory: string | undefined,
): Promise<RunTarget | undefined> {
  const { parseTarget } = await import("../../copies/plan.js");
  const nameOf = (target: string) => parseTarget(expandTarget(target)).name;
  const { to, copies = [] } = settings.backup ?? {};
  const target = directory ?? to;
  if (target === undefined) return undefined;
  const name = nameOf(target);
  const isThis = (other: string) => {
    try {
      return nameOf(other) === name;
    } catch (error) {
      // A malformed target in the settings concerns only the operations on that target.
      if (!isKind(error, "usage")) throw error;
      return false;
    }
  };
  const isDefault = to !== undefined && isThis(to);
  return { name, isDefault, isConfigured: isDefault || copies.some(isThis) };
}

/**
 * Returns the directories of backups and bundles, the store, and the passphrase's source. The
 * backups may be in a remote.
 */
export function resolveListing(
  context: Context,
  directory: string | undefined,
  { bundleTo }: BundleDirectoryOption,
) {
  const settings = context.settings.backup ?? {};
  const backups = directory ?? settings.to;
  if (backups === undefined) {
    throw new StoreError("usage", "no directory of backups is named", {
      hint: `Give the directory as an argument, or set backup.to in ${context.settingsPath}.`,
    });
  }
  const bundles = bundleTo ?? settings.bundle_to;
  return {
    folder: expandTarget(backups),
    storePath: context.storePath,
    source: context.source,
    bundleFolder: expandIfGiven(bundles),
  };
}
