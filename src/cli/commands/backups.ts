import { basename } from "node:path";
import type { Command } from "commander";
import type { FleetStore } from "../../backup/fleet.js";
import type { FileProblem, ListedBackup } from "../../backup/listing.js";
import { counted } from "../../text/count.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import {
  addBundleDirectoryOption,
  type BundleDirectoryOption,
  resolveListing,
} from "../options/backup-directories.js";
import { storeColumns } from "../ui/fleet-status.js";
import { type Column, formatTable } from "../ui/table.js";
import { formatAge, formatSize } from "../ui/units.js";

/** In terminal columns. */
const fullTableWidth = 102;

export function addCommand(program: Command): void {
  const command = program
    .command("backups [target]")
    .description("List the backups and whether their bundles exist")
    .option("--all", "List every store that has backups in the target");
  addBundleDirectoryOption(command);
  finishCommand(command, runBackups, {
    details: [
      "A target is a directory, or rclone:REMOTE:PATH. From a remote, only the manifests and the first 64 KiB of a few backups are downloaded. In a target that several hubs share, other stores may have backups with the same file name. Without --all, only their number is shown. --all prints a line for each store, with the store's newest backup.",
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
  const { listFleet } = await import("../../backup/fleet.js");
  const { withFleet } = await import("../../copies/view.js");
  const { output, storePath } = context;
  const { folder } = resolveListing(context, target, options);
  const listing = await withFleet(folder, async (files, translatePaths) =>
    translatePaths(await listFleet(files, storePath)),
  );
  const lines = [
    ...(await tableLines(context, fleetColumns, listing.stores, listing)),
    ...(listing.othersCount > listing.others.length
      ? [`not listed: ${counted(listing.othersCount - listing.others.length, "more file")}`]
      : []),
  ];
  output.result(listing, () => lines);
}

const fleetColumns: readonly Column<FleetStore>[] = [
  ...storeColumns,
  {
    title: "BACKUPS",
    align: "right",
    cell: ({ backups, incomplete }) =>
      `${backups}${incomplete > 0 ? `, ${incomplete} incomplete` : ""}`,
  },
  { title: "SIZE", align: "right", cell: ({ size }) => formatSize(size) },
  { title: "NEWEST", align: "right", cell: ({ newest }) => formatAge(newest.ageSeconds) },
  { title: "CLIENTS", align: "right", cell: ({ newest }) => `${newest.clients.active}` },
];

/**
 * Returns the table, or a line instead if there are no backups. Adds a line for each file with a
 * backup's name that is not listed, and why.
 */
async function tableLines<Item>(
  { output }: Context,
  columns: readonly Column<Item>[],
  items: readonly Item[],
  { folder, others }: { readonly folder: string; readonly others: readonly FileProblem[] },
): Promise<string[]> {
  return [
    ...(items.length > 0
      ? await Array.fromAsync(formatTable(output, columns, items))
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
  const listingOptions = resolveListing(context, target, options);
  const { unchecked, ...listing } = await withView(
    listingOptions.folder,
    { storePath, heads: "two of each key" },
    async ({ folder, translatePaths }) =>
      translatePaths(await listBackups({ ...listingOptions, folder })),
  );
  if (unchecked) output.warning(`no manifest could be checked: ${unchecked.message}`);
  // On a narrow terminal other columns give way, so that the file names stay complete.
  const isNarrow = (output.columns ?? Number.POSITIVE_INFINITY) < fullTableWidth;
  const columns: Column<ListedBackup>[] = [
    { title: "BACKUP", cell: ({ path }) => basename(path) },
    { title: "AGE", align: "right", cell: ({ ageSeconds }) => formatAge(ageSeconds) },
    { title: "SIZE", align: "right", cell: ({ size }) => formatSize(size) },
    {
      title: "CLIENTS",
      align: "right",
      cell: ({ clients: { active, revoked } }) => `${active}${revoked > 0 ? ` +${revoked}` : ""}`,
    },
    { title: "KEY_ID", cell: ({ keyId }) => (isNarrow ? keyId.slice(0, 8) : keyId) },
    ...(isNarrow ? [] : [{ title: "METHOD", cell: ({ method }: ListedBackup) => method }]),
    { title: "MANIFEST", cell: formatManifestState },
    { title: "BUNDLE", cell: ({ bundle }) => (bundle === null ? "none" : "found") },
  ];
  const lines = [
    ...(await tableLines(context, columns, listing.backups, listing)),
    ...(listing.ofOtherStores > 0
      ? [`${counted(listing.ofOtherStores, "backup")} of other stores: --all lists each store`]
      : []),
  ];
  output.result(listing, () => lines);
}

function formatManifestState({ present, mac }: ListedBackup): string {
  if (mac === false) return "ALTERED";
  if (!present) return "INCOMPLETE";
  return mac === null ? "?" : "valid";
}
