import type { Command } from "commander";
import { StoreError } from "../../errors.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { readPassphraseFile } from "../options/bundle.js";
import {
  listKnownDirectories,
  operate,
  rememberDirectories,
  resolveBundleDirectory,
} from "../options/operation.js";
import {
  addRecipientOptions,
  buildRecipientOptions,
  type RecipientCommandOptions,
} from "../options/recovery-key.js";
import { fieldLines } from "../ui/lines.js";

interface ExportOptions extends RecipientCommandOptions {
  bundleTo?: string;
  bundlePassphraseFile?: string;
}

export function addExport(group: Command): void {
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
