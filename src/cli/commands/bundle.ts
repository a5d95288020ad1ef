import { hostname } from "node:os";
import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addCommandGroup, finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { operate } from "../operate.js";
import {
  addOpenerOptions,
  type BundleKeyOptions,
  readOpener,
  readOrAskOpener,
  readPassphraseFile,
} from "../options/bundle.js";
import {
  listKnownDirectories,
  rememberDirectories,
  resolveBundleDirectory,
} from "../options/directories.js";
import {
  addRecipientOptions,
  buildRecipientOptions,
  type RecipientCommandOptions,
} from "../options/recovery-key.js";
import { toJson } from "../ui/json.js";
import { fieldLines } from "../ui/lines.js";
import { addImport } from "./bundle-import.js";

export function addCommand(program: Command): void {
  const group = addCommandGroup(program, "bundle", "Manage the passphrase bundles of the store");
  addExport(group);
  addImport(group);
  addShow(group);
  addPrint(group);
}

interface ExportOptions extends RecipientCommandOptions {
  bundleTo?: string;
  bundlePassphraseFile?: string;
}

function addExport(group: Command): void {
  const command = group
    .command("export")
    .description("Write the store's passphrase bundle and verify it")
    .option("--bundle-to <directory>", "Write the bundle here, apart from the backups")
    .option(
      "--bundle-passphrase-file <path>",
      "Encrypt the bundle with the passphrase in this file",
    );
  addRecipientOptions(command);
  finishCommand(command, runExport, {
    details: [
      "--recipient adds the key to the recipients in the settings, so that later bundles are encrypted to it, too. A bundle of --bundle-passphrase-file is replaced by the next backup, which encrypts its bundle to the recipients.",
    ],
    examples: [
      "hivemind-sqlcipher bundle export --bundle-to /media/usb/bundles",
      "hivemind-sqlcipher bundle export --recipient age1…",
    ],
  });
}

async function runExport(context: Context, options: ExportOptions): Promise<void> {
  const { exportBundle } = await import("../../bundle/export.js");
  const directory = resolveBundleDirectory(context, options);
  const encryption = await resolveEncryption(context, options);
  const bundle = await operate(
    context,
    async () =>
      exportBundle({
        storePath: context.storePath,
        source: context.source,
        directory,
        backupDirectory: context.settings.backup?.to,
        knownDirectories: listKnownDirectories(context),
        reporter: context.reporter,
        encryption,
      }),
    { whileServiceDown: "open-only" },
  );
  await rememberDirectories(context, options);
  context.output.result({ bundle }, () => [
    `${bundle.reused ? "Bundle exists and is valid" : "Bundle written and verified"}: ${bundle.path}`,
    ...fieldLines({ key_id: bundle.keyId, "opens with": bundle.recipients }),
  ]);
}

async function resolveEncryption(context: Context, options: ExportOptions) {
  const { bundlePassphraseFile, recipient, recoveryKeyFile } = options;
  if (bundlePassphraseFile === undefined) {
    const { planRecipients } = await import("../../bundle/recipients.js");
    return { recipientPlan: await planRecipients(buildRecipientOptions(context, options)) };
  }
  if (recipient !== undefined || recoveryKeyFile !== undefined) {
    throw new StoreError("usage", "a bundle with a passphrase cannot have recipients", {
      hint: "Leave out --bundle-passphrase-file, or both --recipient and --recovery-key-file.",
    });
  }
  const [passphrase] = await readPassphraseFile(bundlePassphraseFile);
  return { passphrase };
}

interface ShowOptions extends BundleKeyOptions {
  showPassphrase?: boolean;
}

function addShow(group: Command): void {
  const command = addOpenerOptions(group.command("show <file>"))
    .description("Show what a bundle is, and its contents if its key is given")
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

interface PrintOptions extends BundleKeyOptions {
  output?: string;
  withPassphrase?: boolean;
}

function addPrint(group: Command): void {
  const command = addOpenerOptions(group.command("print <file>"))
    .description("Write a page with a bundle as QR codes and text, to print")
    .option("-o, --output <file>", "Write to this new file (default: -, standard output)")
    .option("--with-passphrase", "Print the passphrase, too");
  finishCommand(command, printBundle, {
    details: [
      "The page is a single HTML file without scripts, for A4 or Letter. The bundle on the page stays encrypted: keep the recovery key, or the bundle's passphrase, somewhere else.",
      "A page of --with-passphrase opens the store and its backups without another key. Write it to a file in memory, such as in /dev/shm, and remove the file after printing.",
    ],
    examples: [
      "hivemind-sqlcipher bundle print clients.0123456789abcdef.bundle.age -o sheet.html",
      "hivemind-sqlcipher bundle print FILE -i recovery-key.txt --with-passphrase -o /dev/shm/sheet.html",
    ],
  });
}

async function printBundle(context: Context, file: string, options: PrintOptions): Promise<void> {
  const { createFile } = await import("../../fs/atomic.js");
  const { output } = context;
  const bundle = expandPath(file);
  const page = await renderSheet(context, bundle, options);
  if (options.output === undefined || options.output === "-") {
    if (output.json) output.result({ page }, () => []);
    else output.line(page.trimEnd());
    return;
  }
  const path = expandPath(options.output);
  await createFile(path, page);
  output.result({ sheet: { path, bundle } }, () => [
    `Recovery sheet: ${path}`,
    "  Open it in a browser and print it. It is one page.",
  ]);
  if (options.withPassphrase) {
    output.warning(`${path} contains the passphrase: print it, then remove it with shred -u`);
  }
}

async function renderSheet(
  { storePath }: Context,
  bundle: string,
  options: PrintOptions,
): Promise<string> {
  const { describeBundle, readBundle } = await import("../../bundle/bundle.js");
  const { renderRecoverySheet } = await import("../../bundle/sheet.js");
  const { identify } = await import("../../store/cipher.js");
  const opener = await (options.withPassphrase
    ? readOrAskOpener(options, bundle)
    : readOpener(options));
  const { keyId } = await describeBundle(bundle);
  const isOfStore = keyId !== null && (await identify(storePath)).keyId === keyId;
  return renderRecoverySheet({
    bundle,
    store: isOfStore ? `${storePath} on ${hostname()}` : undefined,
    contents: opener && (await readBundle(bundle, opener)),
    withPassphrase: options.withPassphrase ?? false,
    printedAt: new Date(),
  });
}
