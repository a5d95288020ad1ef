import { dirname } from "node:path";
import type { Command } from "commander";
import type { BackupResult } from "../../backup/backup.js";
import { expandPath } from "../../config/paths.js";
import type { CopyReport } from "../../copies/copy.js";
import type { CopyTargets } from "../../copies/plan.js";
import { addHint, isKind, StoreError, wrap } from "../../errors.js";
import { finishCommand } from "../command.js";
import { type Context, collectValue } from "../context.js";
import { type MonitoredResult, monitor } from "../monitored.js";
import { findPlainDatabase, type PlainDatabase, warnIfUnused } from "../open.js";
import { buildOperationOptions, operate } from "../operate.js";
import {
  listKnownDirectories,
  rememberDirectories,
  withBundleTarget,
} from "../options/directories.js";
import { addRecipientOptions, type RecipientCommandOptions } from "../options/recovery-key.js";
import {
  addServiceOptions,
  rememberNamedService,
  type ServiceOptions,
} from "../options/service.js";
import { describeDowntime, fieldLines, formatCounts } from "../ui/lines.js";
import { errorToJson } from "../ui/output.js";
import { formatSize } from "../ui/units.js";

interface BackupOptions extends ServiceOptions, RecipientCommandOptions {
  to?: string;
  bundleTo?: string;
  copyTo?: string[];
  copyBundleTo?: string[];
  online?: boolean;
}

const onlineHint =
  "To back up without stopping the service, add --online, or --service none if nothing has the store open.";

interface BackupWithCopies extends BackupResult {
  readonly copies: readonly CopyReport[];
}

export function addCommand(program: Command): void {
  const command = program
    .command("backup")
    .description("Back up the store and its passphrase bundle")
    .option("--to <directory>", "Write the backup here (default: backup.to setting)")
    .option("--bundle-to <directory>", "Write the bundle here, apart from the backups")
    .option("--copy-to <target>", "Copy the backups here, too (repeatable)", collectValue)
    .option("--copy-bundle-to <target>", "Copy the bundle here, too (repeatable)", collectValue)
    .option("--online", "Keep the service running (only for stores in WAL mode)");
  addRecipientOptions(command);
  addServiceOptions(command);
  finishCommand(command, monitor("backup", runBackup), {
    details: [
      "Stops the service, copies the store and starts the service again. Satellites reconnect some seconds later; with --online they notice nothing. The first --to and --bundle-to are remembered in the settings, and each --recipient.",
      "Refuses to run while the clock is behind the newest backup, because the new backup would look older; --yes overrides this.",
      "Refuses to write to a directory that is missing although the settings or an earlier backup name it. If a directory is on another file system than before, its disk is probably not mounted: on a terminal the command asks whether the directory has moved, even with --yes; without a terminal it fails.",
      "A target of --copy-to is a directory, such as one on another disk, or rclone:REMOTE:PATH, a remote of rclone's configuration. After the service runs again, the backups that the target lacks are copied to it; a directory is skipped while its disk is not mounted. If a copy fails, the backup is kept, and the exit code is that of the failure. Bundles go only to targets of --copy-bundle-to.",
      "If the hub's database is plain SQLite, JSON or Redis, backs it up without stopping the hub. The backup is encrypted in any case.",
    ],
    examples: [
      "hivemind-sqlcipher backup --to /srv/backup/hivemind --bundle-to /media/usb/bundles",
      "hivemind-sqlcipher backup --copy-to /media/usb/hivemind --copy-to rclone:nas:hivemind",
      "hivemind-sqlcipher backup --unit hivemind-hub --json",
      "hivemind-sqlcipher backup --stop-command 'sv down hub' --start-command 'sv up hub'",
    ],
  });
}

async function runBackup(context: Context, options: BackupOptions): Promise<MonitoredResult> {
  const { output } = context;
  const destinations = await planDestinations(context, options);
  const plain = await findPlainDatabase(context);
  if (plain?.database === undefined) await warnIfUnused(context);
  const result = plain
    ? await backupPlain(context, options, destinations, plain)
    : await backupStore(context, options, destinations);
  await rememberDirectories(context, options);
  if (!plain) await rememberNamedService(context, options);
  const document = { ...result, copies: result.copies.map(copyToJson) };
  const failures = listCopyErrors(result);
  return {
    result: document,
    stoppedMs: result.service.stoppedMs,
    size: result.backup.size,
    failure: failures[0],
    print: () => {
      output.result(document, () => backupLines(result));
      for (const { message, hint } of failures) {
        output.warning(message);
        if (hint !== undefined) output.notice(`  ${hint}`);
      }
    },
  };
}

interface Destinations extends CopyTargets {
  readonly to: string;
  readonly bundleTo: string;
}

async function planDestinations(context: Context, options: BackupOptions): Promise<Destinations> {
  const { planCopies } = await import("../../copies/plan.js");
  const { backup, bundle } = context.settings;
  const to = options.to ?? backup?.to;
  const bundleTo = options.bundleTo ?? backup?.bundle_to;
  if (to === undefined) throw noDirectoryError(context, "backup", "--to");
  if (bundleTo === undefined) throw noDirectoryError(context, "bundle", "--bundle-to");
  const directories = { to: expandPath(to), bundleTo: expandPath(bundleTo) };
  const targets = await planCopies({
    ...directories,
    copies: options.copyTo ?? backup?.copies ?? [],
    bundleCopies: options.copyBundleTo ?? bundle?.copies ?? [],
  });
  return { ...directories, ...targets };
}

