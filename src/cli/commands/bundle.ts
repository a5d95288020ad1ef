import { hostname } from "node:os";
import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addCommandGroup, addGlobalOptions, type Context, contextOf } from "../context.js";
import {
  addOpenerOptions,
  type BundleKeyOptions,
  openerOf,
  requiredOpener,
} from "../options/bundle.js";
import { operate, rememberDirectories } from "../options/operation.js";
import {
  addRecipientOptions,
  type RecipientCommandOptions,
  recipientOptions,
} from "../options/recovery-key.js";

interface ExportOptions extends RecipientCommandOptions {
  bundleTo?: string;
  bundlePassphraseFile?: string;
}

interface ShowOptions extends BundleKeyOptions {
  showPassphrase?: boolean;
}

interface PrintOptions extends BundleKeyOptions {
  output?: string;
  withPassphrase?: boolean;
}

export function addBundleCommands(program: Command): void {
  const bundle = addCommandGroup(
    program,
    "bundle",
    "the passphrase bundle: what opens the backups",
  );

  const write = addGlobalOptions(
    addRecipientOptions(
      bundle
        .command("export")
        .description("write the passphrase bundle of the store, and prove that it opens it")
        .option(
          "--bundle-to <folder>",
          "where to; never with the backups (default: from the settings)",
        )
        .option(
          "--bundle-passphrase-file <path>",
          "encrypt it with the passphrase in this file instead; the next backup makes one for the recipients again",
        ),
    ).addHelpText(
      "after",
      "\nExamples:\n  hivemind-sqlcipher bundle export --bundle-to /media/usb/bundles\n  hivemind-sqlcipher bundle export --recipient age1…   # who is in the settings from now on",
    ),
  );
  write.action(async (options: ExportOptions) => exportBundle(await contextOf(write), options));

  const take = addGlobalOptions(
    addOpenerOptions(bundle.command("import <file>"))
      .description("put a bundle's passphrase into the keyring, once it has opened the store")
      .addHelpText(
        "after",
        "\nExample:\n  hivemind-sqlcipher bundle import clients.0123456789abcdef.bundle.age -i recovery-key.txt",
      ),
  );
  take.action(async (file: string, options: BundleKeyOptions) =>
    importBundle(await contextOf(take), file, options),
  );

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

async function importBundle(
  context: Context,
  file: string,
  options: BundleKeyOptions,
): Promise<void> {
  const { importPassphrase } = await import("../../setup/import-passphrase.js");
  const opener = await requiredOpener(options);
  const result = await operate(context, (lock) =>
    importPassphrase({ lock, source: context.source, bundle: expandPath(file), opener }),
  );
  const { path, key_id, known } = result.imported;
  context.output.result(result, () => [
    known
      ? `The keyring has the passphrase of ${path} (key_id ${key_id}) already.`
      : `The passphrase of ${path} (key_id ${key_id}) is in the keyring: it opens the store.`,
  ]);
}

async function exportBundle(context: Context, options: ExportOptions): Promise<void> {
  const { readSecretFile } = await import("../../fs/private.js");
  const { exportPassphrase } = await import("../../bundle/export.js");
  const { bundleReport } = await import("../../swap/prepare.js");
  const { ensureRecipients } = await import("../../bundle/recipients.js");
  const folder = options.bundleTo ?? context.settings.backup?.bundle_to;
  if (folder === undefined) {
    throw new StoreError("usage", "where should the bundle go?", {
      hint: "Name a folder that is not the backups': --bundle-to FOLDER.",
    });
  }
  const bundlePassphrase =
    options.bundlePassphraseFile === undefined
      ? undefined
      : await readSecretFile(expandPath(options.bundlePassphraseFile));
  const { bundle, notices } = await operate(
    context,
    async () =>
      exportPassphrase({
        storePath: context.storePath,
        source: context.source,
        directory: expandPath(folder),
        backupDirectory: context.settings.backup?.to,
        recipients:
          bundlePassphrase === undefined
            ? await ensureRecipients(recipientOptions(context, options))
            : [],
        bundlePassphrase,
      }),
    { onlyOpens: true },
  );
  await rememberDirectories(context, options);
  for (const notice of notices) context.output.notice(notice);
  const document = { bundle: { ...bundleReport({ bundle }), reused: bundle.reused } };
  context.output.result(document, () => [
    `${bundle.reused ? "The bundle there still holds" : "Bundle written and proven"}: ${bundle.path}`,
    `  key_id      ${bundle.keyId}`,
    ...bundle.recipients.map((recipient) => `  opens with  ${recipient}`),
  ]);
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
