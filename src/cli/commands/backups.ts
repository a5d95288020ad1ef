import type { Command } from "commander";
import type { ListedBackup } from "../../backup/listing.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { directoriesOf, type FolderOptions } from "../options/backup-directories.js";
import { Table } from "../ui/table.js";
import { formatAge, formatSize } from "../ui/units.js";

/** Columns of the table of backups in full. */
const wholeTable = 102;

export function addCommand(program: Command): void {
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
