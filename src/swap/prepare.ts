/** What the operations that put another file in the store's place try before they begin. */
import { constants } from "node:fs";
import { access, stat } from "node:fs/promises";
import type { Bundle } from "../bundle/bundle.js";
import { assertPlacement } from "../bundle/placement.js";
import { parseRecipient } from "../bundle/recovery-key.js";
import { StoreError, systemError } from "../errors.js";
import { createFile } from "../fs/atomic.js";
import { checkPassphrase, generatePassphrase } from "../keys/passphrase.js";
import { readPassphraseFile } from "../keys/source.js";
import type { Reporter } from "../reporter.js";
import {
  type CipherCompatibility,
  createEncrypted,
  type Secret,
  type StoreKey,
} from "../store/cipher.js";
import { exportStore, verifyExport } from "../store/export.js";
import type { LockedStore } from "../store/locked-store.js";
import type { BundleOptions, BundleReport } from "./options.js";

/** A bundle that can be written, as far as that can be told. */
export interface BundlePlan {
  readonly directory: string;
  readonly recipients: readonly string[];
}

/**
 * Makes sure that a bundle can be written, as far as that can be told before it is.
 *
 * @throws StoreError `usage` without a recipient or for one that does not parse; `refused` for a folder that would hold
 *   backup and bundle; `io` for one that is not there or cannot be written to.
 */
export async function checkBundleDirectory(
  options: BundleOptions,
  reporter: Reporter,
): Promise<BundlePlan> {
  const { bundleTo, backupFolder, recipients } = options;
  for (const recipient of recipients) parseRecipient(recipient);
  if (recipients.length === 0) {
    throw new StoreError("usage", "who should be able to open the bundle?", {
      hint: "name an age recipient: --recipient age1… (age-keygen -o recovery-key.txt makes one)",
    });
  }
  if (backupFolder !== undefined) {
    for (const notice of await assertPlacement(backupFolder, bundleTo)) reporter.notice(notice);
  }
  await assertBundleDirectory(bundleTo);
  return { directory: bundleTo, recipients };
}

/** @throws StoreError `io` for a folder for bundles that is not there or cannot be written to. */
export async function assertBundleDirectory(bundleTo: string): Promise<void> {
  try {
    if (!(await stat(bundleTo)).isDirectory()) {
      throw new StoreError("io", `${bundleTo} is not a folder`, { hint: "--bundle-to FOLDER" });
    }
    await access(bundleTo, constants.W_OK | constants.X_OK);
  } catch (error) {
    const { kind, message, hint } = systemError(error, `the bundle's folder ${bundleTo}`);
    throw new StoreError(kind, message, {
      hint: hint ?? `is its disk mounted? If it is a new folder: mkdir -m 700 '${bundleTo}'`,
      cause: error,
    });
  }
}

/**
 * The passphrase that a store is to get: the one in the file, or a generated one.
 *
 * @throws StoreError `refused` if it looks like a generated one with a typing mistake, and for a file that others can
 *   read; `passphraseUnavailable` if there is no such file.
 */
export async function newPassphrase(file: string | undefined): Promise<string> {
  if (file === undefined) return generatePassphrase();
  const checked = checkPassphrase(await readPassphraseFile(file));
  if (checked.kind === "mistyped") {
    throw new StoreError(
      "refused",
      `the passphrase in ${file} looks like a generated one with a mistake in group ${checked.group}`,
      { hint: "correct it, or choose one that does not look so" },
    );
  }
  return checked.passphrase;
}

/** Stages a new, empty encrypted file; answers its key. */
export async function stageEncrypted(
  staged: string,
  passphrase: string,
  cipherCompatibility: CipherCompatibility,
): Promise<StoreKey> {
  const { connection, key } = await createEncrypted(staged, passphrase, cipherCompatibility);
  await connection.close();
  return key;
}

/** Stages a new, empty file that will not be encrypted. */
export async function stagePlaintext(staged: string): Promise<undefined> {
  await createFile(staged, "");
}

/**
 * Fills a staged file with what the held store holds, and proves it.
 *
 * @param key of the staged file; undefined if it is not to be encrypted.
 * @throws StoreError `corrupted` if anything differs, `io`, `interrupted`.
 */
export async function convert(
  held: LockedStore | undefined,
  staged: string,
  key: Secret,
  signal: AbortSignal,
): Promise<void> {
  if (!held) throw new Error("there is a store to convert");
  await exportStore(held, staged, key);
  await verifyExport(held, staged, key, signal);
}

/** What `--json` says about the bundle of a swap. */
export function bundleReport({ bundle }: { bundle: Bundle | undefined }): BundleReport | null {
  return bundle ? { path: bundle.path, key_id: bundle.keyId, recipients: bundle.recipients } : null;
}
