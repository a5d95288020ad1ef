import { rm, rmdir, stat } from "node:fs/promises";
import { dirname } from "node:path";
import type { Command } from "commander";
import { expandIfGiven, expandPath } from "../../config/paths.js";
import { omitUndefined } from "../../config/settings.js";
import type { Settings } from "../../config/settings-file.js";
import { hasCode, isKind, StoreError, wrap } from "../../errors.js";
import type { AdoptResult } from "../../setup/adopt.js";
import type { InitResult } from "../../setup/init.js";
import { type CipherParameters, parseCipherSettings } from "../../store/cipher-settings.js";
import { shellQuote } from "../../text/escape.js";
import { choiceOption, finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { addSwapOptions, buildOperationOptions, operate, type SwapOptions } from "../operate.js";
import {
  assertUsableDirectory,
  createNamedDirectories,
  findBackupDirectory,
  resolveBundleDirectory,
} from "../options/directories.js";
import {
  addRecipientOptions,
  buildRecipientOptions,
  type RecipientCommandOptions,
} from "../options/recovery-key.js";
import { withNamedService } from "../options/service.js";
import { assertUnused } from "../options/unused.js";
import { describePassphrase, fieldLines } from "../ui/lines.js";
import { askSecret } from "../ui/prompt.js";

interface InitOptions extends RecipientCommandOptions, SwapOptions {
  passphraseFile?: string;
  to?: string;
  bundleTo?: string;
  schemaVersion?: "0" | "2";
  cipherCompatibility?: "3" | "4";
  adopt?: boolean;
  removePassword?: boolean;
  cipherSettings?: CipherParameters;
}

export function addCommand(program: Command): void {
  const command = program
    .command("init")
    .description("Create an encrypted store, its passphrase and recovery key")
    .option("--passphrase-file <path>", "Use the passphrase in this file, not a generated one")
    .option("--to <directory>", "Remember this directory for backups")
    .option("--bundle-to <directory>", "Write the first bundle here and remember the directory")
    .addOption(
      choiceOption("--schema-version <0|2>", "Use this schema version (default: the hub's)"),
    )
    .addOption(
      choiceOption("--cipher-compatibility <3|4>", "Use this SQLCipher format (default: 4)"),
    )
    .option("--adopt", "Adopt a store that HiveMind has encrypted")
    .option(
      "--cipher-settings <key=value,…>",
      "Use these SQLCipher parameters to open the adopted store",
      parseCipherSettings,
    )
    .option("--remove-password", "Remove the adopted store's password from server.json");
  addRecipientOptions(command);
  addSwapOptions(command);
  finishCommand(command, runInit, {
    details: [
      "HiveMind 4 uses schema 0; HiveMind 5 uses schema 2 and upgrades a store of schema 0.",
      "--cipher-settings describes a store to adopt that was not encrypted with SQLCipher's defaults; --adopt re-encrypts it with them. Parameters: compatibility, page_size, kdf_iter, kdf_algorithm, hmac_algorithm, use_hmac, plaintext_header_size and salt. With --adopt, the passphrase file has the store's passphrase, or a raw key (x'…').",
    ],
    examples: [
      "hivemind-sqlcipher init",
      "hivemind-sqlcipher init --recovery-key-file ~/recovery-key.txt --bundle-to /media/usb/bundles --to /srv/backup/hivemind",
      "hivemind-sqlcipher init --adopt --remove-password --bundle-to /media/usb/bundles",
    ],
  });
}

async function runInit(context: Context, options: InitOptions): Promise<void> {
  assertOptionsFit(options);
  await assertUsableDirectory("--to", options.to);
  await assertUsableDirectory("--bundle-to", options.bundleTo);
  const directories = await listDirectoriesToCreate(context, options);
  try {
    await (options.adopt ? adoptExisting(context, options) : createNew(context, options));
  } catch (error) {
    // The directories may be those of another init, which is running.
    if (!isKind(error, "inUse")) await removeDirectories(directories, context);
    throw error;
  }
}

function assertOptionsFit(options: InitOptions): void {
  if (options.adopt) {
    assertUnused(
      options,
      ["schemaVersion", "cipherCompatibility"],
      "cannot be combined with --adopt",
      "Omit it: the adopted store has a schema version and a SQLCipher format already.",
    );
  } else {
    const keys = ["cipherSettings", "removePassword"] as const;
    assertUnused(options, keys, "applies only to --adopt", "Add --adopt.");
  }
}

/**
 * Removes the empty directories that a failed init created, after the lock files of the store and
 * of the settings in them.
 */
async function removeDirectories(
  directories: readonly string[],
  { storePath, settingsPath }: Context,
): Promise<void> {
  const { lockPath } = await import("../../operation/lock.js");
  for (const path of [storePath, settingsPath]) {
    if (directories.includes(dirname(path))) await rm(lockPath(path), { force: true });
  }
  for (const directory of directories) await rmdir(directory).catch(() => undefined);
}

/** Returns the directories that init has to create, children before parents. */
async function listDirectoriesToCreate(
  { settingsPath, storePath }: Context,
  { to, bundleTo }: InitOptions,
): Promise<string[]> {
  const missing: string[] = [];
  const named = [to, bundleTo].filter((path) => path !== undefined).map((path) => expandPath(path));
  for (const directory of [dirname(settingsPath), dirname(storePath), ...named]) {
    for (let at = directory; await isMissing(at); at = dirname(at)) missing.push(at);
  }
  return missing;
}

async function isMissing(path: string): Promise<boolean> {
  return stat(path).then(
    () => false,
    (error: unknown) => hasCode(error, "ENOENT"),
  );
}

async function createNew(context: Context, options: InitOptions): Promise<void> {
  const { initStore } = await import("../../setup/init.js");
  const { readOrGeneratePassphrase } = await import("../../swap/prepare.js");
  const { passphraseFile } = options;
  // A directory that cannot be created ends init before the store exists. The directories are
  // recorded at the end, because a failed init removes them.
  const recordMountPoints = await createNamedDirectories(context, options.to, options.bundleTo);
  const result = await initStore({
    ...buildRecipientOptions(context, options),
    storePath: context.storePath,
    source: context.source,
    changeSettings: (settings) => withOptions(settings, context, options),
    backupDirectory: findBackupDirectory(context, options),
    passphrase:
      passphraseFile === undefined
        ? undefined
        : await readOrGeneratePassphrase(expandPath(passphraseFile)),
    schemaVersion: await resolveSchemaVersion(options),
    cipherCompatibility: options.cipherCompatibility === "3" ? 3 : 4,
    bundleDirectory: expandIfGiven(options.bundleTo),
    reporter: context.reporter,
  });
  await recordMountPoints();
  noticeOtherDefault(context);
  context.output.result(result, () => initLines(result));
}

function initLines(result: InitResult): string[] {
  return [
    `Created an encrypted store: ${result.path}`,
    ...fieldLines({
      key_id: result.keyId,
      passphrase: describePassphrase(result.passphraseSource),
      settings: result.settings,
      bundles: result.recipients.map((recipient) => `open with the key of ${recipient}`),
      bundle: result.bundle?.path,
    }),
    ...(result.bundle
      ? []
      : [
          "",
          "The passphrase has no copy yet. Export a passphrase bundle to another disk now:",
          "  hivemind-sqlcipher bundle export --bundle-to DIRECTORY",
        ]),
  ];
}

function noticeOtherDefault({ settingsSection, storePath, output }: Context): void {
  if (settingsSection.store === undefined) return;
  output.notice(
    `commands without --db use another store: add --db ${shellQuote(storePath)} to each command for this store, whose settings are a section of ${settingsSection.path}`,
  );
}

async function adoptExisting(context: Context, options: InitOptions): Promise<void> {
  const { adopt, readStoreSecret } = await import("../../setup/adopt.js");
  const { updateSection } = await import("../../operation/settings.js");
  const { prepareBundleDirectory } = await import("../../swap/prepare.js");
  const { settingsSection, storePath, reporter } = context;
  const { planRecipients } = await import("../../bundle/recipients.js");
  const recipientPlan = await planRecipients(buildRecipientOptions(context, options));
  const { passphraseFile } = options;
  const recordMountPoints = await createNamedDirectories(context, options.to);
  const passphrase =
    passphraseFile === undefined ? undefined : await readStoreSecret(expandPath(passphraseFile));
  const result = await operate(context, async (lock, signal) => {
    const bundleTo = resolveBundleDirectory(context, options);
    await prepareBundleDirectory(bundleTo, storePath, reporter);
    return await adopt({
      ...buildOperationOptions(context, options, lock, signal),
      bundleTo,
      backupDirectory: findBackupDirectory(context, options),
      recipientPlan,
      passphrase,
      askPassphrase: () => askSecret("Passphrase of the store", "--passphrase-file FILE"),
      removePassword: options.removePassword,
      cipherSettings: options.cipherSettings,
    });
  });
  await updateSection(settingsSection, (settings) => ({
    ...withOptions(settings, context, options),
    passphrase_source: result.adopted.passphraseSource,
  }));
  await recordMountPoints();
  noticeOtherDefault(context);
  context.output.result(result, () => adoptLines(result));
}

function adoptLines({ adopted, bundle }: AdoptResult): string[] {
  return [
    `Adopted: ${adopted.path}, SQLCipher ${adopted.cipherCompatibility}`,
    ...fieldLines({
      key_id: adopted.keyId,
      passphrase: describePassphrase(adopted.passphraseSource),
      bundle: bundle?.path,
      bundles: bundle?.recipients.map((recipient) => `open with the key of ${recipient}`),
    }),
    ...(adopted.passwordRemoved
      ? ["", "Removed the password from server.json: start the hub with hivemind-sqlcipher run."]
      : []),
  ];
}

/** Returns the settings with the options of this command, for later commands. */
function withOptions(settings: Settings, context: Context, options: InitOptions): Settings {
  const { store } = context.settings;
  return {
    ...settings,
    ...(store && Object.keys(store).length > 0 && { store }),
    backup: {
      ...withNamedService(options, settings.backup),
      ...omitUndefined({
        to: expandIfGiven(options.to),
        bundle_to: expandIfGiven(options.bundleTo),
      }),
    },
  };
}

/**
 * Returns the schema version for a new store: that of the options, else the newest that the hub on
 * this machine supports, else 0. Every hub reads schema 0: HiveMind 4 enforces blacklists only in
 * schema 0, and HiveMind 5 upgrades a store of schema 0.
 */
async function resolveSchemaVersion({ schemaVersion: wanted }: InitOptions): Promise<0 | 2> {
  if (wanted !== undefined) return wanted === "2" ? 2 : 0;
  const { findHubPython } = await import("../../hub/interpreter.js");
  const { probePackages } = await import("../../hub/probe.js");
  const python = await findHubPython({});
  if (python === undefined) return 0;
  const { schemaVersion } = await probePackages(python).catch((error: unknown) => {
    if (!(error instanceof StoreError)) throw error;
    throw wrap(error, { hint: "Add --schema-version 0 for HiveMind 4, or 2 for HiveMind 5." });
  });
  return (schemaVersion ?? 0) >= 2 ? 2 : 0;
}
