/** Prints the stores of `status --all`, a line for each. */
import type { FleetStatus, StoreBackups } from "../../diagnostics/fleet.js";
import { counted } from "../../text/count.js";
import { escapeControlCharacters } from "../../text/escape.js";
import type { Context } from "../context.js";
import { toJson } from "./json.js";
import { printJsonList } from "./json-list.js";
import { escapeLines, print } from "./output.js";
import { Table } from "./table.js";
import { formatAge } from "./units.js";

export async function printFleetStatus({ output }: Context, status: FleetStatus): Promise<void> {
  const { stores, ...others } = status;
  if (output.json) {
    const { folder, maxAgeSeconds, ...rest } = others;
    const head = JSON.stringify(toJson({ folder, maxAgeSeconds })).slice(0, -1);
    await printJsonList({
      head: `${head},"stores":[`,
      items: iterate(stores),
      record: toJson,
      rest: () => toJson(rest),
    });
    return;
  }
  const shown = output.quiet ? stores.filter(({ problem }) => problem !== null) : stores;
  const rows = shown.map(formatRow);
  const table = await Table.of(
    [
      { title: "STORE_ID" },
      { title: "NAME" },
      { title: "MACHINE" },
      { title: "BACKUPS", align: "right" },
      { title: "NEWEST", align: "right" },
      { title: "STATE" },
    ],
    rows,
    output.columns,
  );
  if (rows.length > 0) output.line(output.style("bold", table.heading()));
  for (const [at, row] of rows.entries()) {
    const line = await table.row(row);
    await print(`${shown[at]?.problem === null ? line : output.style("yellow", line)}\n`);
  }
  for (const line of endLines(status, output.quiet)) output.line(escapeLines(line));
}

async function* iterate<Item>(items: readonly Item[]): AsyncGenerator<Item> {
  yield* items;
}

function formatRow(store: StoreBackups): string[] {
  return [
    store.storeId ?? "no id",
    store.own ? `${store.name} (own)` : store.name,
    store.hostnames.join(", "),
    `${store.backups}`,
    formatAge(store.newest.ageSeconds),
    store.problem?.toUpperCase() ?? "current",
  ];
}

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
