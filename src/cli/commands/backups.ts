/** The backups there are, and which of them may go. */
import { type Command, InvalidArgumentError } from "commander";
import type { ListedBackup } from "../../backup/listing.js";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { operate } from "../options/operation.js";
import { Table } from "../ui/table.js";

/** Columns of the table of backups in full. */
const wholeTable = 102;

interface FolderOptions {
  bundleTo?: string;
}

interface PruneCommandOptions extends FolderOptions {
  keepLast?: number;
  keepDaily?: number;
  keepWeekly?: number;
  keepMonthly?: number;
  bundles?: boolean;
  dryRun?: boolean;
}

export function addBackupsCommands(program: Command): void {
  const list = addGlobalOptions(
    program
      .command("backups [folder]")
      .description(
        "list the backups: age, size, clients, and whether a bundle for their key is there",
      )
      .option("--bundle-to <folder>", "where the bundles are (default: from the settings)")
      .addHelpText(
        "after",
        "\nExamples:\n  hivemind-sqlcipher backups\n  hivemind-sqlcipher backups /media/usb/backups --json",
      ),
  );
  list.action(async (folder: string | undefined, options: FolderOptions) =>
    runBackups(await contextOf(list), folder, options),
  );

  const prune = addGlobalOptions(
    program
      .command("prune [folder]")
      .description("remove the backups that no --keep rule keeps; never the last that verifies")
      .option("--keep-last <n>", "keep the newest n", parseCount)
      .option("--keep-daily <n>", "and the newest of each of the last n days with one", parseCount)
      .option("--keep-weekly <n>", "the same for weeks", parseCount)
      .option("--keep-monthly <n>", "the same for months", parseCount)
      .option("--bundles", "also remove bundles that no backup here and no store needs any more")
      .option("--bundle-to <folder>", "where the bundles are (default: from the settings)")
      .option("-n, --dry-run", "only say what would be removed")
      .addHelpText(
        "after",
        '\nOnly backups whose manifest holds are counted and removed. A rule that is not\ngiven is taken from "keep" in the settings. With --bundles, think of copies of\nthe removed backups that you keep elsewhere: they need their bundle.\n\nExamples:\n  hivemind-sqlcipher prune --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run\n  hivemind-sqlcipher prune /media/usb/backups --keep-last 3',
      ),
  );
  prune.action(async (folder: string | undefined, options: PruneCommandOptions) =>
    runPrune(await contextOf(prune), folder, options),
  );
}

function parseCount(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("It is a whole number, 0 or more.");
  return Number(text);
}

/** What every listing of backups starts from. */
function directoriesOf(context: Context, folder: string | undefined, { bundleTo }: FolderOptions) {
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

async function runBackups(
  context: Context,
  folder: string | undefined,
  options: FolderOptions,
): Promise<void> {
  const { listBackups } = await import("../../backup/listing.js");
  const { output } = context;
  const { unchecked, ...listing } = await listBackups(directoriesOf(context, folder, options));
  if (unchecked) output.warning(`no manifest could be checked: ${unchecked.message}`);
  // A name that is cut can be neither told from another nor typed, so on a narrow terminal other things give way.
  const isNarrow = (output.columns ?? Number.POSITIVE_INFINITY) < wholeTable;
  const rows = listing.backups.map((backup) => [
    backup.path.slice(listing.folder.length + 1),
    formatAge(backup.age_seconds),
    formatSize(backup.size),
    `${backup.clients.active}${backup.clients.revoked > 0 ? ` +${backup.clients.revoked}` : ""}`,
    isNarrow ? backup.key_id.slice(0, 8) : backup.key_id,
    ...(isNarrow ? [] : [backup.method]),
    formatManifestState(backup),
    backup.bundle === null ? "none" : "known",
  ]);
  const table = await Table.of(
    [
      { title: "BACKUP" },
      { title: "AGE", align: "right" },
      { title: "SIZE", align: "right" },
      { title: "CLIENTS", align: "right" },
      { title: "KEY_ID" },
      ...(isNarrow ? [] : [{ title: "METHOD" }]),
      { title: "MANIFEST" },
      { title: "BUNDLE" },
    ],
    rows,
    output.columns,
  );
  const lines = [
    ...(rows.length > 0
      ? [output.style("bold", table.heading()), ...(await table.rows(rows))]
      : [`There is no backup in ${listing.folder}.`]),
    ...listing.others.map(({ path, problem }) =>
      output.style("yellow", escapeControlCharacters(`not listed: ${path}: ${problem}`)),
    ),
  ];
  output.result(listing, () => lines);
}

function formatManifestState({ present, mac }: ListedBackup): string {
  if (!present) return "NO FILE";
  if (mac === null) return "?";
  return mac ? "holds" : "ALTERED";
}

async function runPrune(
  context: Context,
  folder: string | undefined,
  options: PruneCommandOptions,
): Promise<void> {
  const { prune } = await import("../../backup/prune.js");
  const { output } = context;
  const keep = context.settings.keep ?? {};
  const places = directoriesOf(context, folder, options);
  const result = await operate(context, (_lock, signal) =>
    prune({
      ...places,
      keep: {
        last: options.keepLast ?? keep.last,
        daily: options.keepDaily ?? keep.daily,
        weekly: options.keepWeekly ?? keep.weekly,
        monthly: options.keepMonthly ?? keep.monthly,
      },
      bundles: options.bundles ?? false,
      dryRun: options.dryRun ?? false,
      reporter: context.reporter,
      signal,
    }),
  );
  output.result({ prune: result }, () => {
    const gone = result.dry_run ? "would remove" : "removed";
    return [
      ...result.kept.map(
        ({ path, rules }) =>
          `keep          ${path}  (${rules.length > 0 ? rules.join(", ") : "the newest that verifies"})`,
      ),
      ...result.removed.map(({ path }) => `${gone.padEnd(13)} ${path}`),
      ...result.removed_bundles.map((path) => `${gone.padEnd(13)} ${path}`),
      ...result.left.map(({ path, problem }) =>
        output.style("yellow", escapeControlCharacters(`left alone    ${path}: ${problem}`)),
      ),
      `${result.kept.length} kept, ${result.removed.length} ${result.dry_run ? "would be removed" : "removed"} (${formatSize(result.freed)})${result.verified === null ? "" : `; verified: ${result.verified}`}`,
    ];
  });
}

/** A duration as people say it: the largest unit of which there are at least two. */
function formatAge(seconds: number): string {
  const units = [
    ["d", 86_400],
    ["h", 3600],
    ["min", 60],
  ] as const;
  for (const [unit, length] of units) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)}${unit}`;
  }
  return `${Math.max(0, seconds)}s`;
}

/** Bytes in powers of 1024, as `ls -h` writes them: "1.4M". */
function formatSize(bytes: number): string {
  const units = ["B", "K", "M", "G", "T"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)}${units[unit]}`;
}
