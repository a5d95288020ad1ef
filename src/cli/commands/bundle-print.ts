import { hostname } from "node:os";
import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import {
  addOpenerOptions,
  type BundleKeyOptions,
  readOpener,
  readOrAskOpener,
} from "../options/bundle.js";

interface PrintOptions extends BundleKeyOptions {
  output?: string;
  withPassphrase?: boolean;
}

export function addPrint(group: Command): void {
  const command = addOpenerOptions(group.command("print <file>"))
    .description("Write a page with a bundle as QR codes and text, to print")
    .option("-o, --output <file>", "Write to this new file (default: -, standard output)")
    .option("--with-passphrase", "Print the passphrase, too");
  finishCommand(command, printBundle, {
    details: [
      "The page is HTML without scripts and other files, for A4 or Letter. The bundle on the page stays encrypted: keep the recovery key, or the bundle's passphrase, somewhere else.",
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
