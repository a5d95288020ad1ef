/** What replaces the store's file: encrypt, decrypt, rotate. */
import { type Command, Option } from "commander";
import { expandPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import type { OperationLock } from "../operation/lock.js";
import { addServiceOptions, type ServiceOptions, serviceChoice } from "./backup.js";
import { addGlobalOptions, type Context, contextOf } from "./context.js";
import { interruptible } from "./interrupt.js";
import { settleCommand } from "./settle.js";

interface SwapOptions extends ServiceOptions {
  hub?: "auto" | "none";
}

interface BundleTargetOptions {
  bundleTo?: string;
  recipient?: string[];
}

/** Options of every command that replaces the store's file. */
export function addSwapOptions(command: Command): Command {
  return addServiceOptions(command).addOption(
    new Option("--hub <auto|none>", "none: no hub needs to be told the new passphrase").choices([
      "auto",
      "none",
    ]),
  );
}

function addBundleTarget(command: Command): Command {
  return command
    .option("--bundle-to <folder>", "where the bundle goes (default: from the settings)")
    .option(
      "-r, --recipient <age1…>",
      "encrypt the bundle to this recipient too; can be repeated",
      (value: string, all: string[] = []) => [...all, value],
    );
}

/** What every operation of this kind is given. */
export function operationOptions(
  context: Context,
  options: SwapOptions,
  lock: OperationLock,
  signal: AbortSignal,
) {
  return {
    lock,
    source: context.source,
    service: serviceChoice(context, options),
    hub: options.hub ?? ("auto" as const),
    settleCommand: settleCommand(context),
    reporter: context.reporter,
    signal,
  };
}

function bundleOptions(context: Context, options: BundleTargetOptions) {
  const settings = context.settings.backup ?? {};
  const bundleTo = options.bundleTo ?? settings.bundle_to;
  if (bundleTo === undefined) {
    throw new StoreError("usage", "where should the passphrase bundle go?", {
      hint: "Name a folder that is not the backups': --bundle-to FOLDER.",
    });
  }
  return {
    bundleTo: expandPath(bundleTo),
    backupFolder: settings.to,
    recipients: [...(context.settings.recipients ?? []), ...(options.recipient ?? [])],
  };
}

/** Runs an operation under the store's lock, Ctrl-C included. */
export async function operate<Result>(
  context: Context,
  operation: (lock: OperationLock, signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const { withOperation } = await import("../lifecycle/settle.js");
  return interruptible((signal) =>
    withOperation(context.storePath, context.reporter, (lock) => operation(lock, signal)),
  );
}

interface EncryptCommandOptions extends SwapOptions, BundleTargetOptions {
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
      "\nExample:\n  hivemind-sqlcipher encrypt --bundle-to /media/usb/bundles --recipient age1…",
    ),
  );
  encrypt.action(async (options: EncryptCommandOptions) =>
    runEncrypt(await contextOf(encrypt), options),
  );

  const decrypt = addGlobalOptions(
    addSwapOptions(
      program
        .command("decrypt")
        .description("the way back: an encrypted store becomes a plaintext one; asks twice"),
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
}

async function runEncrypt(context: Context, options: EncryptCommandOptions): Promise<void> {
  const { encrypt } = await import("../lifecycle/encrypt.js");
  const result = await operate(context, (lock, signal) =>
    encrypt({
      ...operationOptions(context, options, lock, signal),
      ...bundleOptions(context, options),
      passphraseFile: options.passphraseFile && expandPath(options.passphraseFile),
      cipherCompatibility: options.cipherCompatibility === "3" ? 3 : 4,
    }),
  );
  const { encrypted, bundle, service } = result;
  context.output.result(result, () => [
    `Encrypted: ${encrypted.path}, ${encrypted.from} until now; SQLCipher ${encrypted.cipher_compatibility}`,
    `  key_id      ${encrypted.key_id}`,
    `  passphrase  in ${sourceWords(encrypted.passphrase_source)}`,
    ...bundleLines(bundle),
    ...absenceLines(service),
    ...(encrypted.caution === null ? [] : ["", encrypted.caution]),
  ]);
}

async function runDecrypt(context: Context, options: SwapOptions): Promise<void> {
  const { decrypt } = await import("../lifecycle/decrypt.js");
  const result = await operate(context, (lock, signal) =>
    decrypt(operationOptions(context, options, lock, signal)),
  );
  context.output.result(result, () => [
    `Decrypted: ${result.decrypted.path} can be read by anybody who gets at the file.`,
    ...absenceLines(result.service),
  ]);
}

async function runRotate(context: Context, options: RotateCommandOptions): Promise<void> {
  const { rotate } = await import("../lifecycle/rotate.js");
  const result = await operate(context, (lock, signal) =>
    rotate({
      ...operationOptions(context, options, lock, signal),
      ...bundleOptions(context, options),
      passphraseFile: options.passphraseFile && expandPath(options.passphraseFile),
      settingsPath: context.settingsPath,
      keepPrevious: options.keepPrevious,
      reencrypt: options.reencryptBackups && expandPath(options.reencryptBackups),
    }),
  );
  const { rotated, bundle, service, backups } = result;
  context.output.result(result, () => [
    `Rotated: ${rotated.path} has a new passphrase, in ${sourceWords(rotated.passphrase_source)}`,
    `  key_id      ${rotated.key_id} (was ${rotated.previous_key_id})`,
    rotated.previous_kept
      ? "  old one     kept in the keyring, for older backups"
      : "  old one     in its bundle alone, for older backups",
    ...bundleLines(bundle),
    ...absenceLines(service),
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

function sourceWords(source: string): string {
  return source === "keyring" ? "the keyring" : source;
}

function bundleLines(bundle: { path: string } | null): string[] {
  return bundle ? [`  bundle      ${bundle.path}`] : [];
}

export function absenceLines(service: {
  unit: string | null;
  stopped_ms: number | null;
}): string[] {
  if (service.stopped_ms === null) return [];
  return [`  service     ${service.unit ?? "it"} was away for ${service.stopped_ms} ms`];
}
