/** Prints the stores of `status --all`, a line for each. */
import type { FleetStore } from "../../backup/fleet.js";
import type { FleetStatus, StoreBackups } from "../../diagnostics/fleet.js";
import { counted } from "../../text/count.js";
import { escapeControlCharacters } from "../../text/escape.js";
import type { Context } from "../context.js";
import { toJson } from "./json.js";
import { printJsonList } from "./json-list.js";
import { escapeLines, print } from "./output.js";
import { type Column, formatTable } from "./table.js";
import { formatAge } from "./units.js";

export async function printFleetStatus({ output }: Context, status: FleetStatus): Promise<void> {
  const { stores, ...others } = status;
  if (output.json) {
    const { folder, maxAgeSeconds, ...rest } = others;
    const head = JSON.stringify(toJson({ folder, maxAgeSeconds })).slice(0, -1);
    await printJsonList({
      head: `${head},"stores":[`,
      items: stores,
      record: toJson,
      rest: () => toJson(rest),
    });
    return;
  }
  const shown = output.quiet ? stores.filter(({ problem }) => problem !== null) : stores;
  const columns: Column<StoreBackups>[] = [
    ...storeColumns,
    { title: "BACKUPS", align: "right", cell: ({ backups }) => `${backups}` },
    { title: "NEWEST", align: "right", cell: ({ newest }) => formatAge(newest.ageSeconds) },
    { title: "STATE", cell: ({ problem }) => problem?.toUpperCase() ?? "current" },
  ];
  const lines = formatTable(output, columns, shown, {
    styleRow: (line, { problem }) => (problem === null ? line : output.style("yellow", line)),
  });
  for await (const line of lines) await print(`${line}\n`);
  for (const line of endLines(status, output.quiet)) output.line(escapeLines(line));
}

/** The columns that identify a store. */
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
