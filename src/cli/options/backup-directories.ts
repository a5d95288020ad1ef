import type { Command } from "commander";
import { expandIfGiven, expandTarget } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
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
