import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import {
  addBundleTarget,
  addSwapOptions,
  type BundleTargetOptions,
  bundleLines,
  bundleOptions,
  downtimeLines,
  formatSourceName,
  operate,
  operationOptions,
  type SwapOptions,
} from "../options/operation.js";

interface RotateCommandOptions extends SwapOptions, BundleTargetOptions {
  passphraseFile?: string;
  keepPrevious?: boolean;
  reencryptBackups?: string;
}

export function addCommand(program: Command): void {
  const rotate = addGlobalOptions(
    addBundleTarget(
      addSwapOptions(
        program
          .command("rotate")
          .description("a new passphrase: a new file under it, a new bundle, and the hub told")
          .option("--passphrase-file <path>", "use this passphrase instead of a generated one")
          .option("--keep-previous", "keep the old one in the keyring, for old backups")
          .option("--reencrypt-backups <folder>", "bring the backups there under the new one too"),
      ),
    ).addHelpText(
      "after",
      "\nExamples:\n  hivemind-sqlcipher rotate\n  hivemind-sqlcipher rotate --keep-previous --reencrypt-backups /srv/backup/hivemind",
    ),
  );
  rotate.action(async (options: RotateCommandOptions) =>
    runRotate(await contextOf(rotate), options),
  );
}

async function runRotate(context: Context, options: RotateCommandOptions): Promise<void> {
  const { rotate } = await import("../../swap/rotate.js");
  const bundleTarget = await bundleOptions(context, options);
  const result = await operate(context, (lock, signal) =>
    rotate({
      ...operationOptions(context, options, lock, signal),
      ...bundleTarget,
      passphraseFile: options.passphraseFile && expandPath(options.passphraseFile),
      settingsPath: context.settingsPath,
      keepPrevious: options.keepPrevious,
      reencrypt: options.reencryptBackups && expandPath(options.reencryptBackups),
    }),
  );
  const { rotated, bundle, service, backups } = result;
  context.output.result(result, () => [
    `Rotated: ${rotated.path} has a new passphrase, in ${formatSourceName(rotated.passphrase_source)}`,
    `  key_id      ${rotated.key_id} (was ${rotated.previous_key_id})`,
    rotated.previous_kept
      ? "  old one     kept in the keyring, for older backups"
      : "  old one     in its bundle alone, for older backups",
    ...bundleLines(bundle),
    ...downtimeLines(service),
    ...(backups
      ? [
          `  backups     ${backups.reencrypted.length} brought under the new passphrase`,
          ...backups.left.map(
            ({ path, reason }) => `              left as it is: ${path} (${reason})`,
          ),
        ]
      : []),
  ]);
}
