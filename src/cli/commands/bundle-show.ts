import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import {
  addOpenerOptions,
  type BundleKeyOptions,
  openerOf,
  requiredOpener,
} from "../options/bundle.js";

interface ShowOptions extends BundleKeyOptions {
  showPassphrase?: boolean;
}

export function addShow(bundle: Command): void {
  const show = addGlobalOptions(
    addOpenerOptions(bundle.command("show <file>"))
      .description("what a bundle is for; with its key, what is in it")
      .option("--show-passphrase", "show the store's passphrase too")
      .addHelpText(
        "after",
        "\nExample:\n  hivemind-sqlcipher bundle show clients.0123456789abcdef.bundle.age -i recovery-key.txt",
      ),
  );
  show.action(async (file: string, options: ShowOptions) =>
    showBundle(await contextOf(show), file, options),
  );
}

async function showBundle(context: Context, file: string, options: ShowOptions): Promise<void> {
  const { describeBundle, readBundle } = await import("../../bundle/bundle.js");
  const path = expandPath(file);
  const description = await describeBundle(path);
  const opener = await (options.showPassphrase ? requiredOpener(options) : openerOf(options));
  const contents = opener && (await readBundle(path, opener));
  const { passphrase, ...open } = contents ?? {};
  const shown = options.showPassphrase ? { ...open, passphrase } : open;
  context.output.result(
    { bundle: { ...description, ...(contents && { contents: shown }) } },
    () => [
      ...Object.entries({ ...description, ...shown })
        .filter(([label]) => label !== "how_to_open")
        .map(([label, value]) => `${`${label}:`.padEnd(21)} ${format(value)}`),
      ...(contents ? ["", ...contents.how_to_open.map(escapeControlCharacters)] : []),
    ],
  );
}

function format(value: unknown): string {
  if (Array.isArray(value)) return escapeControlCharacters(value.join(", "));
  return escapeControlCharacters(typeof value === "object" ? JSON.stringify(value) : String(value));
}
