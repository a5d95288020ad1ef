import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf, repeated } from "../context.js";
import { addBundleOptions, type BundleKeyOptions, bundleIn } from "../options/bundle.js";
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

export function addBackupCommands(program: Command): void {
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

  const verify = addGlobalOptions(
    addBundleOptions(
      program
        .command("verify <file>")
        .description("check a backup as a restore would: every page, every count, its manifest")
        .addHelpText(
          "after",
          "\nExamples:\n  hivemind-sqlcipher verify /srv/backup/hivemind/clients.2026-11-24T18-50-00Z.db\n  hivemind-sqlcipher verify FILE --bundle clients.….bundle.age -i recovery-key.txt",
        ),
    ),
  );
  verify.action(async (file: string, options: BundleKeyOptions) =>
    runVerify(await contextOf(verify), file, options),
  );
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

async function runVerify(context: Context, file: string, options: BundleKeyOptions): Promise<void> {
  const { verifyBackup } = await import("../../backup/verify.js");
  const { expandPath } = await import("../../config/paths.js");
  const { recordRestoreTest } = await import("../../backup/restore-test.js");
  const { isKept } = await import("../../keys/source.js");
  const bundle = await bundleIn(options);
  const { path, ok, checks } = await verifyBackup(expandPath(file), bundle ?? context);
  if (bundle && ok) {
    const { key_id, passphrase } = bundle;
    if (!(await isKept(context.source, context.storePath, passphrase))) {
      context.output.notice(
        "the backup and the bundle fit together, but nothing here vouches for them: the recipient is public, and whoever knows it can make such a pair",
      );
    }
    await recordRestoreTest(context.storePath, { how: "verify", backup: path, key_id });
  }
  context.output.result({ path, ok, checks }, () => [
    `${path}: ${ok ? context.output.style("green", "sound") : context.output.style("red", "NOT SOUND")}`,
    ...checks.map(
      ({ name, ok, detail }) =>
        `  ${ok ? "ok  " : "FAIL"}  ${name.padEnd(12)} ${escapeControlCharacters(detail)}`,
    ),
  ]);
  if (!ok) process.exitCode = 14;
}
