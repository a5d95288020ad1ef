/** Options for a bundle and its key. */
import { join } from "node:path";
import type { Command } from "commander";
import type { BundleOpener } from "../../bundle/bundle.js";
import { expandPath, isRemote } from "../../config/paths.js";
import { isKind, StoreError, withLine, wrap } from "../../errors.js";
import type { PassphraseSource } from "../../keys/source.js";
import { askSecret, hasTerminal } from "../ui/prompt.js";

export interface BundleKeyOptions {
  bundle?: string;
  identity?: string;
  identityPassphraseFile?: string;
  bundlePassphraseFile?: string;
}

/** Adds the options for a bundle's key. */
export function addOpenerOptions(command: Command): Command {
  return command
    .option("-i, --identity <file>", "Open the bundle with this recovery key")
    .option(
      "--identity-passphrase-file <path>",
      "Open the recovery key with the passphrase in this file",
    )
    .option("--bundle-passphrase-file <path>", "Open the bundle with the passphrase in this file");
}

/** Adds the options for a bundle and its key to a command that can do without a bundle. */
export function addBundleOptions(command: Command): Command {
  return addOpenerOptions(
    command.option("--bundle <file>", "Take the passphrase from this bundle, not the keyring"),
  );
}

/**
 * Returns the bundle's key, or undefined if the options name none.
 *
 * @throws {@link StoreError} usage - if only a passphrase for a recovery key is named, or two keys
 * @throws {@link StoreError} if the named file cannot be read or has no key
 */
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
    return { identity: await readIdentityFile(path, buildPassphraseReader(options, path)) };
  }
  if (identityPassphraseFile !== undefined) {
    throw new StoreError("usage", "a passphrase for a recovery key was given, but no key", {
      hint: "Add --identity FILE, or use --bundle-passphrase-file for a bundle's own passphrase.",
    });
  }
  if (bundlePassphraseFile === undefined) return undefined;
  const { readPassphrasesInFile } = await import("../../keys/passphrase-file.js");
  const [passphrase, ...alternatives] = await readPassphrasesInFile(
    expandPath(bundlePassphraseFile),
  );
  return { passphrase, alternatives };
}

/**
 * Returns a function that reads the passphrase of an encrypted recovery key, from the file in the
 * options or from the terminal.
 */
function buildPassphraseReader(
  { identityPassphraseFile }: BundleKeyOptions,
  path: string,
): () => Promise<string> {
  return async () => {
    if (identityPassphraseFile === undefined) {
      return await askSecret(
        `Passphrase of the recovery key ${path}`,
        "--identity-passphrase-file FILE",
      );
    }
    const { readPassphrasesInFile } = await import("../../keys/passphrase-file.js");
    const [passphrase] = await readPassphrasesInFile(expandPath(identityPassphraseFile));
    return passphrase;
  };
}

/**
 * Returns the bundle's key. Asks for it on a terminal if the options name none.
 *
 * @param bundle - path of the bundle, for the question
 * @throws {@link StoreError} usage - without a terminal, or if the answer is not a recovery key
 */
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

/** Asks for the recovery key or the passphrase of a bundle. */
async function askOpener(bundle: string): Promise<BundleOpener> {
  const answer = await askSecret(
    `Recovery key (AGE-SECRET-KEY-1…) or passphrase of the bundle ${bundle}`,
    "--identity FILE",
  );
  if (!/^\s*(?:AGE-|age1[a-z0-9]{20})/i.test(answer)) return { passphrase: answer };
  const { parseIdentities } = await import("../../bundle/recovery-key.js");
  return { identity: parseIdentities(answer).usable.join("\n") };
}

/** A backup and the directory to search for its bundle. */
export interface BundleSearch {
  readonly backup: string;
  readonly directory: string | undefined;
}

/** The source of the kept passphrases, and the store that they belong to. */
export interface KeptSecret {
  readonly source: PassphraseSource;
  readonly storePath: string;
}

export interface NamedBundle {
  readonly path: string;
  readonly opener: BundleOpener;
}

/**
 * Returns the bundle and its key, or undefined if the options name neither. If the options name
 * only a key, looks for the backup's bundle in the directory of `search`. If they name only a
 * bundle, asks for its key on a terminal.
 *
 * @throws {@link StoreError} usage - if only a key is named and the bundle is not found, or if only
 *   a bundle is named and there is no terminal
 */
async function resolveBundle(
  options: BundleKeyOptions,
  search?: BundleSearch,
): Promise<NamedBundle | undefined> {
  if (options.bundle !== undefined) {
    const path = expandPath(options.bundle);
    return { path, opener: await readOrAskOpener(options, path) };
  }
  const opener = await readOpener(options);
  if (opener === undefined) return undefined;
  const path = search && (await findBundle(search));
  if (path !== undefined) return { path, opener };
  throw new StoreError("usage", "a key for a bundle was given, but no bundle", {
    hint: "Add --bundle FILE.",
  });
}

/**
 * Returns the path of a backup's bundle, or undefined if the directory has no file with the name
 * that a bundle for the backup's key_id has.
 */
async function findBundle({ backup, directory }: BundleSearch): Promise<string | undefined> {
  if (directory === undefined) return undefined;
  const { bundleName } = await import("../../bundle/bundle.js");
  const { lstatIfExists } = await import("../../fs/read.js");
  const { identify } = await import("../../store/cipher.js");
  const { keyId } = await identify(backup);
  const path = keyId === undefined ? undefined : join(expandPath(directory), bundleName(keyId));
  return path !== undefined && (await lstatIfExists(path)) ? path : undefined;
}

/**
 * Adds the path of the backup's bundle to an error, so that the user needs only the recovery key.
 */
function addBundleHint(error: StoreError, path: string): StoreError {
  return wrap(error, {
    hint: withLine(
      error.hint,
      `The backup's bundle is ${path}: add --identity FILE with the recovery key.`,
    ),
  });
}

/**
 * Runs an operation on a backup with the bundle in the options.
 *
 * Without a bundle in the options, runs the operation with the kept passphrases. If none of them
 * opens the backup and the directory of `search` has the backup's bundle, asks for the recovery key
 * on a terminal and runs the operation again with the bundle. Without a terminal, the hint of the
 * error names the bundle.
 */
export async function withBundle<Result>(
  options: BundleKeyOptions,
  { search, kept }: { search: BundleSearch; kept: KeptSecret },
  operation: (bundle: NamedBundle | undefined) => Promise<Result>,
): Promise<Result> {
  if (options.bundle !== undefined && isRemote(options.bundle)) {
    const { withLocalFile } = await import("../../copies/view.js");
    return await withLocalFile(options.bundle, (path) =>
      withBundle({ ...options, bundle: path }, { search, kept }, operation),
    );
  }
  const bundle = await resolveBundle(options, search);
  if (bundle !== undefined) return await operation(bundle);
  try {
    return await operation(undefined);
  } catch (error) {
    if (!isPassphraseError(error)) throw error;
    const path = await findBundle(search);
    if (path === undefined || !(await needsBundle(search, kept))) throw error;
    if (!hasTerminal()) throw addBundleHint(error, path);
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
async function needsBundle({ backup }: BundleSearch, kept: KeptSecret): Promise<boolean> {
  const { openBackup } = await import("../../backup/verify.js");
  try {
    await (await openBackup(backup, kept)).connection.close();
    return false;
  } catch (failure) {
    return isPassphraseError(failure);
  }
}
