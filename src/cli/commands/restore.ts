import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import type { RestoreResult } from "../../restore/restore.js";
import type { BackupChoice } from "../../restore/verified-backup.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import {
  addBundleOptions,
  type BundleKeyOptions,
  type NamedBundle,
  withBundle,
} from "../options/bundle.js";
import {
  addSwapOptions,
  downtimeLines,
  operate,
  operationOptions,
  type SwapOptions,
} from "../options/operation.js";

interface RestoreOptions extends SwapOptions, BundleKeyOptions {
  to?: string;
  fromTime?: string;
  manifest: boolean;
  discardReplaced?: boolean;
  readmitRevoked?: boolean;
}

export function addCommand(program: Command): void {
  const command = program
    .command("restore [file]")
    .description("Restore a backup, here or on a new machine")
    .option("--to <path>", "Restore to this file and leave the store unchanged")
    .option("--from-time <time>", "Restore the newest backup made before this time")
    .option("--no-manifest", "Accept a file without a manifest if its pages are intact")
    .option("--discard-replaced", "Delete the replaced store instead of keeping it")
    .option("--readmit-revoked", "Readmit clients that were revoked after the backup");
  addBundleOptions(command);
  addSwapOptions(command);
  addGlobalOptions(command);
  addHelp(command, {
    details: [
      "A time is a date or 2026-11-24T18:50Z, and takes the place of FILE. Clients that were revoked after the backup stay revoked. A restore that lets a client do more than now, on HiveMind 4 or 5, asks for confirmation.",
    ],
    examples: [
      "hivemind-sqlcipher restore /srv/backup/hivemind/clients.2026-11-24T18-50-00Z.db",
      "hivemind-sqlcipher restore FILE --bundle clients.….bundle.age -i recovery-key.txt",
      "hivemind-sqlcipher restore --from-time 2026-11-20",
    ],
  });
  command.action(async (file: string | undefined, options: RestoreOptions) =>
    runRestore(await contextOf(command), file, options),
  );
}

async function runRestore(
  context: Context,
  file: string | undefined,
  options: RestoreOptions,
): Promise<void> {
  const { restore } = await import("../../restore/restore.js");
  const { chooseBackup } = await import("../../restore/verified-backup.js");
  const { recordRestoreTest } = await import("../../backup/restore-test.js");
  const choice = backupChoice(context, file, options);
  const backup = { file: await chooseBackup(choice, context.storePath) };
  const { settings } = context;
  const search = { backup: backup.file, directory: settings.backup?.bundle_to };
  const operation = (bundle: NamedBundle | undefined) =>
    operate(
      context,
      (lock, signal) =>
        restore({
          ...operationOptions(context, options, lock, signal),
          backup,
          bundle,
          noManifest: !options.manifest,
          to: options.to && expandPath(options.to),
          discardReplaced: options.discardReplaced,
          readmitRevoked: options.readmitRevoked,
          ...(settings.backup?.bundle_to !== undefined && {
            bundles: {
              bundleTo: settings.backup.bundle_to,
              backupFolder: settings.backup.to,
              recipients: settings.recipients ?? [],
            },
          }),
        }),
      // The lock is in the store's directory, which does not exist yet on a new machine.
      { makeDirectory: true, whileServiceDown: "restart" },
    );
  const result = await withBundle(options, { search, kept: context }, operation);
  const { backup: from, key_id } = result.restored;
  await recordRestoreTest(context.storePath, { how: "restore", backup: from, key_id });
  context.output.result(result, () => restoreLines(result));
}

function restoreLines({ restored, service }: RestoreResult): string[] {
  const { active, revoked } = restored.clients;
  const stayedRevoked = restored.stayed_revoked.join(", ");
  return [
    `Restored: ${restored.path}, from ${restored.backup}`,
    ...(restored.created_at === null ? [] : [`  made        ${restored.created_at}`]),
    `  key_id      ${restored.key_id}`,
    `  clients     ${active} active, ${revoked} revoked`,
    ...(stayedRevoked === ""
      ? []
      : [`  revoked     stayed revoked: ${stayedRevoked} (--readmit-revoked readmits them)`]),
    ...(restored.replaced === null ? [] : [`  replaced    kept as ${restored.replaced}`]),
    ...downtimeLines(service),
  ];
}

function backupChoice(
  { settings, settingsPath }: Context,
  file: string | undefined,
  { fromTime }: RestoreOptions,
): BackupChoice {
  if (file !== undefined && fromTime !== undefined) {
    throw new StoreError("usage", "FILE and --from-time cannot be combined", {
      hint: "Name the backup's file, or a time with --from-time.",
    });
  }
  if (file !== undefined) return { file: expandPath(file) };
  if (fromTime === undefined) {
    throw new StoreError("usage", "no backup to restore", {
      hint: "Name the backup's file, or a time with --from-time.",
    });
  }
  const before = new Date(fromTime);
  if (Number.isNaN(before.getTime())) {
    throw new StoreError("usage", `"${fromTime}" is not a time`, {
      hint: "Write it as 2026-11-24 or 2026-11-24T18:50Z.",
    });
  }
  const folder = settings.backup?.to;
  if (folder === undefined) {
    throw new StoreError("usage", "--from-time needs a directory of backups", {
      hint: `Set backup.to in ${settingsPath}, or name the backup's file.`,
    });
  }
  return { directory: folder, before };
}
