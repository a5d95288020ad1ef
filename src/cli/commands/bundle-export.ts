import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
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

export function addExport(bundle: Command): void {
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
