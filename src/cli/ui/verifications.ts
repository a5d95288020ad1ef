/** Prints the results of `verify --all` while the backups are verified. */
import {
  FleetVerdicts,
  type FleetVerification,
  type StoreVerdict,
} from "../../backup/fleet-verify.js";
import type { View } from "../../copies/view.js";
import { counted } from "../../text/count.js";
import type { Context } from "../context.js";
import { toJson } from "./json.js";
import { printJsonList } from "./json-list.js";
import { escapeLines, print } from "./output.js";

export interface Verifications {
  readonly folder: string;
  readonly verifications: AsyncIterable<FleetVerification>;
  readonly translatePaths: View["translatePaths"];
}

/**
 * Prints a line, or an element of the JSON document, for each backup, and then the counts by store.
 *
 * @throws what the verification throws; with --json, {@link printJsonList} prints an error that
 *   follows a result instead
 */
export async function printVerifications(
  context: Context,
  { folder, verifications, translatePaths }: Verifications,
): Promise<FleetVerdicts> {
  const { output } = context;
  const verdicts = new FleetVerdicts();
  const results = countEach(verifications, translatePaths, verdicts);
  if (output.json) {
    await printJsonList({
      head: `{"folder":${JSON.stringify(folder)},"backups":[`,
      items: results,
      record: toJson,
      rest: () => ({ stores: toJson(verdicts.stores) }),
    });
    return verdicts;
  }
  const printCounts = () => {
    for (const line of verdictLines(verdicts)) output.line(escapeLines(line));
  };
  try {
    for await (const result of results) {
      await print(`${escapeLines(resultLine(context, result))}\n`);
    }
  } catch (error) {
    if (verdicts.stores.length > 0) printCounts();
    throw error;
  }
  printCounts();
  return verdicts;
}

/** Renames the paths of a remote's results, and counts the results. */
async function* countEach(
  verifications: AsyncIterable<FleetVerification>,
  translatePaths: View["translatePaths"],
  verdicts: FleetVerdicts,
): AsyncGenerator<FleetVerification> {
  for await (const verification of verifications) {
    const result = translatePaths(verification);
    verdicts.add(result);
    yield result;
  }
}

function resultLine({ output }: Context, { path, ok, problem }: FleetVerification): string {
  if (ok === null) return `${output.style("yellow", "not opened")}  ${path}`;
  if (ok) return `${output.style("green", "intact")}      ${path}`;
  return `${output.style("red", "NOT INTACT")}  ${path}: ${problem}`;
}

function verdictLines(verdicts: FleetVerdicts): string[] {
  const [intact, damaged, notOpened] = (["intact", "damaged", "notOpened"] as const).map((count) =>
    verdicts.sum(count),
  );
  return [
    ...verdicts.stores.filter(({ notOpened }) => notOpened > 0).map(unopenedLine),
    `${intact} intact, ${damaged} not intact, ${notOpened} not opened, of ${counted(verdicts.stores.length, "store")}`,
  ];
}

function unopenedLine({ storeId, name, notOpened, reason }: StoreVerdict): string {
  return `not opened: ${counted(notOpened, "backup")} of ${name} (store ${storeId ?? "without an id"}): ${reason}`;
}
