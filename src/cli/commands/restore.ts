import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import type { BackupChoice } from "../../restore/verified-backup.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addBundleOptions, type BundleKeyOptions, bundleOf } from "../options/bundle.js";
import {
  addSwapOptions,
  downtimeLines,
  operate,
  operationOptions,
  type SwapOptions,
} from "../options/operation.js";

interface RestoreCommandOptions extends SwapOptions, BundleKeyOptions {
  to?: string;
  fromTime?: string;
  manifest: boolean;
  discardReplaced?: boolean;
  readmitRevoked?: boolean;
}

export function addCommand(program: Command): void {
  const restore = addGlobalOptions(
    addSwapOptions(
      addBundleOptions(
        program
          .command("restore [file]")
          .description("put a backup back, here or on a new machine"),
      )
        .option("--to <path>", "restore to this file beside the store, and leave the store alone")
        .option(
          "--from-time <time>",
          "in place of FILE: the newest backup made before (2026-11-24T18:50Z, or a date)",
        )
        .option("--no-manifest", "accept a bare encrypted file, if every page of it is sound")
        .option("--discard-replaced", "do not keep the store that is replaced")
        .option("--readmit-revoked", "let clients in again that were revoked since the backup"),
    ).addHelpText(
      "after",
      "\nRevoked clients stay revoked. Before a client could do more than now, under a\nreleased hub or a newer one, you are asked.\n\nExamples:\n  hivemind-sqlcipher restore /srv/backup/hivemind/clients.2026-11-24T18-50-00Z.db\n  hivemind-sqlcipher restore FILE --bundle clients.….bundle.age -i recovery-key.txt\n  hivemind-sqlcipher restore --from-time 2026-11-20",
    ),
  );
  restore.action(async (file: string | undefined, options: RestoreCommandOptions) =>
    runRestore(await contextOf(restore), file, options),
  );
}

async function runRestore(
  context: Context,
  file: string | undefined,
  options: RestoreCommandOptions,
): Promise<void> {
  const { restore } = await import("../../restore/restore.js");
  const { chooseBackup } = await import("../../restore/verified-backup.js");
  const choice = backupChoice(context, file, options);
  const backup = { file: await chooseBackup(choice, context.storePath) };
  const bundle = await bundleOf(options);
  const settings = context.settings.backup ?? {};
  const result = await operate(
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
        ...(settings.bundle_to !== undefined && {
          bundles: {
            bundleTo: settings.bundle_to,
            backupFolder: settings.to,
            recipients: context.settings.recipients ?? [],
          },
        }),
      }),
    // On a new machine it is not there yet, and the lock lies in it.
    { makeFolder: true, paysOwed: true },
  );
  const { restored, service } = result;
  const { recordRestoreTest } = await import("../../backup/restore-test.js");
  const { backup: from, key_id } = restored;
  await recordRestoreTest(context.storePath, { how: "restore", backup: from, key_id });
  context.output.result(result, () => [
    `Restored: ${restored.path}, from ${restored.backup}`,
    ...(restored.created_at === null ? [] : [`  made        ${restored.created_at}`]),
    `  key_id      ${restored.key_id}`,
    `  clients     ${restored.clients.active}, and ${restored.clients.revoked} revoked`,
    ...(restored.stayed_revoked.length > 0
      ? [
          `  revoked     stayed so: ${restored.stayed_revoked.join(", ")} (--readmit-revoked lets them in)`,
        ]
      : []),
    ...(restored.replaced === null ? [] : [`  replaced    kept as ${restored.replaced}`]),
    ...downtimeLines(service),
  ]);
}

function backupChoice(
  context: Context,
  file: string | undefined,
  { fromTime }: RestoreCommandOptions,
): BackupChoice {
  if ((file === undefined) === (fromTime === undefined)) {
    throw new StoreError("usage", "which backup should be restored?", {
      hint: "Name its file, or a time with --from-time; one of the two.",
    });
  }
  if (file !== undefined) return { file: expandPath(file) };
  const before = new Date(fromTime ?? "");
  if (Number.isNaN(before.getTime())) {
    throw new StoreError("usage", `"${fromTime}" is not a time`, {
      hint: "As in --from-time 2026-11-24 or 2026-11-24T18:50Z.",
    });
  }
  const folder = context.settings.backup?.to;
  if (folder === undefined) {
    throw new StoreError("usage", "where are the backups?", {
      hint: `The settings name no folder (backup.to in ${context.settingsPath}); name the backup's file instead.`,
    });
  }
  return { folder, before };
}
