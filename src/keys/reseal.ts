/** Sealed passphrases and their stores. */
import { dirname } from "node:path";
import { isKind, StoreError } from "../errors.js";
import { moveFile, replacedName, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists, sha256Hex } from "../fs/read.js";
import { currentInteraction } from "../process/interaction.js";
import { openEncrypted } from "../store/cipher.js";
import { defaultSealedPath, readSealed, seal } from "./sealed.js";
import { describeSource, type PassphraseSource } from "./source.js";
import { openingPassphrase } from "./unlock.js";

/** Returns where a store's passphrase is sealed, or can be: not where another passphrase is. */
export async function sealedPathFor(storePath: string): Promise<string> {
  const path = defaultSealedPath();
  if (!(await lstatIfExists(path)) || (await opens(storePath, path))) return path;
  return `${path}-${sha256Hex(storePath).slice(0, 8)}`;
}

async function opens(storePath: string, path: string): Promise<boolean> {
  try {
    const source = { kind: "sealed", path } as const;
    await openingPassphrase(source, storePath);
    return true;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return false;
  }
}

/**
 * Seals the next passphrase of a store in front of the present ones while `work` gives it to the
 * store. Afterwards only the store's passphrase stays. Other sources are not changed.
 *
 * @throws {@link StoreError} as `seal`, before `work`
 * @throws what `work` throws
 */
export async function withSealed<Result>(
  source: PassphraseSource,
  storePath: string,
  next: string,
  work: () => Promise<Result>,
): Promise<Result> {
  if (source.kind !== "sealed") return work();
  const { aside } = await sealInFront(source.path, next);
  try {
    return await work();
  } catch (error) {
    if (aside !== undefined) await putBack(aside, source.path, storePath, next);
    throw error;
  } finally {
    await keepOpening(source, storePath);
  }
}

interface Present {
  readonly passphrases: readonly string[];
  /** Where a file was moved that cannot be unsealed. */
  readonly aside?: string;
}

/**
 * Seals a passphrase in front of those in the file.
 *
 * @throws {@link StoreError} as `seal`
 */
export async function sealInFront(path: string, next: string): Promise<Present> {
  const present = await presentPassphrases(path);
  const { passphrases } = present;
  if (passphrases[0] !== next) {
    await seal(path, [next, ...passphrases.filter((each) => each !== next)]);
  }
  return present;
}

/**
 * Returns the passphrases in a sealed file. Moves a file away that cannot be unsealed, because the
 * cause may pass: a TPM can be locked for a time, or its machine's state be restored.
 */
async function presentPassphrases(path: string): Promise<Present> {
  try {
    return { passphrases: await readSealed(path) };
  } catch (error) {
    if (!isKind(error, "passphraseUnavailable")) throw error;
    if (!(await lstatIfExists(path))) return { passphrases: [] };
    const aside = await replacedName(path, "unreadable");
    await moveFile(path, aside);
    currentInteraction().notice?.(`${error.message}; it is kept as ${aside}`);
    return { passphrases: [], aside };
  }
}

/** Puts the former sealed file back, unless the store has its next passphrase already. */
async function putBack(
  aside: string,
  path: string,
  storePath: string,
  next: string,
): Promise<void> {
  try {
    await (await openEncrypted(storePath, next, { mode: "readwrite" })).connection.close();
  } catch (error) {
    if (!isKind(error, "wrongPassphrase")) return;
    await moveFile(aside, path);
    await syncDirectory(dirname(path));
  }
}

/** Leaves only the passphrase of the store. Never throws: other passphrases do no harm. */
async function keepOpening(
  source: PassphraseSource & { kind: "sealed" },
  storePath: string,
): Promise<void> {
  try {
    const passphrase = await openingPassphrase(source, storePath);
    if ((await readSealed(source.path)).length > 1) await seal(source.path, [passphrase]);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    currentInteraction().notice?.(
      `${describeSource(source)} has the former passphrase, too: ${error.message}`,
    );
  }
}
