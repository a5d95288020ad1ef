/** Chooses the path of a store's sealed file, and the passphrases in it. */
import { dirname } from "node:path";
import { loadStoreSections } from "../config/settings-file.js";
import { isKind, StoreError } from "../errors.js";
import { moveFile, removeFile, replacedName, syncDirectory } from "../fs/atomic.js";
import { linkOrCopy } from "../fs/copy.js";
import { lstatIfExists, sha256Hex } from "../fs/read.js";
import { currentInteraction } from "../process/interaction.js";
import { identify, openEncrypted } from "../store/cipher.js";
import { generatePassphrase } from "./passphrase.js";
import { defaultSealedPath, readSealed, seal } from "./sealed.js";
import { describeSource, isSameSource, type PassphraseSource, parseSource } from "./source.js";
import { unlockSecret } from "./unlock.js";

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
    await unlockSecret(storePath, source);
    return true;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return false;
  }
}

export interface Resealing {
  readonly storePath: string;
  readonly settingsPath: string;
  readonly next: string;
  /** The store's present passphrase; undefined if it is unknown or still needed. */
  readonly former: string | undefined;
}

/**
 * Seals the next passphrase of a store in front of the present passphrases, and runs `work`, which
 * re-encrypts the store. Afterwards removes the former passphrase, unless another store of the
 * settings uses it or is missing, for example on an unmounted disk; the passphrases of other stores
 * stay. If `work` fails after the store got its next passphrase, all passphrases stay: the recovery
 * may put the old file back. If the source is not a sealed file, only runs `work`.
 */
export async function withSealed<Result>(
  source: PassphraseSource,
  { storePath, settingsPath, next, former }: Resealing,
  work: () => Promise<Result>,
): Promise<Result> {
  if (source.kind !== "sealed") return work();
  const undo = await sealInFront(source.path, next);
  let result: Result;
  try {
    result = await work();
  } catch (error) {
    if (await isRefused(storePath, next)) await orNotice(source, undo);
    throw error;
  }
  await orNotice(source, async () => {
    if (former === undefined || former === next) return;
    if (await isUsedElsewhere(former, storePath, settingsPath)) return;
    if (await hasMissingStore(source, storePath, settingsPath)) return;
    await removePassphrase(source.path, former);
  });
  return result;
}

/**
 * Returns the passphrase for a new store. If the file does not exist, seals a passphrase in it.
 * Otherwise returns the first passphrase in the file without another store in the settings: an
 * interrupted command may have sealed it for this store.
 *
 * @param wanted - the user's passphrase; default: as described above, or generated
 * @throws {@link StoreError} refused - if the file has only other passphrases
 */
export async function readOrSealPassphrase(
  path: string,
  { storePath, settingsPath }: { readonly storePath: string; readonly settingsPath: string },
  wanted?: string,
): Promise<string> {
  if (!(await lstatIfExists(path))) {
    const passphrase = wanted ?? generatePassphrase();
    await seal(path, [passphrase]);
    return passphrase;
  }
  const sealed = await readSealed(path);
  if (wanted !== undefined) {
    if (sealed.includes(wanted)) return wanted;
    throw new StoreError("refused", `another passphrase is sealed in ${path}`, {
      hint: "Name another file with --passphrase-source sealed:PATH, or leave out --passphrase-file.",
    });
  }
  for (const passphrase of sealed) {
    if (!(await isUsedElsewhere(passphrase, storePath, settingsPath))) return passphrase;
  }
  throw new StoreError("refused", `the passphrase in ${path} is that of another store`, {
    hint: "Name another file with --passphrase-source sealed:PATH.",
  });
}

/** Returns whether another store of the settings may have this passphrase. */
async function isUsedElsewhere(
  passphrase: string,
  storePath: string,
  settingsPath: string,
): Promise<boolean> {
  for (const [path] of await loadStoreSections(settingsPath)) {
    if (path === storePath || (await identify(path)).format !== "sqlcipher") continue;
    if (!(await isRefused(path, passphrase, "readonly"))) return true;
  }
  return false;
}

/** Returns whether the file of another store in the settings, with this source, is missing. */
async function hasMissingStore(
  source: PassphraseSource,
  storePath: string,
  settingsPath: string,
): Promise<boolean> {
  for (const [path, settings] of await loadStoreSections(settingsPath)) {
    const { store, passphrase_source: text } = settings;
    if (path === storePath || store === undefined || text === undefined) continue;
    if (!isSameSource(parseSource(text), source)) continue;
    if ((await identify(path)).format === "absent") return true;
  }
  return false;
}

/**
 * Seals a passphrase in front of the passphrases in the file.
 *
 * @returns a function to undo the change
 */
export async function sealInFront(path: string, next: string): Promise<() => Promise<void>> {
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
  const isNew = !passphrases.includes(next);
  return async () => {
    if (isNew) await removePassphrase(path, next);
  };
}

/**
 * Replaces a sealed file that cannot be decrypted. Keeps it under a second name, because the cause
 * may be temporary: a TPM can be locked for a time, and the state of Secure Boot can be restored.
 *
 * @param problem - why it cannot be decrypted
 * @returns a function to put it back
 */
async function replaceUnreadable(
  path: string,
  next: string,
  problem: StoreError,
): Promise<() => Promise<void>> {
  const kept = await replacedName(path, "unreadable");
  await linkOrCopy(path, kept);
  try {
    await seal(path, [next]);
  } catch (error) {
    await removeFile(kept);
    throw error;
  }
  currentInteraction().notice?.(`${problem.message}; it is kept as ${kept}`);
  return async () => {
    await moveFile(kept, path);
    await syncDirectory(dirname(path));
  };
}

/** Returns whether the store has another passphrase. */
async function isRefused(
  storePath: string,
  passphrase: string,
  mode: "readonly" | "readwrite" = "readwrite",
): Promise<boolean> {
  try {
    await (await openEncrypted(storePath, passphrase, { mode })).connection.close();
    return false;
  } catch (error) {
    return isKind(error, "wrongPassphrase");
  }
}

/** Removes a passphrase from the file, unless it is the only passphrase. */
async function removePassphrase(path: string, passphrase: string): Promise<void> {
  const passphrases = await readSealed(path);
  const others = passphrases.filter((each) => each !== passphrase);
  if (others.length > 0 && others.length < passphrases.length) await seal(path, others);
}

/** Prints a notice instead of an error: a passphrase too many does no harm. */
async function orNotice(source: PassphraseSource, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    currentInteraction().notice?.(
      `${describeSource(source)} still contains an unneeded passphrase: ${error.message}`,
    );
  }
}
