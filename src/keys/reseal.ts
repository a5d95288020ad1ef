/** Sealed passphrases and their stores. */
import { isKind, StoreError } from "../errors.js";
import { lstatIfExists, sha256Hex } from "../fs/read.js";
import { currentInteraction } from "../process/interaction.js";
import { defaultSealedPath, readSealed, seal } from "./sealed.js";
import { describeSource, type PassphraseSource } from "./source.js";
import { unlock } from "./unlock.js";

/** Returns where a store's passphrase is sealed, or can be: not where another passphrase is. */
export async function sealedPathFor(storePath: string): Promise<string> {
  const path = defaultSealedPath();
  if (!(await lstatIfExists(path)) || (await opens(storePath, path))) return path;
  return `${path}-${sha256Hex(storePath).slice(0, 8)}`;
}

async function opens(storePath: string, path: string): Promise<boolean> {
  try {
    const source = { kind: "sealed", path } as const;
    await (await unlock(storePath, source, { mode: "readwrite" })).connection.close();
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
  const present = await presentPassphrases(source.path);
  if (present.length === 1 && present[0] === next) return work();
  await seal(source.path, [next, ...present.filter((each) => each !== next)]);
  try {
    return await work();
  } finally {
    await keepOpening(source, storePath);
  }
}

/** After the loss of the TPM, say, the file cannot be unsealed any more, and is replaced. */
async function presentPassphrases(path: string): Promise<string[]> {
  try {
    return await readSealed(path);
  } catch (error) {
    if (isKind(error, "passphraseUnavailable")) return [];
    throw error;
  }
}

/** Never throws: with several passphrases the file opens the store as well. */
async function keepOpening(
  source: PassphraseSource & { kind: "sealed" },
  storePath: string,
): Promise<void> {
  try {
    const { connection, passphrase } = await unlock(storePath, source, { mode: "readwrite" });
    await connection.close();
    await seal(source.path, [passphrase]);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    currentInteraction().notice?.(
      `${describeSource(source)} has the former passphrase, too: ${error.message}`,
    );
  }
}
