import { extname } from "node:path";
import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import type { Format } from "../../exchange/import.js";
import { abortOnSignal } from "../../process/signals.js";
import { counted } from "../../text/count.js";
import { choiceOption, finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { openStore } from "../open.js";
import {
  addFileOption,
  addSecretOption,
  type FileOption,
  resolveFile,
  type SecretOption,
} from "../options/client.js";
import { print } from "../ui/output.js";
import { Progress } from "../ui/progress.js";

interface ExportOptions extends SecretOption, FileOption {
  format?: Format;
}

export function addCommand(program: Command): void {
  const command = program
    .command("export-clients [file]")
    .description("Export the clients to a file or standard output")
    .addOption(
      choiceOption("--format <csv|json>", "Write this format (default: by the file's name)"),
    );
  addFileOption(command, "Write to this new file, or in this directory (- for stdout)");
  addSecretOption(command);
  finishCommand(command, exportClients, {
    details: [
      "CSV has the columns of hivemind-core export-clients. JSON has all fields, with permissions and metadata. The format of a file is JSON if its name ends in .json, and otherwise CSV. On standard output it is CSV, or JSON with --json.",
      "Only an export with --show-secrets includes revoked clients and can be imported again. Such an export is not encrypted.",
    ],
    examples: [
      "hivemind-sqlcipher export-clients clients.csv",
      "hivemind-sqlcipher export-clients /media/usb/clients.json --show-secrets",
      "hivemind-sqlcipher export-clients --format json --show-secrets | age -r age1… > clients.json.age",
    ],
  });
}

async function exportClients(
  context: Context,
  argument: string | undefined,
  options: ExportOptions,
): Promise<void> {
  const { format: wanted, showSecrets: secrets = false } = options;
  const named = resolveFile(argument, options);
  const file = named === "-" ? undefined : named;
  const { resolveExportPath, exportText, exportToFile } = await import("../../exchange/export.js");
  const format = wanted ?? resolveFormat(file, context.output.json);
  if (file === undefined && context.output.json && format === "csv") {
    throw new StoreError("usage", "--json and --format csv cannot share standard output", {
      hint: "Name a file for the export, or leave out one of the options.",
    });
  }
  const path = file === undefined ? undefined : await resolveExportPath(expandPath(file), format);
  if (path === undefined) {
    // No abortOnSignal here, so that a signal ends the process at once, even while it waits for a
    // slow reader. There is nothing to clean up.
    await using store = await openStore(context);
    for await (const piece of exportText({ clients: store, format, secrets })) await print(piece);
    return;
  }
  const progress = new Progress(context.output);
  await abortOnSignal(async (signal) => {
    await using store = await openStore(context);
    const total = await store.size();
    let count = 0;
    const text = exportText({
      clients: store,
      format,
      secrets,
      signal,
      progress: (done) => {
        count = done;
        progress.show("exporting", done, total);
      },
    });
    await exportToFile(path, text).finally(() => progress.end());
    context.output.result({ export: { path, format, clients: count, secrets } }, () => [
      `Exported ${counted(count, "client")} to ${path}, ${secrets ? "with secrets in plain text: anyone who reads the file can connect as these clients" : "without secrets"}`,
    ]);
  });
}

function resolveFormat(file: string | undefined, json: boolean): Format {
  if (file === undefined) return json ? "json" : "csv";
  return extname(file).toLowerCase() === ".json" ? "json" : "csv";
}
