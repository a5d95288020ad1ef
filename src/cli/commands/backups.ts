import { basename } from "node:path";
import type { Command } from "commander";
import type { ListedBackup } from "../../backup/listing.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import {
  addBundleDirectoryOption,
  type BundleDirectoryOption,
  listingOptions,
} from "../options/backup-directories.js";
import { toJson } from "../ui/json.js";
import { Table } from "../ui/table.js";
import { formatAge, formatSize } from "../ui/units.js";

/** The terminal columns of the full table. */
const fullTableColumns = 102;

export function addCommand(program: Command): void {
  const command = program
    .command("backups [target]")
    .description("List the backups and whether their bundles exist");
  addBundleDirectoryOption(command);
  addGlobalOptions(command);
  addHelp(command, {
    details: [
      "A target is a directory, or rclone:REMOTE:PATH. Of a remote, the manifests are read.",
    ],
    examples: [
      "hivemind-sqlcipher backups",
      "hivemind-sqlcipher backups /media/usb/backups --json",
      "hivemind-sqlcipher backups rclone:nas:hivemind",
    ],
  });
  command.action(async (target: string | undefined, options: BundleDirectoryOption) =>
    printBackups(await contextOf(command), target, options),
  );
}

async function printBackups(
  context: Context,
  target: string | undefined,
  options: BundleDirectoryOption,
): Promise<void> {
  const { listBackups } = await import("../../backup/listing.js");
  const { withView } = await import("../../copies/view.js");
  const { output, storePath } = context;
  const listed = listingOptions(context, target, options);
  const { unchecked, ...listing } = await withView(
    listed.folder,
    { storePath, heads: "of each key" },
    async ({ folder, named }) => named(await listBackups({ ...listed, folder })),
  );
  if (unchecked) output.warning(`no manifest could be checked: ${unchecked.message}`);
  // On a narrow terminal other columns give way, so that the file names stay complete.
  const isNarrow = (output.columns ?? Number.POSITIVE_INFINITY) < fullTableColumns;
  const rows = listing.backups.map((backup) => [
    basename(backup.path),
    formatAge(backup.ageSeconds),
    formatSize(backup.size),
    `${backup.clients.active}${backup.clients.revoked > 0 ? ` +${backup.clients.revoked}` : ""}`,
    isNarrow ? backup.keyId.slice(0, 8) : backup.keyId,
    ...(isNarrow ? [] : [backup.method]),
    manifestState(backup),
    backup.bundle === null ? "none" : "found",
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
      : [`No backups in ${listing.folder}`]),
    ...listing.others.map(({ path, problem }) =>
      output.style("yellow", escapeControlCharacters(`not listed: ${path}: ${problem}`)),
    ),
  ];
  output.result(toJson(listing), () => lines);
}

function manifestState({ present, mac }: ListedBackup): string {
  if (!present) return "NO FILE";
  if (mac === null) return "?";
  return mac ? "valid" : "ALTERED";
}