async function backupStore(
  context: Context,
  options: BackupOptions,
  destinations: Destinations,
): Promise<BackupWithCopies> {
  const { backup } = await import("../../backup/backup.js");
  const { to, bundleTo } = destinations;
  const run = (recipients: readonly string[]) =>
    operate(context, async (lock, signal) => {
      const result = await backup({
        ...buildOperationOptions(context, options, lock, signal),
        to,
        bundleTo,
        knownDirectories: listKnownDirectories(context),
        recipients,
        online: options.online ?? false,
        ignoreClock: context.yes,
      });
      return await withCopies(context, destinations, result);
    }).catch((error: unknown) => {
      throw isKind(error, "service") ? addHint(error, onlineHint) : error;
    });
  if (options.recoveryKeyFile === undefined) {
    return run([...(context.settings.recipients ?? []), ...(options.recipient ?? [])]);
  }
  return withRecipients(context, options, destinations, run);
}

/** Backs up an unencrypted database. The backup is encrypted. */
async function backupPlain(
  context: Context,
  options: BackupOptions,
  destinations: Destinations,
  { database }: PlainDatabase,
): Promise<BackupWithCopies> {
  const { backupDatabase } = await import("../../backup/database-backup.js");
  const { output, reporter, storePath, yes } = context;
  const { to, bundleTo } = destinations;
  output.notice(
    `${database?.location ?? storePath} is not encrypted; making an encrypted backup without stopping the hub`,
  );
  return withRecipients(context, options, destinations, (recipients) =>
    operate(
      context,
      async (lock, signal) => {
        const result = await backupDatabase({
          to,
          bundleTo,
          lock,
          database,
          recipients,
          signal,
          reporter,
          source: context.source,
          knownDirectories: listKnownDirectories(context),
          ignoreClock: yes,
        });
        return await withCopies(context, destinations, result);
      },
      // The lock is in the directory of the store's path, which may be missing: the hub's database
      // is elsewhere.
      { makeDirectory: true },
    ),
  );
}

async function withCopies(
  context: Context,
  { backupTargets, bundleTargets }: Destinations,
  result: BackupResult,
): Promise<BackupWithCopies> {
  const { copyBackups } = await import("../../copies/copy.js");
  const { storePath, source, reporter } = context;
  const copies = await copyBackups({
    storePath,
    source,
    reporter,
    backupTargets,
    bundleTargets,
    folder: dirname(result.backup.path),
    backup: result.backup.path,
    bundle: result.bundle,
    knownDirectories: listKnownDirectories(context),
  });
  return { ...result, copies };
}

/**
 * Runs a backup with the recipients of its bundle, after creating the directories that the options
 * name, if they are not known. Generates a recovery key if there is no recipient or
 * `--recovery-key-file` requests a key.
 */
async function withRecipients(
  context: Context,
  options: BackupOptions,
  { bundleTo }: Destinations,
  run: (recipients: readonly string[]) => Promise<BackupWithCopies>,
): Promise<BackupWithCopies> {
  const { prepareDirectories } = await import("../../config/known-directories.js");
  const { storePath, reporter } = context;
  const named = [options.to, options.bundleTo].filter((path) => path !== undefined);
  const known = listKnownDirectories(context);
  await prepareDirectories(
    named.map((path) => expandPath(path)),
    { storePath, known, reporter },
  );
  return withBundleTarget(context, { ...options, bundleTo }, ({ recipients }) => run(recipients));
}

function noDirectoryError({ settingsPath }: Context, what: string, option: string): StoreError {
  return new StoreError("usage", `no directory for the ${what} is named`, {
    hint: `Name the directory with ${option} DIRECTORY, which is then saved in ${settingsPath}.`,
  });
}

function copyToJson({ errors, postponed: _, ...report }: CopyReport) {
  return { ...report, errors: errors.map(errorToJson) };
}

function listCopyErrors({ copies }: BackupWithCopies): StoreError[] {
  return copies.flatMap(({ target, contents, errors }) => {
    const what = contents === "backups" ? "a copy" : "a copy of its bundle";
    return errors.map((error) =>
      wrap(error, {
        message: `the backup is complete, but ${what} in ${target} failed: ${error.message}`,
      }),
    );
  });
}

function copyLines(copies: readonly CopyReport[]): string[] {
  return copies.map(({ target, contents, copied, skipped, errors }) => {
    const name = contents === "backups" ? `Copies in ${target}` : `Bundle in ${target}`;
    if (skipped !== null) return `${name}: skipped, ${skipped}`;
    const failed = errors.length > 0 ? ["FAILED"] : [];
    const upToDate = errors.length === 0 && copied.length === 0 ? ["up to date"] : [];
    return `${name}: ${[...failed, ...upToDate, ...countByCheck(copied)].join(", ")}`;
  });
}

const checkTexts = { read_back: "read back and hashed", remote_hash: "compared by its hash" };

function countByCheck(copied: CopyReport["copied"]): string[] {
  return (["read_back", "remote_hash"] as const).flatMap((check) => {
    const count = copied.filter(({ checkedBy }) => checkedBy === check).length;
    return count === 0 ? [] : [`${count} copied, ${checkTexts[check]}`];
  });
}

function backupLines({ backup, bundle, service, copies }: BackupWithCopies): string[] {
  return [
    `Backed up and verified: ${backup.path}`,
    ...fieldLines({
      clients: formatCounts(backup.clients),
      size: formatSize(backup.size),
      sha256: backup.sha256,
      service: describeDowntime(service),
      "":
        service.stoppedMs === null
          ? null
          : "satellites reconnect some seconds later; with --online they notice nothing",
    }),
    `Passphrase bundle: ${bundle.path}`,
    ...fieldLines({ "opens with": bundle.recipients }),
    ...copyLines(copies),
    "",
    "Keep the backup, the bundle and the recovery key in three separate places.",
  ];
}
