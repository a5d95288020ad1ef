import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import { addGlobalOptions, type Context, contextOf, repeated } from "../context.js";
import {
  addServiceOptions,
  operate,
  operationOptions,
  rememberDirectories,
  type ServiceOptions,
} from "../options/operation.js";

interface BackupOptions extends ServiceOptions {
  to?: string;
  bundleTo?: string;
  recipient?: string[];
  online?: boolean;
}

export function addCommand(program: Command): void {
  const backup = addGlobalOptions(
    addServiceOptions(
      program
        .command("backup")
        .description(
          "stop the service, copy the store, start the service; and the passphrase bundle",
        )
        .option("--to <folder>", "where backups go (default: from the settings)")
        .option("--bundle-to <folder>", "where the bundle goes, never with the backups")
        .option(
          "-r, --recipient <age1…>",
          "encrypt the bundle of this backup to this recipient too; can be repeated",
          repeated,
        )
        .option(
          "--online",
          "do not stop the service: a consistent copy beside it (WAL stores only)",
        ),
    ).addHelpText(
      "after",
      "\nExamples:\n  hivemind-sqlcipher backup --to /srv/backup/hivemind --bundle-to /media/usb/bundles\n  hivemind-sqlcipher backup --unit hivemind-hub --json\n  hivemind-sqlcipher backup --stop-command 'sv down hub' --start-command 'sv up hub'",
    ),
  );
  backup.action(async (options: BackupOptions) => runBackup(await contextOf(backup), options));
}

async function runBackup(context: Context, options: BackupOptions): Promise<void> {
  const { backup } = await import("../../backup/backup.js");
  const { expandPath } = await import("../../config/paths.js");
  const { output } = context;
  const settings = context.settings.backup ?? {};
  const to = options.to ?? settings.to;
  const bundleTo = options.bundleTo ?? settings.bundle_to;
  if (to === undefined || bundleTo === undefined) {
    const missing = to === undefined ? "--to FOLDER" : "--bundle-to FOLDER";
    throw new StoreError(
      "usage",
      `where should the ${to === undefined ? "backup" : "bundle"} go?`,
      {
        hint: `Name it with ${missing}; it is remembered then, in ${context.settingsPath}.`,
      },
    );
  }
  const result = await operate(context, (lock, signal) =>
    backup({
      ...operationOptions(context, options, lock, signal),
      to: expandPath(to),
      bundleTo: expandPath(bundleTo),
      recipients: [...(context.settings.recipients ?? []), ...(options.recipient ?? [])],
      online: options.online ?? false,
    }),
  );
  await rememberDirectories(context, options);
  output.result(result, () => {
    const { backup: made, bundle, service } = result;
    const downtime =
      service.stopped_ms === null || service.unit === null
        ? []
        : [`  ${service.unit} was away for ${service.stopped_ms} ms`];
    return [
      `Backup made and verified: ${made.path}`,
      `  ${made.clients.active} clients, ${made.clients.revoked} revoked; ${made.size} bytes`,
      `  sha256 ${made.sha256}`,
      ...downtime,
      `Passphrase bundle: ${bundle.path}`,
      ...bundle.recipients.map((recipient) => `  opens with  ${recipient}`),
      "",
      "Keep them apart: the backup anywhere, the bundle and the recovery key each in a",
      "place of its own.",
    ];
  });
}
