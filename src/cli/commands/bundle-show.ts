import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import {
  addOpenerOptions,
  type BundleKeyOptions,
  readOpener,
  readOrAskOpener,
} from "../options/bundle.js";
import { toJson } from "../ui/json.js";

interface ShowOptions extends BundleKeyOptions {
  showPassphrase?: boolean;
}

export function addShow(group: Command): void {
  const command = addOpenerOptions(group.command("show <file>"))
    .description("Show a bundle's file and, with its key, its contents")
    .option("--show-passphrase", "Show the store's passphrase, too");
  finishCommand(command, showBundle, {
    examples: [
      "hivemind-sqlcipher bundle show clients.0123456789abcdef.bundle.age -i recovery-key.txt",
    ],
  });
}

async function showBundle(context: Context, file: string, options: ShowOptions): Promise<void> {
  const { describeBundle, readBundle } = await import("../../bundle/bundle.js");
  const path = expandPath(file);
  const description = toJson(await describeBundle(path));
  const opener = await (options.showPassphrase
    ? readOrAskOpener(options, path)
    : readOpener(options));
  const contents = opener && (await readBundle(path, opener));
  const { passphrase, ...rest } = contents ?? {};
  const shown = options.showPassphrase ? { ...rest, passphrase } : rest;
  const document = { bundle: { ...description, ...(contents && { contents: shown }) } };
  const proof = description.proof && proofText(description.proof);
  context.output.result(document, () => [
    ...Object.entries({ ...description, proof, ...shown })
      .filter(([label]) => label !== "how_to_open")
      .map(([label, value]) => `${`${label}:`.padEnd(21)} ${valueText(value)}`),
    ...(contents ? ["", ...contents.how_to_open.map(escapeControlCharacters)] : []),
  ]);
}

function proofText({ recipients, matches }: { recipients: string[]; matches: boolean }): string {
  return matches
    ? `the bundle opens with the key of ${recipients.join(", ")}`
    : "the verification record belongs to another bundle";
}

function valueText(value: unknown): string {
  if (value === null || value === undefined) return "none";
  return escapeControlCharacters(Array.isArray(value) ? value.join(", ") : String(value));
}
