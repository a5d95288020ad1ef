import { type Command, Option } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import {
  addSwapOptions,
  bundleLines,
  bundleOptions,
  formatSourceName,
  operate,
  operationOptions,
  type SwapOptions,
  serviceChoice,
} from "../options/operation.js";
import {
  addRecipientOptions,
  type RecipientCommandOptions,
  recipientOptions,
} from "../options/recovery-key.js";
import { askSecret } from "../ui/prompt.js";

interface InitCommandOptions extends RecipientCommandOptions, SwapOptions {
  passphraseFile?: string;
  to?: string;
  bundleTo?: string;
  schemaVersion?: "0" | "2";
  cipherCompatibility?: "3" | "4";
  adopt?: boolean;
  removePassword?: boolean;
}

export function addCommand(program: Command): void {
  const init = addGlobalOptions(
    addSwapOptions(
      addRecipientOptions(
        program
          .command("init")
          .description("make an encrypted store, its passphrase and its recovery key"),
      )
        .option("--passphrase-file <path>", "use this passphrase instead of a generated one")
        .option("--to <folder>", "remember where backups go")
        .option("--bundle-to <folder>", "remember where bundles go, and write the first one now")
        .addOption(
          new Option(
            "--schema-version <0|2>",
            "the new store's schema (default: what the hub here reads)",
          ).choices(["0", "2"]),
        )
        .addOption(
          new Option("--cipher-compatibility <3|4>", "SQLCipher's format (default: 4)").choices([
            "3",
            "4",
          ]),
        )
        .option("--adopt", "take over a store that upstream's password setting encrypted")
        .option("--remove-password", "with --adopt: take the password out of server.json"),
    ).addHelpText(
      "after",
      "\nExamples:\n  hivemind-sqlcipher init\n  hivemind-sqlcipher init --recovery-key-file /media/usb/recovery-key.txt --bundle-to /media/usb/bundles --to /srv/backup/hivemind\n  hivemind-sqlcipher init --adopt --remove-password --bundle-to /media/usb/bundles",
    ),
  );
  init.action(async (options: InitCommandOptions) => {
    const context = await contextOf(init);
    await (options.adopt ? runAdopt(context, options) : runInit(context, options));
  });
}

async function runInit(context: Context, options: InitCommandOptions): Promise<void> {
  const { initStore } = await import("../../setup/init.js");
  const { newPassphrase } = await import("../../swap/prepare.js");
  const { passphraseFile } = options;
  const result = await initStore({
    ...recipientOptions(context, options),
    storePath: context.storePath,
    source: context.source,
    settings: rememberedSettings(context, options),
    passphrase: passphraseFile && (await newPassphrase(expandPath(passphraseFile))),
    schemaVersion: await schemaFor(options),
    cipherCompatibility: options.cipherCompatibility === "3" ? 3 : 4,
    bundleFolder: options.bundleTo && expandPath(options.bundleTo),
    reporter: context.reporter,
  });
  context.output.result(result, () => [
    `An encrypted store is ready: ${result.path}`,
    `  key_id      ${result.key_id}`,
    `  passphrase  in ${formatSourceName(result.passphrase_source)}`,
    `  settings    ${result.settings}`,
    ...bundleLines(result.bundle),
    ...(result.bundle
      ? []
      : [
          "",
          "The passphrase exists nowhere else yet. Write a bundle now, to a place of its own:",
          "  hivemind-sqlcipher bundle export --bundle-to FOLDER",
        ]),
  ]);
}

async function runAdopt(context: Context, options: InitCommandOptions): Promise<void> {
  const { adopt } = await import("../../setup/adopt.js");
  const { loadSettings, saveSettings } = await import("../../config/settings.js");
  const bundle = await bundleOptions(context, options);
  const { readPassphraseFile } = await import("../../keys/source.js");
  const { passphraseFile } = options;
  const passphrase = passphraseFile && (await readPassphraseFile(expandPath(passphraseFile)));
  const result = await operate(context, (lock, signal) =>
    adopt({
      ...operationOptions(context, options, lock, signal),
      ...bundle,
      passphrase,
      askPassphrase: () => askSecret("Passphrase of the store", "--passphrase-file FILE"),
      removePassword: options.removePassword,
    }),
  );
  await saveSettings(context.settingsPath, {
    ...(await loadSettings(context.settingsPath)),
    ...rememberedSettings(context, options),
    passphrase_source: result.adopted.passphrase_source,
  });
  const { adopted } = result;
  context.output.result(result, () => [
    `Adopted: ${adopted.path}, SQLCipher ${adopted.cipher_compatibility}`,
    `  key_id      ${adopted.key_id}`,
    `  passphrase  in ${formatSourceName(adopted.passphrase_source)}`,
    ...bundleLines(result.bundle),
    ...(adopted.password_removed
      ? ["", "The password is out of server.json: start the hub by hivemind-sqlcipher run."]
      : []),
  ]);
}

/** What the settings file remembers, so that the next command needs no options. */
function rememberedSettings(context: Context, options: InitCommandOptions) {
  const { store, backup } = context.settings;
  const { service } = serviceChoice(context, options);
  return {
    ...(store && Object.keys(store).length > 0 && { store }),
    backup: {
      ...backup,
      ...(options.to !== undefined && { to: expandPath(options.to) }),
      ...(options.bundleTo !== undefined && { bundle_to: expandPath(options.bundleTo) }),
      ...(options.unit !== undefined && { unit: options.unit }),
      ...(options.service !== undefined && { service }),
      ...(options.stopCommand !== undefined && { stop_command: options.stopCommand }),
      ...(options.startCommand !== undefined && { start_command: options.startCommand }),
    },
  };
}

/**
 * A new store gets the schema that the hub on this machine reads. Without a hub to ask it gets 0, which every hub reads:
 * released ones enforce blacklists nowhere else, and newer ones migrate it when they first open it.
 */
async function schemaFor({ schemaVersion: asked }: InitCommandOptions): Promise<0 | 2> {
  if (asked !== undefined) return asked === "2" ? 2 : 0;
  const { askHub, findHubPython } = await import("../../hub/interpreter.js");
  const python = await findHubPython({});
  if (python === undefined) return 0;
  const { schemaVersion } = await askHub(python).catch((error: unknown) => {
    if (!(error instanceof StoreError)) throw error;
    const hint =
      "--schema-version says it: 0 for a released hub (hivemind-core 4), 2 for a newer one.";
    throw new StoreError(error.kind, error.message, { hint, cause: error });
  });
  return (schemaVersion ?? 0) >= 2 ? 2 : 0;
}
