import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { addHelp } from "../help.js";
import { addOpenerOptions, type BundleKeyOptions, requiredOpener } from "../options/bundle.js";
import { operate } from "../options/operation.js";
import { toJson } from "../ui/json.js";

export function addImport(group: Command): void {
  const command = addOpenerOptions(group.command("import <file>")).description(
    "Import a bundle's passphrase into the keyring",
  );
  addGlobalOptions(command);
  addHelp(command, {
    details: ["The passphrase is imported only if it opens the store."],
    examples: [
      "hivemind-sqlcipher bundle import clients.0123456789abcdef.bundle.age -i recovery-key.txt",
    ],
  });
  command.action(async (file: string, options: BundleKeyOptions) =>
    importBundle(await contextOf(command), file, options),
  );
}

async function importBundle(
  context: Context,
  file: string,
  options: BundleKeyOptions,
): Promise<void> {
  const { importPassphrase } = await import("../../setup/import-passphrase.js");
  const bundle = expandPath(file);
  const opener = await requiredOpener(options, bundle);
  const result = await operate(context, (lock) =>
    importPassphrase({ lock, source: context.source, bundle, opener }),
  );
  const { path, keyId, known } = result.imported;
  context.output.result(toJson(result), () => [
    known
      ? `The keyring already has the passphrase of ${path} (key_id ${keyId})`
      : `Imported the passphrase of ${path} (key_id ${keyId}) into the keyring; it opens the store`,
  ]);
}
