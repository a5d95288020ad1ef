/** Options for a bundle and its key. */
import { join } from "node:path";
import type { Command } from "commander";
import type { BundleOpener } from "../../bundle/bundle.js";
import { expandPath, isRemote } from "../../config/paths.js";
import { addHint, isKind, StoreError } from "../../errors.js";
import { bundleName } from "../../keys/bundle-name.js";
import type { Context } from "../context.js";
import { askSecret, hasTerminal } from "../ui/prompt.js";
import type { BundleDirectoryOption } from "./backup-directories.js";

export interface BundleKeyOptions {
  bundle?: string;
  identity?: string;
  identityPassphraseFile?: string;
  bundlePassphraseFile?: string;
}

export function addOpenerOptions(command: Command): Command {
  return command
    .option("-i, --identity <file>", "Open the bundle with this recovery key")
    .option(
      "--identity-passphrase-file <path>",
      "Open the recovery key with the passphrase in this file",
    )
    .option("--bundle-passphrase-file <path>", "Open the bundle with the passphrase in this file");
}

export function addBundleOptions(command: Command): Command {
  return addOpenerOptions(
    command.option("--bundle <file>", "Take the passphrase from this bundle, not the keyring"),
  );
}

/** Returns the bundle's key, or undefined if the options name none. */
export async function readOpener(options: BundleKeyOptions): Promise<BundleOpener | undefined> {
  const { identity, identityPassphraseFile, bundlePassphraseFile } = options;
  if (identity !== undefined && bundlePassphraseFile !== undefined) {
    throw new StoreError("usage", "--identity and --bundle-passphrase-file exclude each other", {
      hint: "Name the key that opens the bundle. --identity-passphrase-file opens an encrypted recovery key.",
    });
  }
  if (identity !== undefined) {
    const { readIdentityFile } = await import("../../bundle/recovery-key.js");
    const path = expandPath(identity);
    const readPassphrase = () => readKeyPassphrase(path, identityPassphraseFile);
    return { identity: await readIdentityFile(path, readPassphrase) };
  }
  if (identityPassphraseFile !== undefined) {
    throw new StoreError("usage", "a passphrase for a recovery key was given, but no key", {
      hint: "Add --identity FILE, or use --bundle-passphrase-file for a bundle's own passphrase.",
    });
  }
  if (bundlePassphraseFile === undefined) return undefined;
  const [passphrase, ...alternatives] = await readPassphraseFile(bundlePassphraseFile);
  return { passphrase, alternatives };
}

async function readKeyPassphrase(key: string, file: string | undefined): Promise<string> {
  if (file !== undefined) return (await readPassphraseFile(file))[0];
  return askSecret(`Passphrase of the recovery key ${key}`, "--identity-passphrase-file FILE");
}

/** Returns the passphrases that the file's text can stand for, the most likely first. */
export async function readPassphraseFile(path: string) {
  const { readPassphrasesInFile } = await import("../../keys/passphrase-file.js");
  return readPassphrasesInFile(expandPath(path));
}

/** Returns the bundle's key. Asks for it on a terminal if the options name none. */
export async function readOrAskOpener(
  options: BundleKeyOptions,
  bundle: string,
): Promise<BundleOpener> {
  const opener = await readOpener(options);
  if (opener !== undefined) return opener;
  if (hasTerminal()) return askOpener(bundle);
  throw new StoreError("usage", "the bundle is encrypted, and no key to open it was given", {
    hint: "Add --identity FILE with the recovery key, or --bundle-passphrase-file FILE.",
  });
}

async function askOpener(bundle: string): Promise<BundleOpener> {
  const answer = await askSecret(
    `Recovery key (AGE-SECRET-KEY-1…) or passphrase of the bundle ${bundle}`,
    "--identity FILE",
  );
  if (!/^\s*(?:AGE-|age1[a-z0-9]{20})/i.test(answer)) return { passphrase: answer };
  const { parseIdentities } = await import("../../bundle/recovery-key.js");
  return { identity: parseIdentities(answer).usable.join("\n") };
}

interface NamedBundle {
  readonly path: string;
  readonly opener: BundleOpener;
}

/**
 * Returns the bundle and its key, or undefined if the options name neither. If the options name
 * only a key, uses the bundle that `findOwnBundle` returns. If they name only a bundle, asks for
 * its key on a terminal.
 */
async function resolveBundle(
  options: BundleKeyOptions,
  findOwnBundle: () => Promise<string | undefined>,
): Promise<NamedBundle | undefined> {
  if (options.bundle !== undefined) {
    const path = expandPath(options.bundle);
    return { path, opener: await readOrAskOpener(options, path) };
  }
  const opener = await readOpener(options);
  if (opener === undefined) return undefined;
  const path = await findOwnBundle();
  if (path !== undefined) return { path, opener };
  throw new StoreError("usage", "a key for a bundle was given, but no bundle", {
    hint: "Add --bundle FILE.",
  });
}

/**
 * Returns the path of a backup's bundle, or undefined if the directory has no file with the name
 * that a bundle for a key_id of the backup has.
 */
async function findBundle(
  backup: string,
  directory: string | undefined,
): Promise<string | undefined> {
  if (directory === undefined) return undefined;
  const { lstatIfExists } = await import("../../fs/read.js");
  const { readBackupKeyIds } = await import("../../backup/manifest.js");
  for (const keyId of await readBackupKeyIds(backup)) {
    const path = join(expandPath(directory), bundleName(keyId));
    if (await lstatIfExists(path)) return path;
  }
  return undefined;
}

/**
 * Runs an operation on a backup with the bundle in the options.
 *
 * Without a bundle in the options, runs the operation with the kept passphrases. If none of them
 * opens the backup and the directory of bundles has the backup's bundle, asks for the recovery key
 * on a terminal and runs the operation again with the bundle. Without a terminal, the hint of the
 * error names the bundle.
 */
export async function withBundle<Result>(
  context: Context,
  options: BundleKeyOptions & BundleDirectoryOption,
  backup: string,
  operation: (bundle: NamedBundle | undefined) => Promise<Result>,
): Promise<Result> {
  if (options.bundle !== undefined && isRemote(options.bundle)) {
    const { withLocalFile } = await import("../../copies/view.js");
    return await withLocalFile(options.bundle, (path) =>
      withBundle(context, { ...options, bundle: path }, backup, operation),
    );
  }
  const directory = options.bundleTo ?? context.settings.backup?.bundle_to;
  const findOwnBundle = () => findBundle(backup, directory);
  const bundle = await resolveBundle(options, findOwnBundle);
  if (bundle !== undefined) return await operation(bundle);
  try {
    return await operation(undefined);
  } catch (error) {
    if (!isPassphraseError(error)) throw error;
    const path = await findOwnBundle();
    if (path === undefined || !(await needsBundle(backup, context))) throw error;
    if (!hasTerminal()) {
      const line = `The backup's bundle is ${path}: add --identity FILE with the recovery key.`;
      throw addHint(error, line);
    }
    return await operation({ path, opener: await askOpener(path) });
  }
}

function isPassphraseError(error: unknown): error is StoreError {
  return isKind(error, "wrongPassphrase", "passphraseUnavailable");
}

/**
 * Returns whether no kept passphrase opens the backup. An error about a passphrase can also come
 * from the present store.
 */
async function needsBundle(backup: string, context: Context): Promise<boolean> {
  const { unlockBackup } = await import("../../backup/verify.js");
  try {
    await unlockBackup(backup, context);
    return false;
  } catch (failure) {
    return isPassphraseError(failure);
  }
}
