import { basename } from "node:path";
import type { Command } from "commander";
import type { FileProblem, ListedBackup } from "../../backup/listing.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import {
  addBundleDirectoryOption,
  type BundleDirectoryOption,
  resolveListing,
} from "../options/backup-directories.js";
import { toJson } from "../ui/json.js";
import { Table } from "../ui/table.js";
import { formatAge, formatSize } from "../ui/units.js";

/** The width of the table with all its columns. */
const fullTableColumns = 102;

export function addCommand(program: Command): void {
  const command = program
    .command("backups [target]")
    .description("List the backups and whether their bundles exist")
    .option("--all", "List every store that has backups in the target");
  addBundleDirectoryOption(command);
  finishCommand(command, runBackups, {
    details: [
      "A target is a directory, or rclone:REMOTE:PATH. From a remote, only the manifests and the first 64 KiB of a few backups are downloaded. Of other stores' backups with the same file name, only the number is shown; --all lists every store of a target that several hubs share, with its newest backup.",
    ],
    examples: [
      "hivemind-sqlcipher backups",
      "hivemind-sqlcipher backups /media/usb/backups --json",
      "hivemind-sqlcipher backups rclone:nas:hivemind",
      "hivemind-sqlcipher backups /srv/backup/hivemind --all",
    ],
  });
}

interface BackupsOptions extends BundleDirectoryOption {
  all?: boolean;
}

async function runBackups(
  context: Context,
  target: string | undefined,
  options: BackupsOptions,
): Promise<void> {
  await (options.all ? printStores : printBackups)(context, target, options);
}

async function printStores(
  context: Context,
  target: string | undefined,
  options: BackupsOptions,
): Promise<void> {
  const { listStores } = await import("../../backup/fleet.js");
  const { withFleet } = await import("../../copies/view.js");
  const { output, storePath } = context;
  const { folder } = resolveListing(context, target, options);
  const listing = await withFleet(folder, async (files, nameTarget) =>
    nameTarget(await listStores(files, storePath)),
  );
  const rows = listing.stores.map((store) => [
    store.storeId ?? "no id",
    store.own ? `${store.name} (own)` : store.name,
    store.hostnames.join(", "),
    `${store.backups}${store.incomplete > 0 ? `, ${store.incomplete} incomplete` : ""}`,
    formatSize(store.size),
    formatAge(store.newest.ageSeconds),
    `${store.newest.clients.active}`,
  ]);
  const table = await Table.of(
    [
      { title: "STORE_ID" },
      { title: "NAME" },
      { title: "MACHINE" },
      { title: "BACKUPS", align: "right" },
      { title: "SIZE", align: "right" },
      { title: "NEWEST", align: "right" },
      { title: "CLIENTS", align: "right" },
    ],
    rows,
    output.columns,
  );
  const lines = [
    ...(await tableLines(context, table, rows, listing)),
    ...(listing.othersCount > listing.others.length
      ? [`${listing.othersCount - listing.others.length} more files are not listed`]
      : []),
  ];
  output.result(toJson(listing), () => lines);
}

/** Returns the table, or a line that there is no backup, and a line for each unreadable file. */
async function tableLines(
  { output }: Context,
  table: Table,
  rows: readonly string[][],
  { folder, others }: { readonly folder: string; readonly others: readonly FileProblem[] },
): Promise<string[]> {
  return [
    ...(rows.length > 0
      ? [output.style("bold", table.heading()), ...(await table.rows(rows))]
      : [`No backups in ${folder}`]),
    ...others.map(({ path, problem }) =>
      output.style("yellow", escapeControlCharacters(`not listed: ${path}: ${problem}`)),
    ),
  ];
}

async function printBackups(
  context: Context,
  target: string | undefined,
  options: BundleDirectoryOption,
): Promise<void> {
  const { listBackups } = await import("../../backup/listing.js");
  const { withView } = await import("../../copies/view.js");
  const { output, storePath } = context;
  const listed = resolveListing(context, target, options);
  const { unchecked, ...listing } = await withView(
    listed.folder,
    { storePath, heads: "two of each key" },
    async ({ folder, nameTarget }) => nameTarget(await listBackups({ ...listed, folder })),
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
    formatManifestState(backup),
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
    ...(await tableLines(context, table, rows, listing)),
    ...(listing.ofOtherStores > 0
      ? [`${listing.ofOtherStores} backups of other stores: --all lists them by store`]
      : []),
  ];
  output.result(toJson(listing), () => lines);
}

function formatManifestState({ present, mac }: ListedBackup): string {
  if (mac === false) return "ALTERED";
  if (!present) return "INCOMPLETE";
  return mac === null ? "?" : "valid";
}
