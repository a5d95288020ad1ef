import type { Command } from "commander";
import { expandIfGiven } from "../../config/paths.js";
import type { EncryptResult } from "../../swap/encrypt.js";
import { choiceOption, finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { addSwapOptions, operateWithService, type SwapOptions } from "../operate.js";
import {
  addBundleTarget,
  assertUsableDirectory,
  type BundleTargetOptions,
  createNamedDirectories,
  rememberDirectories,
  withBundleTarget,
} from "../options/directories.js";
import { rememberSource } from "../options/remember.js";
import { describeDowntime, describePassphrase, fieldLines } from "../ui/lines.js";

interface EncryptOptions extends SwapOptions, BundleTargetOptions {
  to?: string;
  passphraseFile?: string;
  cipherCompatibility?: "3" | "4";
}

export function addCommand(program: Command): void {
  const command = program
    .command("encrypt")
    .description("Encrypt a plain SQLite store, or upgrade format 3 to 4")
    .option("--to <directory>", "Remember this directory for backups")
    .option("--passphrase-file <path>", "Use the passphrase in this file, not a generated one")
    .addOption(
      choiceOption("--cipher-compatibility <3|4>", "Write this SQLCipher format (default: 4)"),
    );
  addSwapOptions(command);
  addBundleTarget(command);
  finishCommand(command, runEncrypt, {
    details: [
      "Format 3 is for a hub whose SQLCipher library is too old for format 4. --to is saved in the settings unless they have backup.to already, and --bundle-to unless they have backup.bundle_to.",
    ],
    examples: [
      "hivemind-sqlcipher encrypt --to /srv/backup/hivemind --bundle-to /media/usb/bundles",
    ],
  });
}

async function runEncrypt(context: Context, options: EncryptOptions): Promise<void> {
  const { encrypt } = await import("../../swap/encrypt.js");
  const passphraseFile = expandIfGiven(options.passphraseFile);
  await assertUsableDirectory("--to", options.to);
  // A directory that cannot be created ends the command before the store is encrypted.
  const recordMountPoints = await createNamedDirectories(context, options.to);
  const result = await withBundleTarget(context, options, (bundleTarget) =>
    operateWithService(context, options, (operation) =>
      encrypt({
        ...operation,
        ...bundleTarget,
        passphraseFile,
        cipherCompatibility: options.cipherCompatibility === "3" ? 3 : 4,
      }),
    ),
  );
  await recordMountPoints();
  await rememberDirectories(context, options);
  const { from, passphraseSource } = result.encrypted;
  if (from === "plaintext") await rememberSource(context, passphraseSource);
  context.output.result(result, () => encryptLines(result));
}

function encryptLines({ encrypted, bundle, service }: EncryptResult): string[] {
  const { path, from, caution } = encrypted;
  return [
    `Encrypted: ${path}, from ${from} to SQLCipher ${encrypted.cipherCompatibility}`,
    ...fieldLines({
      key_id: encrypted.keyId,
      passphrase: describePassphrase(encrypted.passphraseSource),
      bundle: bundle?.path,
      service: describeDowntime(service),
    }),
    ...(caution === null ? [] : ["", caution]),
  ];
}
