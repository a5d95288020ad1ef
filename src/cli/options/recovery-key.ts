/**
 * The options that say to which keys bundles are encrypted, and how a new recovery key is handed
 * out.
 */
import type { Command } from "commander";
import type { RecipientOptions } from "../../bundle/recipients.js";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import { type Context, repeated } from "../context.js";
import { confirm } from "../ui/prompt.js";

export interface RecipientCommandOptions {
  recoveryKeyFile?: string;
  recipient?: string[];
}

export function addRecipientOptions(command: Command): Command {
  return command
    .option("--recovery-key-file <path>", "Write a new recovery key to this file")
    .option("-r, --recipient <age1…>", "Encrypt bundles to this age key (repeatable)", repeated);
}

export function recipientOptions(
  context: Context,
  options: RecipientCommandOptions,
): RecipientOptions {
  return {
    settings: context.settingsSection,
    recipients: options.recipient ?? [],
    keepRecoveryKey: (identity, recipient) =>
      keepRecoveryKey(context, options.recoveryKeyFile, identity, recipient),
  };
}

async function keepRecoveryKey(
  context: Context,
  file: string | undefined,
  identity: string,
  recipient: string,
): Promise<void> {
  const { output, storePath } = context;
  if (file !== undefined) {
    const { createFile } = await import("../../fs/atomic.js");
    const path = expandPath(file);
    await createFile(
      path,
      `# Recovery key of the HiveMind store ${storePath}\n# Opens its passphrase bundles: age -d -i THIS-FILE clients.….bundle.age\n# public key: ${recipient}\n${identity}\n`,
    );
    output.onEnd({
      result: `Recovery key: ${path}. Move it off this machine, to a safe, a USB stick or a password manager.`,
      error: `the recovery key ${path} was created; keep it: bundles are encrypted to it from now on`,
    });
    return;
  }
  if (!process.stdout.isTTY || output.json) {
    throw new StoreError("usage", "a new recovery key can only be shown on a terminal", {
      hint: "Add --recovery-key-file PATH, or --recipient with a key that you already have.",
    });
  }
  output.line(
    [
      "This is the recovery key. It opens the passphrase bundles, and with them the",
      "backups, if this machine or its keyring is lost. It is shown only now and",
      "stored nowhere: write it down.",
      "",
      `  ${identity}`,
      "",
    ].join("\n"),
  );
  await confirm("Have you written it down?", context.yes);
  output.onEnd({
    error: "keep the recovery key that was shown: bundles are encrypted to it from now on",
  });
}
