import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addOpenerOptions, type BundleKeyOptions, requiredOpener } from "../options/bundle.js";
import { operate } from "../options/operation.js";

export function addImport(bundle: Command): void {
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
