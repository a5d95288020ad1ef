import type { Command } from "commander";
import type { BackupResult } from "../../backup/backup.js";
import { expandPath } from "../../config/paths.js";
import { isKind, StoreError, withLine, wrap } from "../../errors.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import { monitored } from "../monitored.js";
import { findPlainDatabase, type PlainDatabase } from "../open.js";
import {
  addServiceOptions,
  downtimeLines,
  knownDirectories,
  makeNamed,
  operate,
  operationOptions,
  rememberDirectories,
  rememberNamedService,
  type ServiceOptions,
  withBundleTarget,
} from "../options/operation.js";
import { addRecipientOptions, type RecipientCommandOptions } from "../options/recovery-key.js";
import { toJson } from "../ui/json.js";
import { formatSize } from "../ui/units.js";

interface BackupOptions extends ServiceOptions, RecipientCommandOptions {
  to?: string;
  bundleTo?: string;
  online?: boolean;
}

export function addCommand(program: Command): void {
  const command = program
    .command("backup")
    .description("Back up the store and its passphrase bundle")
    .option("--to <directory>", "Write the backup here (default: backup.to setting)")
    .option("--bundle-to <directory>", "Write the bundle here, apart from the backups")
    .option("--online", "Keep the service running (only for stores in WAL mode)");
  addRecipientOptions(command);
  addServiceOptions(command);
  addGlobalOptions(command);
  addHelp(command, {
    details: [
      "Stops the service, copies the store and starts the service again. Satellites reconnect some seconds later; with --online they notice nothing. The first --to and --bundle-to are remembered in the settings.",
      "Refuses to run while the clock is behind the newest backup, because the new backup would look older; --yes overrides this.",
      "Backs up a plain SQLite, JSON or Redis database of the hub without stopping the hub. The backup is encrypted.",
    ],
    examples: [
      "hivemind-sqlcipher backup --to /srv/backup/hivemind --bundle-to /media/usb/bundles",
      "hivemind-sqlcipher backup --unit hivemind-hub --json",
      "hivemind-sqlcipher backup --stop-command 'sv down hub' --start-command 'sv up hub'",
    ],
  });
  command.action(async (options: BackupOptions) => {
    const context = await contextOf(command);
    await monitored(context, "backup", () => runBackup(context, options));
  });
}

async function runBackup(context: Context, options: BackupOptions): Promise<BackupResult> {
  const { settings, output } = context;
  const to = options.to ?? settings.backup?.to;
  const bundleTo = options.bundleTo ?? settings.backup?.bundle_to;
  if (to === undefined) throw noDirectory(context, "backup", "--to");
  if (bundleTo === undefined) throw noDirectory(context, "bundle", "--bundle-to");
  const directories = { to: expandPath(to), bundleTo: expandPath(bundleTo) };
  const plain = await findPlainDatabase(context);
  const result = plain
    ? await backupPlain(context, options, directories, plain)
    : await backupStore(context, options, directories);
  await rememberDirectories(context, options);
  if (!plain) await rememberNamedService(context, options);
  output.result(toJson(result), () => backupLines(result));
  return result;
}

interface Directories {
  readonly to: string;
  readonly bundleTo: string;
}

async function backupStore(
  context: Context,
  options: BackupOptions,
  directories: Directories,
): Promise<BackupResult> {
  const { backup } = await import("../../backup/backup.js");
  const run = (recipients: readonly string[]) =>
    operate(context, (lock, signal) =>
      backup({
        ...operationOptions(context, options, lock, signal),
        ...directories,
        knownDirectories: knownDirectories(context),
        recipients,
        online: options.online ?? false,
        ignoreClock: context.yes,
      }),
    ).catch((error: unknown) => {
      throw isKind(error, "service") ? withoutStopping(error) : error;
    });
  if (options.recoveryKeyFile === undefined) {
    return run([...(context.settings.recipients ?? []), ...(options.recipient ?? [])]);
  }
  return withNewKey(context, options, directories, run);
}

/** Backs up an unencrypted database. The first backup generates the recovery key. */
async function backupPlain(
  context: Context,
  options: BackupOptions,
  directories: Directories,
  { database }: PlainDatabase,
): Promise<BackupResult> {
  const { backupDatabase } = await import("../../backup/database-backup.js");
  const { output, reporter, source, storePath, yes } = context;
  output.notice(
    `${database?.location ?? storePath} is not encrypted; its backup is, and is made without stopping the hub`,
  );
  return withNewKey(context, options, directories, (recipients) =>
    operate(
      context,
      (lock, signal) =>
        backupDatabase({
          ...directories,
          ...{ lock, database, source, recipients, signal, reporter },
          knownDirectories: knownDirectories(context),
          ignoreClock: yes,
        }),
      // Create the lock's directory: a database on a server has none on this machine.
      { makeDirectory: true },
    ),
  );
}

/** Runs a backup. Generates a recovery key if there is no recipient. */
async function withNewKey(
  context: Context,
  options: BackupOptions,
  { bundleTo }: Directories,
  run: (recipients: readonly string[]) => Promise<BackupResult>,
): Promise<BackupResult> {
  await makeNamed(context, [options.to, options.bundleTo]);
  return withBundleTarget(context, { ...options, bundleTo }, ({ recipients }) => run(recipients));
}

/** Adds a hint on backing up without stopping the service, for example in a crash loop. */
function withoutStopping(error: StoreError): StoreError {
  const line =
    "To back up without stopping it, add --online, or --service none if nothing has the store open.";
  return wrap(error, { hint: withLine(error.hint, line) });
}

function noDirectory({ settingsPath }: Context, what: string, option: string): StoreError {
  return new StoreError("usage", `no directory for the ${what} is named`, {
    hint: `Name it with ${option} DIRECTORY; ${settingsPath} remembers it.`,
  });
}

function backupLines({ backup, bundle, service }: BackupResult): string[] {
  const { active, revoked } = backup.clients;
  return [
    `Backed up and verified: ${backup.path}`,
    `  clients     ${active} active, ${revoked} revoked`,
    `  size        ${formatSize(backup.size)}`,
    `  sha256      ${backup.sha256}`,
    ...downtimeLines(service),
    ...(service.stoppedMs === null
      ? []
      : [
          "              satellites reconnect some seconds later; with --online they notice nothing",
        ]),
    `Passphrase bundle: ${bundle.path}`,
    ...bundle.recipients.map((recipient) => `  opens with  ${recipient}`),
    "",
    "Keep the backup, the bundle and the recovery key in three separate places.",
  ];
}
