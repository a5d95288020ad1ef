import type { Command } from "commander";
import { revokedKeyWarning } from "../../client/permissions.js";
import { expandPath } from "../../config/paths.js";
import { exitCodes, isKind, StoreError, wrap } from "../../errors.js";
import type { PreparedImport, WidenedClient } from "../../exchange/import.js";
import type { ImportPlan } from "../../exchange/plan.js";
import { abortOnSignal } from "../../process/signals.js";
import { counted } from "../../text/count.js";
import { describeClient, escapeControlCharacters } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { openStore, warnIfUnused } from "../open.js";
import { addFileOption, type FileOption, resolveFile } from "../options/client.js";
import { Progress } from "../ui/progress.js";

interface ImportOptions extends FileOption {
  update?: boolean;
  dryRun?: boolean;
}

/** The maximum number of rows or clients in a list of the text output. --json lists more. */
const shownRows = 20;

export function addCommand(program: Command): void {
  const command = program
    .command("import-clients [file]")
    .description("Import clients from a CSV or JSON file, all or none")
    .option("--update", "Update existing clients, found by their access key")
    .option("--dry-run", "Show what would be imported, change nothing");
  addFileOption(command, "Read this file, or standard input for -");
  finishCommand(command, importClients, {
    details: [
      "Reads exports of export-clients --show-secrets and of hivemind-core export-clients, the output of list-clients --json or --jsonl, and the file of HiveMind's JSON plugin. A row that can be read in more than one way is refused.",
      "A row without client_id gets the next free id. If the import leaves ids unused, revoked rows fill them, because the hub would otherwise overwrite an existing client. Revoked clients stay revoked. An import that lets a client do more than before, on HiveMind 4 or 5, asks for confirmation.",
      "Exit codes: 0 imported; 17 nothing imported, because a row or the confirmation was refused.",
    ],
    examples: [
      "hivemind-sqlcipher import-clients hivemind_clients.csv --dry-run",
      "hivemind-sqlcipher import-clients clients.json",
      "age -d -i key.txt clients.json.age | hivemind-sqlcipher import-clients - --update --yes",
    ],
  });
}

async function importClients(
  context: Context,
  argument: string | undefined,
  options: ImportOptions,
): Promise<void> {
  const { update = false, dryRun = false } = options;
  const file = resolveFile(argument, options);
  if (file === undefined) {
    throw new StoreError("usage", "no file to import", {
      hint: "Name the file, or - for standard input.",
    });
  }
  const { applyImport, prepareImport, readImport } = await import("../../exchange/import.js");
  const path = file === "-" ? null : expandPath(file);
  const progress = new Progress(context.output);
  await abortOnSignal(async (signal) => {
    // Read the input before the store is opened, so that no operation waits for a slow input.
    const contents = await readImport({
      file: path ?? process.stdin,
      signal,
      progress: (done, total) => progress.show("reading", done, total),
    })
      .catch(async (error: unknown) => {
        throw path === null ? error : await addFileKind(error, path);
      })
      .finally(() => progress.end());
    await using store = await openStore(context);
    await warnIfUnused(context);
    const prepared = await prepareImport(contents, { store, update });
    const { plan } = prepared;
    const isRejected = plan.rejectedCount > 0;
    if (!isRejected && !dryRun) {
      await confirmAccess(context, prepared);
      await applyImport(prepared, {
        store,
        signal,
        progress: (done, total) => progress.show("importing", done, total),
      }).finally(() => progress.end());
    }
    printImport(context, { path, dryRun, ...prepared });
    if (isRejected) process.exitCode = exitCodes.refused;
  });
}

/** Adds the path to an error about the file's text, and the kind of file if it is recognised. */
async function addFileKind(error: unknown, path: string): Promise<unknown> {
  if (!isKind(error, "refused") || error.message.includes(path)) return error;
  const { withFileKind, recogniseFile } = await import("../../fs/file-kind.js");
  const named = wrap(error, { message: `${path}: ${error.message}` });
  return withFileKind(named, await recogniseFile(path), ["clients", "passphrase", "empty"]);
}

