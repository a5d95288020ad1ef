import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import type { Context } from "../context.js";

export interface FolderOptions {
  bundleTo?: string;
}

/** What every listing of backups starts from. */
export function directoriesOf(
  context: Context,
  folder: string | undefined,
  { bundleTo }: FolderOptions,
) {
  const settings = context.settings.backup ?? {};
  const from = folder ?? settings.to;
  if (from === undefined) {
    throw new StoreError("usage", "where are the backups?", {
      hint: `Name their folder; init and backup.to in ${context.settingsPath} make it known.`,
    });
  }
  const bundles = bundleTo ?? settings.bundle_to;
  return {
    folder: expandPath(from),
    storePath: context.storePath,
    source: context.source,
    bundleFolder: bundles === undefined ? undefined : expandPath(bundles),
  };
}
