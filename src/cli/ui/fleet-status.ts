/** Formats the stores of `status --all`, a line for each. */
import type { FleetStore } from "../../backup/fleet.js";
import type { FleetStatus, StoreBackups } from "../../diagnostics/fleet.js";
import { counted } from "../../text/count.js";
import { escapeControlCharacters } from "../../text/escape.js";
import type { Output } from "./output.js";
import { type Column, formatTable } from "./table.js";
import { formatAge } from "./units.js";

export async function fleetStatusLines(output: Output, status: FleetStatus): Promise<string[]> {
  const { stores } = status;
  const shown = output.quiet ? stores.filter(({ problem }) => problem !== null) : stores;
  const columns: Column<StoreBackups>[] = [
    ...storeColumns,
    { title: "BACKUPS", align: "right", cell: ({ backups }) => `${backups}` },
    { title: "NEWEST", align: "right", cell: ({ newest }) => formatAge(newest.ageSeconds) },
    { title: "STATE", cell: ({ problem }) => problem?.toUpperCase() ?? "current" },
  ];
  const table = formatTable(output, columns, shown, {
    styleRow: (line, { problem }) => (problem === null ? line : output.style("yellow", line)),
  });
  return [...(await Array.fromAsync(table)), ...endLines(status, output.quiet)];
}

export const storeColumns: readonly Column<FleetStore>[] = [
  { title: "STORE_ID", cell: ({ storeId }) => storeId ?? "no id" },
  { title: "NAME", cell: ({ name, own }) => (own ? `${name} (own)` : name) },
  { title: "MACHINE", cell: ({ hostnames }) => hostnames.join(", ") },
];

function endLines(status: FleetStatus, quiet: boolean): string[] {
  const { folder, stores, problems, others, unreadableManifests } = status;
  return [
    ...others
      .filter(({ path }) => !quiet || path.endsWith(".manifest.json"))
      .map(({ path, problem }) => `not listed: ${escapeControlCharacters(`${path}: ${problem}`)}`),
    ...(stores.length === 0 ? [`No backups in ${folder}`] : []),
    ...(quiet || stores.length === 0
      ? []
      : [
          `${counted(stores.length, "store")}, ${counted(problems, "problem")}, ${counted(unreadableManifests, "unreadable manifest")}`,
        ]),
  ];
}
