/** Options for the recipients of bundles, and the delivery of a new recovery key. */
import type { Command } from "commander";
import type { RecipientOptions, RecoveryKeyDelivery } from "../../bundle/recipients.js";
import { expandPath } from "../../config/paths.js";
import { isKind, StoreError, wrap } from "../../errors.js";
import { lstatIfExists } from "../../fs/read.js";
import { type Context, collectValue } from "../context.js";
import { confirm } from "../ui/prompt.js";

export interface RecipientCommandOptions {
  recoveryKeyFile?: string;
  recipient?: string[];
}

export function addRecipientOptions(command: Command): Command {
  return command
    .option("--recovery-key-file <path>", "Write a new recovery key to this file")
    .option(
      "-r, --recipient <age1…>",
      "Encrypt bundles to this age key (repeatable)",
      collectValue,
    );
}

export function buildRecipientOptions(
  context: Context,
  {
    recoveryKeyFile: file,
    recipient = [],
  }: { recoveryKeyFile?: string | undefined; recipient?: readonly string[] },
): RecipientOptions {
  return {
    settings: context.settingsSection,
    recipients: recipient,
    recoveryKey:
      file === undefined ? deliverByTerminal(context) : deliverByFile(context, expandPath(file)),
  };
}

function deliverByFile({ output, storePath }: Context, path: string): RecoveryKeyDelivery {
  let isCreated = false;
  return {
    isRequested: true,
    assertPossible: async () => {
      if (!(await lstatIfExists(path))) return;
      throw new StoreError("refused", `the recovery key file ${path} exists already`, {
        hint: "Move it away, or name another file with --recovery-key-file PATH.",
      });
    },
    deliver: async (identity, recipient) => {
      const { formatRecoveryKeyHeading } = await import("../../bundle/recovery-key.js");
      const { createFile } = await import("../../fs/atomic.js");
      await createFile(path, `${formatRecoveryKeyHeading(storePath)}${recipient}\n${identity}\n`);
      isCreated = true;
    },
    report: () =>
      output.onEnd({
        result: `Recovery key: ${path}. Move it off this machine, to a safe, a USB stick or a password manager.`,
        error: `the recovery key ${path} was created; keep it: a bundle is encrypted to it`,
      }),
    revoke: async () => {
      // An existing file that this command did not create is another command's key.
      if (!isCreated) return;
      const { removeFile } = await import("../../fs/atomic.js");
      await removeFile(path);
    },
  };
}

function deliverByTerminal({ output, yes }: Context): RecoveryKeyDelivery {
  return {
    isRequested: false,
    assertPossible: async () => {
      if (process.stdout.isTTY && !output.json) return;
      throw new StoreError("usage", "a new recovery key can only be shown on a terminal", {
        hint: "Add --recovery-key-file PATH, or --recipient with a key that you already have.",
      });
    },
    deliver: async (identity) => {
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
      await confirmWritten(yes);
    },
    report: () =>
      output.onEnd({ error: "keep the recovery key that was shown: a bundle is encrypted to it" }),
    revoke: async () =>
      output.warning(
        "the recovery key above is not in use: discard it. The next try shows another.",
      ),
  };
}

/**
 * Asks for confirmation. Replaces the message of `confirm`, which says that nothing changed:
 * `setup` has changed something before this question.
 */
async function confirmWritten(yes: boolean): Promise<void> {
  try {
    await confirm("Have you written it down?", yes);
  } catch (error) {
    if (!isKind(error, "refused", "interrupted")) throw error;
    throw wrap(error, {
      message: "not confirmed: the recovery key was not written down",
      hint: "Run the same command again, and write down the key that it shows.",
    });
  }
}
