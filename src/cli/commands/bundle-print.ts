import { hostname } from "node:os";
import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import {
  addOpenerOptions,
  type BundleKeyOptions,
  openerOf,
  requiredOpener,
} from "../options/bundle.js";

interface PrintOptions extends BundleKeyOptions {
  output?: string;
  withPassphrase?: boolean;
}

export function addPrint(bundle: Command): void {
  const print = addGlobalOptions(
    addOpenerOptions(bundle.command("print <file>"))
      .description("a page for a safe: the bundle as QR codes and letters, and how to use it")
      .option("-o, --output <file>", "write it to this new file (default: standard output)")
      .option("--with-passphrase", "print the passphrase too, so that the page opens the store")
      .addHelpText(
        "after",
        "\nThe page is HTML that loads nothing, for A4 or Letter. The bundle on it stays\nlocked: keep the recovery key, or the bundle's passphrase, in another place.\nWith --with-passphrase the page alone opens everything; write it to a file in\nmemory, and remove that when it is printed.\n\nExamples:\n  hivemind-sqlcipher bundle print clients.0123456789abcdef.bundle.age -o sheet.html\n  hivemind-sqlcipher bundle print FILE -i recovery-key.txt --with-passphrase -o /dev/shm/sheet.html",
      ),
  );
  print.action(async (file: string, options: PrintOptions) =>
    printBundle(await contextOf(print), file, options),
  );
}

async function printBundle(context: Context, file: string, options: PrintOptions): Promise<void> {
  const { describeBundle, readBundle } = await import("../../bundle/bundle.js");
  const { recoverySheet } = await import("../../bundle/sheet.js");
  const { createFile } = await import("../../fs/atomic.js");
  const { identify } = await import("../../store/cipher.js");
  const path = expandPath(file);
  const opener = await (options.withPassphrase ? requiredOpener(options) : openerOf(options));
  const { key_id: keyId } = await describeBundle(path);
  const isOfStore = keyId !== null && (await identify(context.storePath)).keyId === keyId;
  const page = await recoverySheet({
    bundle: path,
    store: isOfStore ? `${context.storePath} on ${hostname()}` : undefined,
    contents: opener && (await readBundle(path, opener)),
    withPassphrase: options.withPassphrase ?? false,
    printedAt: new Date(),
  });
  if (options.output === undefined) {
    if (context.output.json) context.output.result({ page }, () => []);
    else context.output.line(page.trimEnd());
    return;
  }
  const to = expandPath(options.output);
  await createFile(to, page);
  context.output.result({ sheet: { path: to, bundle: path } }, () => [
    `Recovery sheet: ${to}`,
    "  Open it in a browser and print it; it is one page.",
  ]);
  if (options.withPassphrase) {
    context.output.warning(`the passphrase stands in ${to}: print it, then remove it (shred -u)`);
  }
}
