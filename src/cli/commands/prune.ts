import { type Command, InvalidArgumentError } from "commander";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { directoriesOf, type FolderOptions } from "../options/backup-directories.js";
import { operate } from "../options/operation.js";
import { formatSize } from "../ui/units.js";

interface PruneCommandOptions extends FolderOptions {
  keepLast?: number;
  keepDaily?: number;
  keepWeekly?: number;
  keepMonthly?: number;
  bundles?: boolean;
  dryRun?: boolean;
}

export function addCommand(program: Command): void {
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
