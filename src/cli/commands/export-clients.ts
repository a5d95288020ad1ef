import { extname } from "node:path";
import { type Command, Option } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import type { Format } from "../../exchange/import.js";
import { abortOnSignal } from "../../process/signals.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { openStore } from "../open.js";
import { print } from "../ui/output.js";
import { Progress } from "../ui/progress.js";

interface ExportCommandOptions {
  path?: string;
  format?: Format;
  showSecrets?: boolean;
}

export function addCommand(program: Command): void {
  const exporting = addGlobalOptions(
    program
      .command("export-clients")
      .description("write the clients to a file, or to standard output")
      .option("--path <path>", "a file that is not there yet, or a folder")
      .addOption(
        new Option(
          "--format <csv|json>",
          "csv: the hub's columns; json: everything (default: by the path's ending, else csv)",
        ).choices(["csv", "json"]),
      )
      .option("--show-secrets", "with access keys, passwords, crypto keys, and revoked clients")
      .addHelpText(
        "after",
        `
Only an export with --show-secrets can be imported again; it is not encrypted.
CSV does not say what a client may do, JSON does.

Examples:
  hivemind-sqlcipher export-clients --path clients.csv
  hivemind-sqlcipher export-clients --path /media/usb/clients.json --show-secrets
  hivemind-sqlcipher export-clients --format json --show-secrets | age -r age1… > clients.json.age`,
      ),
  );
  exporting.action(async (options: ExportCommandOptions) =>
    exportClients(await contextOf(exporting), options),
  );
}

async function exportClients(context: Context, options: ExportCommandOptions): Promise<void> {
  const { exportPath, exportText, exportToFile } = await import("../../exchange/export.js");
  const secrets = options.showSecrets ?? false;
  const format = options.format ?? defaultFormat(options.path, context.output.json);
  if (options.path === undefined && context.output.json && format === "csv") {
    throw new StoreError("usage", "--json and --format csv cannot both be on standard output");
  }
  const path =
    options.path === undefined ? undefined : await exportPath(expandPath(options.path), format);
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
        if (path !== undefined) progress.show("exporting", done, total);
      },
    });
    if (path === undefined) {
      for await (const piece of text) await print(piece);
      return;
    }
    try {
      await exportToFile(path, text);
    } finally {
      progress.end();
    }
    context.output.result({ export: { path, format, clients: count, secrets } }, () => [
      `${count} clients written to ${path}${secrets ? ", not encrypted: whoever reads it can come in as any of them" : ", without their secrets"}`,
    ]);
  });
}

function defaultFormat(path: string | undefined, json: boolean): Format {
  if (path === undefined) return json ? "json" : "csv";
  return extname(path).toLowerCase() === ".json" ? "json" : "csv";
}
