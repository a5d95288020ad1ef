/** The options that say who can open the bundles, and the moment in which a new recovery key is shown. */
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
    .option("--recovery-key-file <path>", "write the recovery key there instead of showing it")
    .option(
      "-r, --recipient <age1…>",
      "encrypt bundles to this age recipient; can be repeated; none is made then",
      repeated,
    );
}

export function recipientOptions(
  context: Context,
  options: RecipientCommandOptions,
): RecipientOptions {
  return {
    settingsPath: context.settingsPath,
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
    output.notice(
      `The recovery key is in ${path}. Move it off this machine: to a safe, a stick, a password manager.`,
    );
    return;
  }
  if (!process.stdout.isTTY || output.json) {
    throw new StoreError("usage", "the new recovery key has nowhere to go", {
      hint: "It is only ever shown on a terminal. Use --recovery-key-file PATH, or --recipient for a key you have.",
    });
  }
  output.line(
    [
      "This is the recovery key. It opens the passphrase bundles, and so the backups,",
      "when this machine or its keyring is gone. It is shown this once and kept",
      "nowhere: write it down now.",
      "",
      `  ${identity}`,
      "",
    ].join("\n"),
  );
  await confirm("Have you written it down?", context.yes);
}
