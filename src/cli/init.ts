import type { Command } from "commander";
import { StoreError } from "../errors.js";
import { addGlobalOptions, type Context, contextOf } from "./context.js";
import { confirm } from "./prompt.js";

interface InitCommandOptions {
  recoveryKeyFile?: string;
  recipient?: string[];
  passphraseFile?: string;
  to?: string;
  bundleTo?: string;
  unit?: string;
  schemaVersion?: string;
  cipherCompatibility?: string;
}

export function addInitCommand(program: Command): void {
  const init = addGlobalOptions(
    program
      .command("init")
      .description("make an encrypted store, its passphrase and its recovery key")
      .option("--recovery-key-file <path>", "write the recovery key there instead of showing it")
      .option(
        "-r, --recipient <age1…>",
        "encrypt bundles to this age recipient instead of a new recovery key; can be repeated",
        (value: string, all: string[] = []) => [...all, value],
      )
      .option("--passphrase-file <path>", "use this passphrase instead of a generated one")
      .option("--to <folder>", "remember where backups go")
      .option("--bundle-to <folder>", "remember where bundles go, and write the first one now")
      .option("--unit <name>", "remember which systemd unit holds the store open")
      .option("--schema-version <0|2>", "the new store's schema (default: what the hub here reads)")
      .option("--cipher-compatibility <3|4>", "SQLCipher's format (default: 4)")
      .addHelpText(
        "after",
        "\nExamples:\n  hivemind-sqlcipher init\n  hivemind-sqlcipher init --recovery-key-file /media/usb/recovery-key.txt --bundle-to /media/usb/bundles --to /srv/backup/hivemind",
      ),
  );
  init.action(async (options: InitCommandOptions) => runInit(await contextOf(init), options));
}

async function runInit(context: Context, options: InitCommandOptions): Promise<void> {
  const { initStore } = await import("../lifecycle/init.js");
  const { expandPath } = await import("../config/paths.js");
  const { readSecretFile } = await import("../files/private.js");
  const { output } = context;
  const recipients = options.recipient ?? [];
  const madeHere = recipients.length === 0;
  if (madeHere && !options.recoveryKeyFile) refuseToShowNowhere(output.json);
  const path = (given: string | undefined) => (given === undefined ? undefined : expandPath(given));
  const to = path(options.to);
  const bundleTo = path(options.bundleTo);
  const result = await initStore({
    storePath: context.storePath,
    source: context.source,
    settingsPath: context.settingsPath,
    settings: {
      ...(context.settings.store && { store: context.settings.store }),
      backup: {
        ...context.settings.backup,
        ...(to !== undefined && { to }),
        ...(bundleTo !== undefined && { bundle_to: bundleTo }),
        ...(options.unit !== undefined && { unit: options.unit }),
      },
    },
    passphrase:
      options.passphraseFile === undefined
        ? undefined
        : await readSecretFile(expandPath(options.passphraseFile)),
    recipients,
    keepRecoveryKey: (identity, recipient) =>
      keepRecoveryKey(context, options.recoveryKeyFile, identity, recipient),
    schemaVersion: await schemaFor(options.schemaVersion),
    cipherCompatibility: choice(options.cipherCompatibility, "--cipher-compatibility", [
      3, 4,
    ] as const),
    bundleFolder: bundleTo,
  });
  output.result(result, () => [
    `An encrypted store is ready: ${result.path}`,
    `  key_id      ${result.key_id}`,
    `  passphrase  in ${result.passphrase_source === "keyring" ? "the keyring" : result.passphrase_source}`,
    `  settings    ${result.settings}`,
    ...(result.bundle ? [`  bundle      ${result.bundle.path}`] : []),
    "",
    ...(result.bundle
      ? []
      : [
          "The passphrase exists nowhere else yet. Write a bundle now, to a place of its own:",
          "  hivemind-sqlcipher bundle export --bundle-to FOLDER",
        ]),
  ]);
}

function refuseToShowNowhere(json: boolean): void {
  if (process.stdout.isTTY && !json) return;
  throw new StoreError("usage", "the new recovery key has nowhere to go", {
    hint: "It is only ever shown on a terminal. Use --recovery-key-file PATH, or --recipient for a key you have.",
  });
}

async function keepRecoveryKey(
  context: Context,
  file: string | undefined,
  identity: string,
  recipient: string,
): Promise<void> {
  if (file !== undefined) {
    const { createFile } = await import("../files/durable.js");
    const { expandPath } = await import("../config/paths.js");
    const path = expandPath(file);
    await createFile(
      path,
      `# Recovery key of the HiveMind store ${context.storePath}\n# Opens its passphrase bundles: age -d -i THIS-FILE clients.….bundle.age\n# public key: ${recipient}\n${identity}\n`,
    );
    context.output.notice(
      `The recovery key is in ${path}. Move it off this machine: to a safe, a stick, a password manager.`,
    );
    return;
  }
  context.output.line(
    [
      "This is the recovery key. It opens the passphrase bundles, and so the backups, when this",
      "machine or its keyring is gone. It is shown this once and kept nowhere: write it down now.",
      "",
      `  ${identity}`,
      "",
    ].join("\n"),
  );
  await confirm("Have you written it down?", context.yes);
}

/**
 * A new store gets the schema that the hub on this machine reads. Without a hub to ask it gets 0, which every hub reads:
 * released ones enforce blacklists nowhere else, and newer ones migrate it when they first open it.
 */
async function schemaFor(option: string | undefined): Promise<0 | 2> {
  const asked = choice(option, "--schema-version", [0, 2] as const);
  if (asked !== undefined) return asked;
  const { askHub, findHubPython } = await import("../hub/interpreter.js");
  const python = await findHubPython({});
  if (python === undefined) return 0;
  const { schemaVersion } = await askHub(python);
  return (schemaVersion ?? 0) >= 2 ? 2 : 0;
}

function choice<Value extends number>(
  text: string | undefined,
  option: string,
  values: readonly Value[],
): Value | undefined {
  if (text === undefined) return undefined;
  const value = values.find((allowed) => String(allowed) === text);
  if (value === undefined) {
    throw new StoreError("usage", `${option} is ${values.join(" or ")}, not "${text}"`);
  }
  return value;
}
