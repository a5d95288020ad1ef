import type { Command } from "commander";
import { expandIfGiven, expandPath, expandTarget, isRemote, realPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import type { BackupTarget, RestoreIntoResult } from "../../restore/into.js";
import type { RestoreResult } from "../../restore/restore.js";
import type { BackupChoice, BackupToVerify } from "../../restore/verified-backup.js";
import * as z from "../../schema.js";
import { finishCommand } from "../command.js";
import { type Context, withValues } from "../context.js";
import { warnIfUnused } from "../open.js";
import {
  addSwapOptions,
  operateOnStores,
  operateWithService,
  type SwapOptions,
} from "../operate.js";
import { addBundleOptions, type BundleKeyOptions, withBundle } from "../options/bundle.js";
import { listKnownDirectories } from "../options/directories.js";
import { buildEndpoint, collectSetting, type Setting } from "../options/endpoint.js";
import { rememberSource } from "../options/remember.js";
import { assertUnused } from "../options/unused.js";
import { describeDowntime, fieldLines, formatCounts } from "../ui/lines.js";

interface RestoreOptions extends SwapOptions, BundleKeyOptions {
  to?: string;
  into?: string;
  intoSetting?: Setting[];
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
    .option("--into <plugin>", "Restore the clients into this database of the hub")
    .option("--into-setting <key=value>", "Set a setting of --into (repeatable)", collectSetting)
    .option("--from-time <time>", "Restore the newest backup that is not newer than this time")
    .option("--no-manifest", "Accept a file without a manifest if its pages are intact")
    .option("--discard-replaced", "Delete the replaced store instead of keeping it")
    .option("--readmit-revoked", "Readmit clients that were revoked after the backup");
  addBundleOptions(command);
  addSwapOptions(command);
  finishCommand(command, runRestore, {
    details: [
      "--from-time TIME replaces FILE. TIME is 2026-11-24T18:50Z, or a date, which means 00:00 UTC of that day. Clients that were revoked after the backup stay revoked. A restore that lets a client do more than now, on HiveMind 4 or 5, asks for confirmation.",
      "--into is for a hub that does not encrypt its clients. PLUGIN is the name of the hub's database plugin, whose settings are read from server.json. The present clients are backed up first, unless --discard-replaced is given.",
    ],
    examples: [
      "hivemind-sqlcipher restore /srv/backup/hivemind/clients.2026-11-24T18-50-00Z.db",
      "hivemind-sqlcipher restore FILE --bundle clients.….bundle.age -i recovery-key.txt",
      "hivemind-sqlcipher restore rclone:nas:hivemind/clients.2026-11-24T18-50-00Z.db",
      "hivemind-sqlcipher restore --from-time 2026-11-20",
      "hivemind-sqlcipher restore FILE --into hivemind-json-db-plugin",
    ],
  });
}

/** Checks the options before the backup is read or a recovery key is asked for. */
async function assertOptionsFit({ storePath }: Context, options: RestoreOptions): Promise<void> {
  const { to, into } = options;
  if (into === undefined) {
    assertUnused(options, ["intoSetting"], "needs --into", "Add --into PLUGIN.");
  } else {
    if (to !== undefined) {
      throw new StoreError("usage", "--to and --into cannot be combined", {
        hint: "--to names a file, --into the plugin of a database.",
      });
    }
    assertUnused(
      options,
      ["hub"],
      "cannot be combined with --into",
      "Omit it: --into leaves the hub's password unchanged.",
    );
  }
  if (to === undefined || (await realPath(expandPath(to))) === storePath) return;
  assertUnused(
    options,
    [
      ...(["unit", "service", "stopCommand", "startCommand", "hub"] as const),
      ...(["discardReplaced", "readmitRevoked"] as const),
    ],
    "cannot be combined with --to",
    "Omit it: --to creates a new file, and leaves the store and its service unchanged.",
  );
}

async function runRestore(
  context: Context,
  file: string | undefined,
  options: RestoreOptions,
): Promise<void> {
  const { chooseBackup } = await import("../../restore/verified-backup.js");
  const { createTargetReporter, withLocalFile } = await import("../../copies/view.js");
  const { recordRestoreTest } = await import("../../backup/restore-test.js");
  await assertOptionsFit(context, options);
  const choice = resolveBackupChoice(context, file, options);
  const run = options.into === undefined ? restoreStore : restoreDatabase;
  const isOnRemote = "file" in choice && isRemote(choice.file);
  const { result, withBundle: isWithBundle } = await withLocalFile(
    isOnRemote ? choice.file : await chooseBackup(choice, context.storePath),
    async (local, translatePaths) => {
      const backup = { file: local };
      const reporter = createTargetReporter(context.reporter, { translatePaths });
      return await withBundle(context, options, local, async (bundle) => {
        const chosen = { backup, bundle, noManifest: !options.manifest };
        const result = await run(withValues(context, { reporter }), options, chosen);
        return { result: translatePaths(result), withBundle: bundle !== undefined };
      });
    },
  );
  const { backup: from, keyId } = result.restored;
  const tried = { how: "restore", backup: from, key_id: keyId } as const;
  await recordRestoreTest(context.storePath, tried, { withBundle: isWithBundle });
  context.output.result(result, () => restoreLines(result));
}

type ChosenBackup = Pick<BackupToVerify, "backup" | "bundle" | "noManifest">;

async function restoreStore(
  context: Context,
  options: RestoreOptions,
  chosen: ChosenBackup,
): Promise<RestoreResult> {
  const { restore } = await import("../../restore/restore.js");
  const { settings } = context;
  const result = await operateWithService(
    context,
    options,
    (operation) =>
      restore({
        ...operation,
        ...chosen,
        to: expandIfGiven(options.to),
        discardReplaced: options.discardReplaced,
        readmitRevoked: options.readmitRevoked,
        ...(settings.backup?.bundle_to !== undefined && {
          bundles: {
            bundleTo: settings.backup.bundle_to,
            backupDirectory: settings.backup.to,
            storePath: context.storePath,
            recipients: settings.recipients ?? [],
          },
        }),
      }),
    // The lock is in the store's directory, which does not exist yet on a new machine.
    { makeDirectory: true, whileServiceDown: "restart" },
  );
  const { path, passphraseSource } = result.restored;
  if (path === context.storePath) await rememberSource(context, passphraseSource);
  if (options.to === undefined) {
    await warnIfUnused(
      context,
      (plugin) => `Restore the backup with --into ${plugin}, or name the store in server.json`,
    );
  }
  return result;
}

async function restoreDatabase(
  context: Context,
  options: RestoreOptions,
  chosen: ChosenBackup,
): Promise<RestoreIntoResult> {
  const { restoreInto } = await import("../../restore/into.js");
  const { resolveLocation } = await import("../../databases/registry.js");
  const { findStore } = await import("../../migrate/stores.js");
  const { sqlcipherPluginName } = await import("../../databases/sqlite.js");
  const { into = "", intoSetting, readmitRevoked = false } = options;
  if (into === sqlcipherPluginName) {
    throw new StoreError("usage", `--into ${into} is the encrypted store`, {
      hint: "Leave --into out: restore replaces the store.",
    });
  }
  const { name, config } = await buildEndpoint(context, into, intoSetting);
  const database = { name, config, location: await resolveLocation(name, config) };
  const backupFirst = options.discardReplaced ? undefined : () => resolveBackupTarget(context);
  const target = await findStore(database);
  const others = target === undefined || target === context.storePath ? [] : [target];
  return operateOnStores(context, others, () =>
    operateWithService(
      context,
      options,
      (operation) =>
        restoreInto({
          ...operation,
          ...chosen,
          database,
          backupFirst,
          readmitRevoked,
        }),
      { makeDirectory: true },
    ),
  );
}

/** Returns the directories and recipients for the backup of the present clients. */
function resolveBackupTarget(context: Context): BackupTarget {
  const { backup, recipients } = context.settings;
  if (backup?.to !== undefined && backup.bundle_to !== undefined && recipients !== undefined) {
    return {
      to: backup.to,
      bundleTo: backup.bundle_to,
      knownDirectories: listKnownDirectories(context),
      recipients,
    };
  }
  const message =
    "the settings lack a directory or the recipients for a backup of the present clients";
  throw new StoreError("usage", message, {
    hint: "Make a backup now, which saves them: hivemind-sqlcipher backup --to DIRECTORY --bundle-to OTHER-DIRECTORY. Or add --discard-replaced to make no backup.",
  });
}

function restoreLines({ restored, service }: RestoreResult | RestoreIntoResult): string[] {
  const stayedRevoked = restored.stayedRevoked.join(", ");
  return [
    `Restored: ${restored.path}, from ${restored.backup}`,
    ...fieldLines({
      made: restored.createdAt,
      key_id: restored.keyId,
      clients: formatCounts(restored.clients),
      revoked:
        stayedRevoked === ""
          ? null
          : `stayed revoked: ${stayedRevoked} (--readmit-revoked readmits them)`,
      replaced: restored.replaced && `kept as ${restored.replaced}`,
      service: describeDowntime(service),
    }),
  ];
}

function resolveBackupChoice(
  { settings, settingsPath }: Context,
  file: string | undefined,
  { fromTime }: RestoreOptions,
): BackupChoice {
  if (file !== undefined && fromTime !== undefined) {
    throw new StoreError("usage", "FILE and --from-time cannot be combined", {
      hint: "Name the backup's file, or a time with --from-time.",
    });
  }
  if (file !== undefined) return { file: expandTarget(file) };
  if (fromTime === undefined) {
    throw new StoreError("usage", "no backup to restore", {
      hint: "Name the backup's file, or a time with --from-time.",
    });
  }
  const before = parseTime(fromTime);
  const folder = settings.backup?.to;
  if (folder === undefined) {
    throw new StoreError("usage", "--from-time needs a directory of backups", {
      hint: `Set backup.to in ${settingsPath}, or name the backup's file.`,
    });
  }
  return { directory: folder, before };
}

/** ISO 8601 only: `new Date` reads "11.12.2026" as 12 November, and "2026-02-31" as 3 March. */
const timeSchema = z.union([z.iso.date(), z.iso.datetime({ offset: true, local: true })]);

function parseTime(text: string): Date {
  if (z.safeParse(timeSchema, text).success) return new Date(text);
  throw new StoreError("usage", `"${text}" is not a time`, {
    hint: "Write it as 2026-11-24 or 2026-11-24T18:50Z.",
  });
}
