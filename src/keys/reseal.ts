/** Chooses the path of a store's sealed file, and updates the file when the passphrase changes. */
import { dirname } from "node:path";
import { isKind, StoreError } from "../errors.js";
import { moveFile, removeFile, replacedName, syncDirectory } from "../fs/atomic.js";
import { linkOrCopy } from "../fs/copy.js";
import { lstatIfExists, sha256Hex } from "../fs/read.js";
import { currentInteraction } from "../process/interaction.js";
import { openEncrypted } from "../store/cipher.js";
import { defaultSealedPath, readSealed, seal } from "./sealed.js";
import { describeSource, type PassphraseSource } from "./source.js";
import { findOpeningPassphrase } from "./unlock.js";

/**
 * Returns the path for a store's sealed passphrase: the default path, or a path with a hash of the
 * store's path if the file at the default path exists and does not open the store.
 */
export async function resolveSealedPath(storePath: string): Promise<string> {
  const path = defaultSealedPath();
  if (!(await lstatIfExists(path)) || (await isSealedFor(storePath, path))) return path;
  return `${path}-${sha256Hex(storePath).slice(0, 8)}`;
}

/** Returns whether a passphrase in a sealed file opens a store. */
async function isSealedFor(storePath: string, path: string): Promise<boolean> {
  try {
    const source = { kind: "sealed", path } as const;
    await findOpeningPassphrase(source, storePath);
    return true;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return false;
  }
}

/**
 * Seals the next passphrase of a store in front of the present passphrases, and runs `work`, which
 * re-encrypts the store. Afterwards only the store's passphrase stays. If `work` fails after the
 * store got its next passphrase, all passphrases stay: the recovery may put the old file back. If
 * the source is not a sealed file, only runs `work`.
 */
export async function withSealed<Result>(
  source: PassphraseSource,
  storePath: string,
  next: string,
  work: () => Promise<Result>,
): Promise<Result> {
  if (source.kind !== "sealed") return work();
  const kept = await sealInFront(source.path, next);
  let result: Result;
  try {
    result = await work();
  } catch (error) {
    if (await isRefused(storePath, next)) {
      if (kept !== undefined) await putBack(kept, source.path);
      await removeFormerPassphrases(source, storePath);
    }
    throw error;
  }
  await removeFormerPassphrases(source, storePath);
  return result;
}

/**
 * Seals a passphrase in front of the passphrases in the file.
 *
 * @returns the second name of the former file if it cannot be decrypted, and was replaced
 */
export async function sealInFront(path: string, next: string): Promise<string | undefined> {
  let passphrases: readonly string[] = [];
  try {
    passphrases = await readSealed(path);
  } catch (error) {
    if (!isKind(error, "passphraseUnavailable")) throw error;
    if (await lstatIfExists(path)) return await replaceUnreadable(path, next, error);
  }
  if (passphrases[0] !== next) {
    await seal(path, [next, ...passphrases.filter((each) => each !== next)]);
  }
  return undefined;
}

/**
 * Replaces a sealed file that cannot be decrypted. Keeps it under a second name, because the cause
 * may be temporary: a TPM can be locked for a time, and the state of Secure Boot can be restored.
 *
 * @param problem - why it cannot be decrypted
 * @returns the second name
 */
async function replaceUnreadable(path: string, next: string, problem: StoreError): Promise<string> {
  const kept = await replacedName(path, "unreadable");
  await linkOrCopy(path, kept);
  try {
    await seal(path, [next]);
  } catch (error) {
    await removeFile(kept);
    throw error;
  }
  currentInteraction().notice?.(`${problem.message}; it is kept as ${kept}`);
  return kept;
}

/** Returns whether the store has another passphrase. */
async function isRefused(storePath: string, passphrase: string): Promise<boolean> {
  try {
    await (await openEncrypted(storePath, passphrase, { mode: "readwrite" })).connection.close();
    return false;
  } catch (error) {
    return isKind(error, "wrongPassphrase");
  }
}

async function putBack(kept: string, path: string): Promise<void> {
  await moveFile(kept, path);
  await syncDirectory(dirname(path));
}

/**
 * Seals only the passphrase of the store. Prints a notice instead of an error, because a former
 * passphrase in the file does no harm.
 */
async function removeFormerPassphrases(
  source: PassphraseSource & { kind: "sealed" },
  storePath: string,
): Promise<void> {
  try {
    const passphrase = await findOpeningPassphrase(source, storePath);
    if ((await readSealed(source.path)).length > 1) await seal(source.path, [passphrase]);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    currentInteraction().notice?.(
      `${describeSource(source)} still contains the former passphrase: ${error.message}`,
    );
  }
}
