import { type Command, InvalidArgumentError } from "commander";
import type { PruneResult } from "../../backup/prune.js";
import type { BundleSearch } from "../../backup/unneeded-bundles.js";
import { isRemote } from "../../config/paths.js";
import type { View } from "../../copies/view.js";
import { StoreError } from "../../errors.js";
import { counted } from "../../text/count.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { type MonitoredResult, monitorTarget } from "../monitored.js";
import { operate } from "../operate.js";
import {
  addBundleDirectoryOption,
  type BundleDirectoryOption,
  resolveListing,
} from "../options/backup-directories.js";
import { formatSize } from "../ui/units.js";

interface PruneOptions extends BundleDirectoryOption {
  keepLast?: number;
  keepDaily?: number;
  keepWeekly?: number;
  keepMonthly?: number;
  utc?: boolean;
  bundles?: boolean;
  dryRun?: boolean;
}

export function addCommand(program: Command): void {
  const command = program
    .command("prune [target]")
    .description("Remove backups that no --keep rule keeps")
    .option("--keep-last <n>", "Keep the newest n backups", parseCount)
    .option("--keep-daily <n>", "Keep the newest backup of each of the last n days", parseCount)
    .option("--keep-weekly <n>", "Keep the newest backup of each of the last n weeks", parseCount)
    .option("--keep-monthly <n>", "Keep the newest backup of each of the last n months", parseCount)
    .option("--utc", "Use days, weeks and months in UTC (default: local time)")
    .option("--bundles", "Remove bundles that no backup or store needs, too")
    .option("-n, --dry-run", "Show what would be removed, change nothing");
  addBundleDirectoryOption(command);
  finishCommand(command, runPrune, {
    details: [
      'A rule that is not given is taken from "keep" in the settings. Days, weeks and months begin at midnight of the local time zone; a day, week or month without a backup does not count. The newest backup that verifies is always kept, and files without a valid manifest are neither counted nor removed.',
      "Keeps the backup with the newest contents even if its date is not the newest. Refuses to run if a backup is from the future, because a clock may have been wrong; --yes overrides this.",
      "The target is a directory or rclone:REMOTE:PATH. Exits with 18 if a backup cannot be removed from it.",
      "With --bundles, a bundle stays while a store of this machine, or a backup in a directory or remote of the settings, needs it. All of these directories and remotes must be reachable. Copies elsewhere do not count: they cannot be opened without the removed bundle.",
    ],
    examples: [
      "hivemind-sqlcipher prune --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run",
      "hivemind-sqlcipher prune /media/usb/backups --keep-last 3",
      "hivemind-sqlcipher prune rclone:nas:hivemind --keep-monthly 24",
    ],
  });
}

async function runPrune(
  context: Context,
  directory: string | undefined,
  options: PruneOptions,
): Promise<void> {
  if (options.dryRun) (await pruneTarget(context, directory, options)).print();
  else await monitorTarget("prune", pruneTarget)(context, directory, options);
}

function parseCount(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("It must be a whole number from 0.");
  return Number(text);
}

async function pruneTarget(
  context: Context,
  directory: string | undefined,
  options: PruneOptions,
): Promise<MonitoredResult> {
  const { unknownPassphraseReason, prune } = await import("../../backup/prune.js");
  const { createTargetReporter, withView } = await import("../../copies/view.js");
  const { settings, output, storePath, reporter } = context;
  const keep = settings.keep ?? {};
  const { folder } = resolveListing(context, directory, options);
  const pruneView = async (view: View, signal: AbortSignal) => {
    // A recovery may have changed the source of the passphrase.
    const listing = resolveListing(context, directory, options);
    return prune({
      ...listing,
      folder: view.folder,
      files: view.files,
      keep: {
        last: options.keepLast ?? keep.last,
        daily: options.keepDaily ?? keep.daily,
        weekly: options.keepWeekly ?? keep.weekly,
        monthly: options.keepMonthly ?? keep.monthly,
      },
      utc: options.utc ?? false,
      ignoreClock: context.yes,
      bundles: options.bundles ? await planBundleSearch(context, listing) : undefined,
      dryRun: options.dryRun ?? false,
      reporter: createTargetReporter(reporter, view),
      signal,
    });
  };
  const result = await operate(context, (_lock, signal) =>
    withView(folder, { storePath, heads: "all" }, async (view) =>
      view.translatePaths(await pruneView(view, signal)),
    ),
  );
  const failure = findRemovalError(result);
  const print = () => {
    output.result({ prune: result }, () => pruneLines(result, context));
    if (failure) output.warning(failure.message);
    if (result.left.some(({ problem }) => problem === unknownPassphraseReason)) {
      output.notice(
        "backups that no known passphrase opens are neither counted nor removed: remove them manually once later backups suffice; at the next rotate, --keep-previous or --reencrypt-backups DIRECTORY avoids this",
      );
    }
  };
  return { result: { prune: result }, failure, print };
}

/**
 * Finds what may need the bundles: the other stores of this machine, and the backups in the
 * directories and remotes of the settings.
 *
 * @throws {@link StoreError} usage - if the directory of the bundles is unknown
 */
async function planBundleSearch(
  context: Context,
  { folder, bundleFolder }: ReturnType<typeof resolveListing>,
): Promise<BundleSearch> {
  if (bundleFolder === undefined) {
    throw new StoreError("usage", "the directory of the bundles is unknown", {
      hint: "Add --bundle-to DIRECTORY.",
    });
  }
  const { findOtherStores } = await import("../../backup/other-stores.js");
  const { readKeyIds } = await import("../../copies/view.js");
  const { settings, storePath } = context;
  const stores = await findOtherStores({ ...context, bundleFolder });
  const targets = [settings.backup?.to, ...(settings.backup?.copies ?? []), ...stores.targets];
  const others = new Set(targets.filter((target) => target !== undefined));
  others.delete(folder);
  return {
    directory: bundleFolder,
    otherFolders: [...others].filter((target) => !isRemote(target)),
    otherStores: stores.paths,
    otherKeyIds: [
      ...stores.keyIds,
      ...(await readKeyIds([...others].filter(isRemote))),
      ...(await readKeyIds([folder].filter(isRemote), { except: storePath })),
    ],
  };
}

function findRemovalError({ folder, notRemoved }: PruneResult): StoreError | undefined {
  if (notRemoved.length === 0) return undefined;
  return new StoreError(
    "io",
    `${counted(notRemoved.length, "backup")} in ${folder} could not be removed: the file system or the server refused the removal`,
  );
}

function pruneLines(result: PruneResult, { output }: Context): string[] {
  const { kept, removed, left, verified } = result;
  const isRemoved = result.dryRun ? "would be removed" : "removed";
  const removing = (result.dryRun ? "would remove" : "removed").padEnd(12);
  return [
    ...kept.map(
      ({ path, rules }) =>
        `keep          ${path}  (${rules.join(", ") || (path === verified ? "newest that verifies" : "newest contents")})`,
    ),
    ...removed.map(({ path }) => `${removing}  ${path}`),
    ...result.removedBundles.map((path) => `${removing}  ${path}`),
    ...result.notRemoved.map(({ path, problem }) =>
      output.style("red", escapeControlCharacters(`not removed   ${path}: ${problem}`)),
    ),
    ...left.map(({ path, problem }) =>
      output.style("yellow", escapeControlCharacters(`unchanged     ${path}: ${problem}`)),
    ),
    `${kept.length} kept, ${removed.length} ${isRemoved} (${formatSize(result.freed)})${verified === null ? "" : `; verified: ${verified}`}`,
  ];
}
