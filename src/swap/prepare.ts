/** Checks bundle directories and passphrases before a swap, and creates and fills staged files. */
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import { assertPlacement } from "../bundle/placement.js";
import { parseRecipient } from "../bundle/recovery-key.js";
import { type DirectoryOptions, prepareDirectories } from "../config/known-directories.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { createFile } from "../fs/atomic.js";
import { checkPassphrase, generatePassphrase } from "../keys/passphrase.js";
import { readPassphrasesInFile } from "../keys/passphrase-file.js";
import type { Reporter } from "../reporter.js";
import {
  type CipherCompatibility,
  createEncrypted,
  type Secret,
  type StoreKey,
} from "../store/cipher.js";
import { exportStore, verifyExport } from "../store/export.js";
import type { LockedStore } from "../store/locked-store.js";
import { shellQuote } from "../text/escape.js";
import type { BundleOptions } from "./options.js";

/** A bundle to be written. */
export interface BundlePlan {
  readonly directory: string;
  readonly recipients: readonly string[];
}

/**
 * Returns the directory and recipients of a bundle, after checking that it can be written.
 *
 * @throws {@link StoreError} usage - without a recipient, or if a recipient does not parse
 * @throws {@link StoreError} refused - if the directory is, contains or is inside the backup
 *   directory, or is now on another file system than before and the user does not confirm this
 * @throws {@link StoreError} io - if the directory does not exist, its disk is not mounted, or it
 *   cannot be written
 */
export async function planBundle(options: BundleOptions, reporter: Reporter): Promise<BundlePlan> {
  const { bundleTo, backupDirectory, storePath, recipients } = options;
  for (const recipient of recipients) parseRecipient(recipient);
  if (recipients.length === 0) {
    throw new StoreError("usage", "the bundle has no recipient", {
      hint: "Name an age recipient with --recipient age1…; age-keygen -o recovery-key.txt creates a key.",
    });
  }
  if (backupDirectory !== undefined) {
    await assertPlacement(backupDirectory, bundleTo, reporter);
  }
  if (storePath === undefined) await assertBundleDirectory(bundleTo);
  else await prepareBundleDirectory(bundleTo, storePath, reporter);
  return { directory: bundleTo, recipients };
}

/**
 * Checks that a bundle can be written, and records the directory.
 *
 * @throws {@link StoreError} io - if the directory does not exist, its disk is not mounted, or it
 *   cannot be written
 * @throws {@link StoreError} refused - if the directory is now on another file system than before,
 *   and the user does not confirm this
 */
export async function prepareBundleDirectory(
  bundleTo: string,
  storePath: string,
  reporter: DirectoryOptions["reporter"],
): Promise<void> {
  await assertBundleDirectory(bundleTo);
  await prepareDirectories([bundleTo], { storePath, known: [bundleTo], reporter });
}

/** @throws {@link StoreError} io - if the directory does not exist or cannot be written */
export async function assertBundleDirectory(bundleTo: string): Promise<void> {
  const fail = (error: unknown): never => {
    const { kind, message } = systemError(error, `cannot use the bundle directory ${bundleTo}`);
    const hint = hasCode(error, "ENOENT")
      ? `Mount its disk, or create it: mkdir -p -m 700 ${shellQuote(bundleTo)}`
      : "Name a directory that this user can write to: --bundle-to DIRECTORY";
    throw new StoreError(kind, message, { hint, cause: error });
  };
  const stats = await stat(bundleTo).catch(fail);
  if (!stats.isDirectory()) {
    throw new StoreError("io", `${bundleTo} is not a directory`, {
      hint: "Name a directory with --bundle-to.",
    });
  }
  await access(bundleTo, constants.W_OK | constants.X_OK).catch(fail);
}

/**
 * Returns the new passphrase of a store: from the file, or generated without a file.
 *
 * @throws {@link StoreError} refused - if it looks like a generated passphrase with a typing
 *   mistake, if other users can read the file, or if the file has no usable passphrase
 * @throws {@link StoreError} passphraseUnavailable - if the file does not exist
 */
export async function readOrGeneratePassphrase(file: string | undefined): Promise<string> {
  if (file === undefined) return generatePassphrase();
  const [passphrase] = await readPassphrasesInFile(file, { missing: "passphraseUnavailable" });
  const checked = checkPassphrase(passphrase);
  if (checked.kind === "mistyped") {
    throw new StoreError(
      "refused",
      `the passphrase in ${file} looks like a generated one with a mistake in group ${checked.group}`,
      { hint: "Correct it, or choose another passphrase." },
    );
  }
  return checked.passphrase;
}

/** Creates an empty encrypted file. */
export async function stageEncrypted(
  staged: string,
  passphrase: string,
  cipherCompatibility: CipherCompatibility,
): Promise<StoreKey> {
  const { connection, key } = await createEncrypted(staged, passphrase, cipherCompatibility);
  await connection.close();
  return key;
}

/** Creates an empty file for a plaintext store. */
export async function stagePlaintext(staged: string): Promise<undefined> {
  await createFile(staged, "");
}

/**
 * Copies a locked store into a staged file, and verifies the copy.
 *
 * @param key - of the staged file; undefined if it is not encrypted
 * @throws {@link StoreError} corrupted - if the copy differs
 * @throws {@link StoreError} io, interrupted
 */
export async function convert(
  store: LockedStore | undefined,
  staged: string,
  key: Secret,
  signal: AbortSignal,
): Promise<void> {
  if (!store) throw new Error("a conversion requires a store");
  await exportStore(store, staged, key);
  await verifyExport(store, staged, key, signal);
}