/**
 * Asks for confirmation if a client could do more than now, or more than the file grants
 * explicitly.
 */
async function confirmAccess(context: Context, { plan, widened }: PreparedImport): Promise<void> {
  const lines = accessLines(plan, widened);
  if (lines.length > 0) await context.reporter.confirm([...lines, "Import?"].join("\n"));
}

function accessLines(
  { defaulted, emptyLists, isFirstRevoked }: ImportPlan,
  widened: readonly WidenedClient[],
): string[] {
  const lines: string[] = [];
  if (defaulted > 0) {
    lines.push(
      `${counted(defaulted, "new client")} without permissions in the file, which get the permissions that add-client gives.`,
    );
  }
  if (emptyLists > 0) {
    lines.push(
      `${counted(emptyLists, "new client")} with an empty list of message types, which HiveMind 4 reads as the default list.`,
    );
  }
  if (widened.length > 0) {
    lines.push(`${counted(widened.length, "client")} could do more than now:`);
    for (const client of widened.slice(0, shownRows)) {
      const { clientId, name } = client;
      lines.push(`  client ${describeClient(clientId, name)}: ${fieldsOf(client).join(", ")}`);
    }
    lines.push(...moreLine(widened.length));
  }
  // Does not cause the question: a revocation takes access away.
  if (lines.length > 0 && isFirstRevoked) lines.push(`${revokedKeyWarning}.`);
  return lines;
}

function fieldsOf({ widenings }: WidenedClient): string[] {
  return widenings.map(({ field }) => field);
}

function moreLine(total: number): string[] {
  return total > shownRows ? [`  … and ${total - shownRows} more`] : [];
}

interface ImportReport extends PreparedImport {
  path: string | null;
  dryRun: boolean;
}

function printImport(context: Context, report: ImportReport): void {
  context.output.result({ import: toDocument(report) }, () => importLines(report));
}

function toDocument({ path, format, dryRun, plan, widened }: ImportReport) {
  return {
    path,
    format,
    dryRun,
    added: plan.added.length - plan.filled,
    updated: plan.updated.length,
    revoked: plan.revocations.length,
    unchanged: plan.unchanged,
    filled: plan.filled,
    defaultPermissions: plan.defaulted,
    emptyLists: plan.emptyLists,
    widened: widened.map((client) => ({
      clientId: client.clientId,
      name: client.name,
      fields: fieldsOf(client),
    })),
    refusedRows: plan.rejectedCount,
    refused: plan.rejected,
  };
}

function importLines({ dryRun, plan, widened }: ImportReport): string[] {
  const { rejected, rejectedCount } = plan;
  const outcome = dryRun ? "Would import" : "Imported";
  return [
    rejectedCount > 0
      ? `Nothing imported: ${counted(rejectedCount, "row")} refused`
      : `${outcome}: ${countsText(plan)}`,
    ...rejected
      .slice(0, shownRows)
      .map(({ where, why }) => `  ${where}: ${escapeControlCharacters(why)}`),
    ...moreLine(rejectedCount),
    ...(dryRun ? accessLines(plan, widened) : []),
    ...(rejectedCount > 0 && dryRun ? [`Without the refused rows: ${countsText(plan)}`] : []),
  ];
}

function countsText(plan: ImportPlan): string {
  const { defaulted, filled, revocations, unchanged, updated } = plan;
  return [
    `${plan.added.length - filled} added${defaulted > 0 ? ` (${defaulted} with default permissions)` : ""}`,
    ...(updated.length > 0 ? [`${updated.length} updated`] : []),
    ...(revocations.length > 0 ? [`${revocations.length} revoked`] : []),
    ...(unchanged > 0 ? [`${unchanged} unchanged`] : []),
    ...(filled > 0 ? [`${counted(filled, "missing id")} filled with revoked rows`] : []),
  ].join(", ");
}
