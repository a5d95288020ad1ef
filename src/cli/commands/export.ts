import { basename } from "node:path";
import type { Command } from "commander";
import { expandPath, expandTarget, isRemote } from "../../config/paths.js";
import type { MediaExport } from "../../copies/media.js";
import { StoreError } from "../../errors.js";
import { abortOnSignal } from "../../process/signals.js";
import { counted } from "../../text/count.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { addBundleOptions, type BundleKeyOptions, withBundle } from "../options/bundle.js";
import { fieldLines } from "../ui/lines.js";
import { formatSize, parseSize } from "../ui/units.js";

interface ExportOptions extends BundleKeyOptions {
  to?: string;
  deviceLabel?: string;
  split?: string;
}

export function addCommand(program: Command): void {
  const command = program
    .command("export [backup]")
    .description("Export a backup to offline media, readable with only Python")
    .option("--to <directory>", "Create the export in this directory of the medium")
    .option("--device-label <label>", "Write only to the medium with this file system label")
    .option("--split <size>", "Write the backup in parts of this size, such as 100M");
  addBundleOptions(command);
  finishCommand(command, runExport, {
    details: [
      "Exports the newest backup if none is named. The backup is verified first. The new directory has the backup, its manifest, a Python program that opens it, the description of the formats, a README.txt with the steps, and SHA256SUMS.",
      "Neither the bundle nor the recovery key is exported. The directory of --to must not be a directory of bundles, contain one, or be inside one.",
    ],
    examples: [
      "hivemind-sqlcipher export --to /media/usb --device-label HUB-BACKUP",
      "hivemind-sqlcipher export --to /media/usb --split 100M",
      "hivemind-sqlcipher export /srv/backup/hivemind/clients.2026-11-24T18-50-00Z.db --to /media/usb",
    ],
  });
}

async function runExport(
  context: Context,
  backup: string | undefined,
  options: ExportOptions,
): Promise<void> {
  const { exportToMedia } = await import("../../copies/media.js");
  const { readBundle } = await import("../../bundle/bundle.js");
  const { createTargetReporter, withLocalFile } = await import("../../copies/view.js");
  const { output, reporter } = context;
  if (options.to === undefined) {
    throw new StoreError("usage", "no directory for the export is named", {
      hint: "Name a directory on the medium with --to DIRECTORY.",
    });
  }
  const directory = expandPath(options.to);
  const partBytes = options.split === undefined ? undefined : parseSize(options.split, "--split");
  const chosen = await chooseBackup(context, backup);
  const result = await abortOnSignal((signal) =>
    withLocalFile(chosen, (local, translatePaths) =>
      withBundle(context, options, local, async (given) => {
        const bundle = given && (await readBundle(given.path, given.opener));
        const exported = await exportToMedia({
          backup: local,
          directory,
          partBytes,
          signal,
          reporter: createTargetReporter(reporter, { translatePaths }),
          secret: bundle ?? context,
          bundleDirectories: listBundleDirectories(context),
          deviceLabel: options.deviceLabel,
          exportedAt: new Date(),
        });
        return translatePaths(exported);
      }),
    ),
  );
  output.result({ export: result }, () => exportLines(result));
}

/** Returns the named backup, or else the newest backup in the directory of the settings. */
async function chooseBackup(context: Context, backup: string | undefined): Promise<string> {
  const { findNewestBackup } = await import("../../backup/manifest.js");
  const { settings, settingsPath, storePath } = context;
  if (backup !== undefined) return expandTarget(backup);
  const directory = settings.backup?.to;
  if (directory === undefined) {
    throw new StoreError("usage", "no backup to export", {
      hint: `Name the backup's file, or set backup.to in ${settingsPath}.`,
    });
  }
  const newest = await findNewestBackup(expandPath(directory), storePath);
  if (newest !== undefined) return newest.path;
  throw new StoreError("notFound", `no backup in ${directory}`, {
    hint: "Make a backup: hivemind-sqlcipher backup",
  });
}

function listBundleDirectories({ settings }: Context): string[] {
  const named = [settings.backup?.bundle_to, ...(settings.bundle?.copies ?? [])];
  return named.flatMap((path) => (path === undefined || isRemote(path) ? [] : [expandPath(path)]));
}

function exportLines({ path, backup, size, parts, keyId, deviceLabel }: MediaExport): string[] {
  const split = parts > 1 ? `, in ${counted(parts, "part")}` : "";
  return [
    `Exported and compared: ${path}`,
    ...fieldLines({
      backup: `${basename(backup)}, ${formatSize(size)}${split}`,
      device: deviceLabel,
      key_id: keyId,
    }),
    "  README.txt has the steps. The bundle and the recovery key are not there: keep them elsewhere.",
  ];
}
