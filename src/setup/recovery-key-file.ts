/** The file of `--recovery-key-file`, and what an interrupted setup has left in it. */
import { readFile } from "node:fs/promises";
import { identityToRecipient } from "age-encryption";
import { formatRecoveryKeyHeading, readIdentityFile } from "../bundle/recovery-key.js";
import { removeFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import type { Survey } from "./survey.js";

export interface RecoveryKeyFile {
  /** Undefined if the user named no file. */
  readonly path: string | undefined;
  /** Whether a file exists that setup must not use: another key, or no recovery key. */
  readonly isTaken: boolean;
  /** Whether a killed setup has left the file without the whole key. */
  readonly isIncomplete: boolean;
  /** The path for a new key; undefined if no new key goes into the file. */
  readonly newKeyPath: string | undefined;
  /** The recipients that the user named, and the recipient of the key that setup uses again. */
  readonly recipients: readonly string[];
}

export const noRecoveryKeyFile: RecoveryKeyFile = {
  path: undefined,
  isTaken: false,
  isIncomplete: false,
  newKeyPath: undefined,
  recipients: [],
};

/**
 * Inspects the recovery key file. If an interrupted setup has created it, setup uses its key
 * instead of a new one.
 */
export async function resolveRecoveryKeyFile(
  { record, recipients: known, storePath }: Survey,
  { path, recipients }: Pick<RecoveryKeyFile, "path" | "recipients">,
): Promise<RecoveryKeyFile> {
  const file = { ...noRecoveryKeyFile, path, recipients };
  if (path === undefined) return file;
  if (!(await lstatIfExists(path))) return { ...file, newKeyPath: path };
  if (record?.recovery_key_file !== path) return { ...file, isTaken: true };
  const identity = await readKey(path);
  if (identity !== undefined) {
    return { ...file, recipients: [...recipients, await identityToRecipient(identity)] };
  }
  if (known.length > 0) return file;
  return (await isIncompleteKey(path, storePath))
    ? { ...file, isIncomplete: true, newKeyPath: path }
    : { ...file, isTaken: true };
}

/** Reads the key of this setup, or of an earlier setup; undefined if the file has none. */
export async function readRecoveryKey({
  path,
  isTaken,
}: RecoveryKeyFile): Promise<string | undefined> {
  return path === undefined || isTaken ? undefined : readKey(path);
}

/** Removes a file without the whole key. Nothing is encrypted to its key. */
export async function removeIncompleteKey({ path, isIncomplete }: RecoveryKeyFile): Promise<void> {
  if (path !== undefined && isIncomplete) await removeFile(path);
}

async function readKey(path: string): Promise<string | undefined> {
  return readIdentityFile(path).catch(() => undefined);
}

/** Returns whether a recovery key file of this program was not written completely. */
async function isIncompleteKey(path: string, storePath: string): Promise<boolean> {
  const heading = formatRecoveryKeyHeading(storePath);
  const text = await readFile(path, "utf8");
  const isPartOfKey = /^(?:age1[a-z0-9]*(?:\n[A-Z0-9-]*)?)?$/.test(text.slice(heading.length));
  return heading.startsWith(text.slice(0, heading.length)) && isPartOfKey;
}
