/** Prints the results of `verify --all` while the backups are verified. */
import { FleetVerdicts, type FleetVerification, type StoreVerdict } from "../../backup/fleet.js";
import type { View } from "../../copies/view.js";
import type { Context } from "../context.js";
import { toJson } from "./json.js";
import { asStoreError, errorToJson, escapeLines, print } from "./output.js";

export interface Verifications {
  readonly folder: string;
  readonly verifications: AsyncIterable<FleetVerification>;
  readonly named: View["named"];
}

/**
 * Prints a line, or an element of the JSON document, for each backup, and then the counts by store.
 * If an error ends the verification, the JSON document ends with the error next to the results so
 * far.
 *
 * @throws the error, if nothing was printed or the output is text
 */
export async function printVerifications(
  context: Context,
  { folder, verifications, named }: Verifications,
): Promise<FleetVerdicts> {
  const { output } = context;
  const verdicts = new FleetVerdicts();
  let separator = `{"folder":${JSON.stringify(folder)},"backups":[`;
  try {
    for await (const verification of verifications) {
      const result = named(verification);
      verdicts.add(result);
      if (output.json) await print(separator + JSON.stringify(toJson(result)));
      else await print(`${escapeLines(resultLine(context, result))}\n`);
      separator = ",";
    }
  } catch (error) {
    if (!output.json || separator !== ",") throw error;
    const failure = asStoreError(error);
    const end = { stores: toJson(verdicts.stores), error: errorToJson(failure) };
    process.stdout.write(`],${JSON.stringify(end).slice(1)}\n`);
    process.exitCode = failure.exitCode;
    return verdicts;
  }
  if (output.json) {
    const start = separator === "," ? "" : separator;
    process.stdout.write(`${start}],"stores":${JSON.stringify(toJson(verdicts.stores))}}\n`);
  } else for (const line of verdictLines(verdicts)) output.line(escapeLines(line));
  return verdicts;
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
    `${intact} intact, ${damaged} not intact, ${notOpened} not opened, of ${verdicts.stores.length} stores`,
  ];
}

function unopenedLine({ storeId, name, notOpened, reason }: StoreVerdict): string {
  return `not opened: ${notOpened} backups of ${name} (store ${storeId ?? "without an id"}): ${reason}`;
}
