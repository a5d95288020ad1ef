import type { Command } from "commander";
import { expandIfGiven } from "../../config/paths.js";
import { formatSource } from "../../keys/source.js";
import type { RotateResult } from "../../swap/rotate.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { type MonitoredResult, monitor } from "../monitored.js";
import { addSwapOptions, operateWithService, type SwapOptions } from "../operate.js";
import {
  addBundleTarget,
  type BundleTargetOptions,
  withBundleTarget,
} from "../options/directories.js";
import { describeDowntime, describePassphrase, fieldLines } from "../ui/lines.js";

interface RotateOptions extends SwapOptions, BundleTargetOptions {
  passphraseFile?: string;
  keepPrevious?: boolean;
  compareRows?: boolean;
  reencryptBackups?: string;
}

export function addCommand(program: Command): void {
  const command = program
    .command("rotate")
    .description("Replace the passphrase, re-encrypt the store, write a bundle")
    .option("--passphrase-file <path>", "Use the passphrase in this file, not a generated one")
    .option("--keep-previous", "Keep the previous passphrase in the keyring")
    .option("--compare-rows", "Compare every row, too, while the service is stopped")
    .option("--reencrypt-backups <directory>", "Re-encrypt the backups in this directory, too");
  addSwapOptions(command);
  addBundleTarget(command);
  finishCommand(command, monitor("rotate", runRotate), {
    details: [
      "The store is re-encrypted page by page while the service runs, and each page is read back and compared; the service is stopped only for the pages that changed during the re-encryption. A store that is not in WAL mode is re-encrypted while the service is stopped.",
      "Older backups stay encrypted with the previous passphrase, which is in its own bundle. --keep-previous lets restore and verify open them without that bundle.",
    ],
    examples: [
      "hivemind-sqlcipher rotate",
      "hivemind-sqlcipher rotate --keep-previous --reencrypt-backups /srv/backup/hivemind",
    ],
  });
}

async function runRotate(context: Context, options: RotateOptions): Promise<MonitoredResult> {
  const { rotate } = await import("../../swap/rotate.js");
  const passphraseFile = expandIfGiven(options.passphraseFile);
  const reencrypt = expandIfGiven(options.reencryptBackups);
  const result = await withBundleTarget(context, options, (bundleTarget) =>
    operateWithService(context, options, (operation) =>
      rotate({
        ...operation,
        ...bundleTarget,
        passphraseFile,
        keepPrevious: options.keepPrevious,
        compareRows: options.compareRows,
        reencrypt,
      }),
    ),
  );
  await context.refreshSettings();
  const print = () => {
    const { passphraseSource } = result.rotated;
    context.output.result(result, () => rotateLines(result));
    if (formatSource(context.source) !== passphraseSource) {
      context.output.notice(`use --passphrase-source ${passphraseSource} from now on`);
    }
    if (result.backups === null) context.output.notice(backupAdvice(result, context));
  };
  return { result, stoppedMs: result.service.stoppedMs, print };
}

/** Returns advice on the backups made with the previous passphrase. */
function backupAdvice({ rotated }: RotateResult, { settings }: Context): string {
  const canKeep = rotated.passphraseSource === "keyring";
  const remedy = `${canKeep ? "--keep-previous or " : ""}--reencrypt-backups avoids this`;
  const keep = rotated.previousKept
    ? "Older backups still open with the previous passphrase in the keyring"
    : `Older backups open only with the bundle of the previous passphrase, and prune does not remove them (at the next rotate, ${remedy})`;
  const directory = settings.backup?.to;
  const backup = directory === undefined ? "backup --to DIRECTORY" : "backup";
  return `${keep}; back up now: hivemind-sqlcipher ${backup}`;
}

function rotateLines({ rotated, bundle, service, backups }: RotateResult): string[] {
  return [
    `Rotated: ${rotated.path} has a new passphrase`,
    ...fieldLines({
      passphrase: describePassphrase(rotated.passphraseSource),
      key_id: `${rotated.keyId} (was ${rotated.previousKeyId})`,
      previous: `${rotated.previousKept ? "kept in the keyring" : "only in its bundle"}, opens older backups`,
      bundle: bundle?.path,
      service: describeDowntime(service),
      backups: backups && `${backups.reencrypted.length} re-encrypted`,
      "": backups?.left.map(({ path, reason }) => `unchanged: ${path} (${reason})`),
    }),
  ];
}
