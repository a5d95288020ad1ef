/** What changes the store's file in place: encrypt, decrypt, rotate, upgrade-schema. */
import { type Command, Option } from "commander";
import { expandPath } from "../../config/paths.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import {
  addBundleTarget,
  addServiceOptions,
  addSwapOptions,
  type BundleTargetOptions,
  bundleLines,
  bundleOptions,
  downtimeLines,
  formatSourceName,
  operate,
  operationOptions,
  rememberDirectories,
  type ServiceOptions,
  type SwapOptions,
} from "../options/operation.js";

interface EncryptCommandOptions extends SwapOptions, BundleTargetOptions {
  to?: string;
  passphraseFile?: string;
  cipherCompatibility?: "3" | "4";
}

interface RotateCommandOptions extends SwapOptions, BundleTargetOptions {
  passphraseFile?: string;
  keepPrevious?: boolean;
  reencryptBackups?: string;
}

export function addLifecycleCommands(program: Command): void {
  const encrypt = addGlobalOptions(
    addBundleTarget(
      addSwapOptions(
        program
          .command("encrypt")
          .description("encrypt a plaintext store in place; bring a store of format 3 to 4")
          .option("--to <folder>", "remember where backups go")
          .option("--passphrase-file <path>", "use this passphrase instead of a generated one")
          .addOption(
            new Option(
              "--cipher-compatibility <3|4>",
              "3 where the hub's own library reads nothing newer (default: 4)",
            ).choices(["3", "4"]),
          ),
      ),
    ).addHelpText(
      "after",
      "\nExample:\n  hivemind-sqlcipher encrypt --to /srv/backup/hivemind --bundle-to /media/usb/bundles",
    ),
  );
  encrypt.action(async (options: EncryptCommandOptions) =>
    runEncrypt(await contextOf(encrypt), options),
  );

  const decrypt = addGlobalOptions(
    addSwapOptions(
      program
        .command("decrypt")
        .description("the way back: an encrypted store becomes a plaintext one; asks twice")
        .addHelpText("after", "\nExample:\n  hivemind-sqlcipher decrypt"),
    ),
  );
  decrypt.action(async (options: SwapOptions) => runDecrypt(await contextOf(decrypt), options));

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

  const upgrade = addGlobalOptions(
    addServiceOptions(
      program
        .command("upgrade-schema")
        .description("bring the store to schema 2, if the hub knows it; lists what that drops")
        .option("--hub-python <path>", "the hub's Python, where it cannot be told from its unit")
        .addHelpText(
          "after",
          "\nExamples:\n  hivemind-sqlcipher upgrade-schema\n  hivemind-sqlcipher upgrade-schema --hub-python /opt/hivemind/bin/python",
        ),
    ),
  );
  upgrade.action(async (options: ServiceOptions & { hubPython?: string }) =>
    runUpgradeSchema(await contextOf(upgrade), options),
  );
}

async function runEncrypt(context: Context, options: EncryptCommandOptions): Promise<void> {
  const { encrypt } = await import("../../swap/encrypt.js");
  const bundleTarget = await bundleOptions(context, options);
  const result = await operate(context, (lock, signal) =>
    encrypt({
      ...operationOptions(context, options, lock, signal),
      ...bundleTarget,
      passphraseFile: options.passphraseFile && expandPath(options.passphraseFile),
      cipherCompatibility: options.cipherCompatibility === "3" ? 3 : 4,
    }),
  );
  await rememberDirectories(context, options);
  const { encrypted, bundle, service } = result;
  context.output.result(result, () => [
    `Encrypted: ${encrypted.path}, ${encrypted.from} until now; SQLCipher ${encrypted.cipher_compatibility}`,
    `  key_id      ${encrypted.key_id}`,
    `  passphrase  in ${formatSourceName(encrypted.passphrase_source)}`,
    ...bundleLines(bundle),
    ...downtimeLines(service),
    ...(encrypted.caution === null ? [] : ["", encrypted.caution]),
  ]);
}

async function runDecrypt(context: Context, options: SwapOptions): Promise<void> {
  const { decrypt } = await import("../../swap/decrypt.js");
  const result = await operate(context, (lock, signal) =>
    decrypt(operationOptions(context, options, lock, signal)),
  );
  context.output.result(result, () => [
    `Decrypted: ${result.decrypted.path} can be read by anybody who gets at the file.`,
    ...downtimeLines(result.service),
  ]);
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

async function runUpgradeSchema(
  context: Context,
  options: ServiceOptions & { hubPython?: string },
): Promise<void> {
  const { upgradeSchema } = await import("../../swap/upgrade-schema.js");
  const result = await operate(context, (lock, signal) =>
    upgradeSchema({
      ...operationOptions(context, options, lock, signal),
      hubPython: options.hubPython,
    }),
  );
  const { upgraded, service } = result;
  context.output.result(result, () =>
    upgraded.from === upgraded.to
      ? [`${upgraded.path} has schema ${upgraded.to} already; nothing was changed.`]
      : [
          `${upgraded.path}: schema ${upgraded.from} is now ${upgraded.to}`,
          ...upgraded.dropped.map(
            ({ client_id, what }) => `  dropped     client ${client_id}: ${what}`,
          ),
          ...downtimeLines(service),
        ],
  );
}
