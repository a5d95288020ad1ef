import { type Command, Option } from "commander";
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
  rememberDirectories,
  type SwapOptions,
} from "../options/operation.js";

interface EncryptCommandOptions extends SwapOptions, BundleTargetOptions {
  to?: string;
  passphraseFile?: string;
  cipherCompatibility?: "3" | "4";
}

export function addCommand(program: Command): void {
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
