import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { exitCodes } from "../../errors.js";
import type { ReadImport, Widened } from "../../exchange/import.js";
import type { Plan } from "../../exchange/plan.js";
import { abortOnSignal } from "../../process/signals.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { openStore } from "../open.js";
import { Progress } from "../ui/progress.js";

interface ImportCommandOptions {
  update?: boolean;
  dryRun?: boolean;
}

/** Rows that are printed for a person; --json has more. */
const shownRows = 20;

export function addCommand(program: Command): void {
  const importing = addGlobalOptions(
    program
      .command("import-clients <file>")
      .description("add the clients in a file, CSV or JSON, all or none; - reads standard input")
      .option("--update", "change clients that are there already, by their access key")
      .option("--dry-run", "say what would be done, and do nothing")
      .addHelpText(
        "after",
        `
Reads what export-clients wrote with --show-secrets, what hivemind-core
export-clients wrote (a row that can be read in more than one way is refused),
what list-clients --json or --jsonl printed, and the file of HiveMind's JSON
plugin. A row without client_id gets the next id. Ids left out by the file are
filled with revoked rows, for the hub would give a new client one that is taken.
Revoked clients stay revoked. Before a client could do more than now, under a
released hub or a newer one, you are asked.

Exit codes: 0 imported; 17 nothing was: a row was refused, or the answer was no.

Examples:
  hivemind-sqlcipher import-clients hivemind_clients.csv --dry-run
  hivemind-sqlcipher import-clients clients.json
  age -d -i key.txt clients.json.age | hivemind-sqlcipher import-clients - --update --yes`,
      ),
  );
  importing.action(async (file: string, options: ImportCommandOptions) =>
    importClients(await contextOf(importing), file, options),
  );
}

async function importClients(
  context: Context,
  file: string,
  options: ImportCommandOptions,
): Promise<void> {
  const { applyImport, readImport } = await import("../../exchange/import.js");
  const { update = false, dryRun = false } = options;
  const path = file === "-" ? null : expandPath(file);
  const progress = new Progress(context.output);
  await abortOnSignal(async (signal) => {
    await using store = await openStore(context);
    const read = await readImport({
      store,
      file: path ?? process.stdin,
      update,
      signal,
      progress: (done, total) => progress.show("reading", done, total),
    }).finally(() => progress.end());
    const { plan } = read;
    const refused = plan.refusedRows > 0;
    if (!refused && !dryRun) {
      await confirmAccess(context, read);
      await applyImport(plan, {
        store,
        signal,
        progress: (done, total) => progress.show("importing", done, total),
      }).finally(() => progress.end());
    }
    report(context, { path, dryRun, ...read });
    if (refused) process.exitCode = exitCodes.refused;
  });
}

/** Nobody gets to do more than the file says in plain words, or than now, without a question. */
async function confirmAccess(context: Context, { plan, widened }: ReadImport): Promise<void> {
  const lines = accessLines(plan, widened);
  if (lines.length === 0) return;
  await context.reporter.confirm([...lines, "Import?"].join("\n"));
}

function accessLines({ defaulted, emptyLists }: Plan, widened: readonly Widened[]): string[] {
  const lines: string[] = [];
  if (defaulted > 0) {
    lines.push(
      `The file does not say what ${counted(defaulted, "new client")} may do: they get what add-client gives.`,
    );
  }
  if (emptyLists > 0) {
    lines.push(
      `${counted(emptyLists, "new client")} with an empty list of message types, which a released hub (hivemind-core 4) reads as the default one.`,
    );
  }
  if (widened.length === 0) return lines;
  lines.push(`${counted(widened.length, "client")} could do more than now:`);
  for (const { client_id, name, fields } of widened.slice(0, shownRows)) {
    lines.push(
      `  client ${client_id} "${escapeControlCharacters(name ?? "")}": ${fields.join(", ")}`,
    );
  }
  if (widened.length > shownRows) lines.push(`  … and ${widened.length - shownRows} more`);
  return lines;
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

interface ImportReport extends ReadImport {
  path: string | null;
  dryRun: boolean;
}

function report(context: Context, { path, format, dryRun, plan, widened }: ImportReport): void {
  const { refused, refusedRows } = plan;
  const counts = {
    added: plan.added.length - plan.filled,
    updated: plan.updated.length,
    revoked: plan.revocations.length,
    unchanged: plan.unchanged,
    filled: plan.filled,
    default_permissions: plan.defaulted,
    empty_lists: plan.emptyLists,
  };
  const document = {
    path,
    format,
    dry_run: dryRun,
    ...counts,
    widened,
    refused_rows: refusedRows,
    refused,
  };
  context.output.result({ import: document }, () => {
    const did =
      refusedRows > 0 ? "Nothing was imported" : dryRun ? "Would be imported" : "Imported";
    return [
      refusedRows > 0
        ? `${did}: ${counted(refusedRows, "row")} cannot be taken.`
        : `${did}: ${words(counts)}`,
      ...refused
        .slice(0, shownRows)
        .map(({ where, why }) => `  ${where}: ${escapeControlCharacters(why)}`),
      ...(refusedRows > shownRows ? [`  … and ${refusedRows - shownRows} more`] : []),
      ...(dryRun ? accessLines(plan, widened) : []),
      ...(refusedRows > 0 && dryRun ? [`Without them: ${words(counts)}`] : []),
    ];
  });
}

function words(counts: {
  added: number;
  updated: number;
  revoked: number;
  unchanged: number;
  filled: number;
  default_permissions: number;
}): string {
  return [
    `${counts.added} added${counts.default_permissions > 0 ? ` (${counts.default_permissions} with what a new client may do)` : ""}`,
    ...(counts.updated > 0 ? [`${counts.updated} updated`] : []),
    ...(counts.revoked > 0 ? [`${counts.revoked} revoked`] : []),
    ...(counts.unchanged > 0 ? [`${counts.unchanged} unchanged`] : []),
    ...(counts.filled > 0 ? [`${counts.filled} ids in between filled with revoked rows`] : []),
  ].join(", ");
}
