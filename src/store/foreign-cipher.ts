/** Opens databases with other SQLCipher parameters than the defaults of formats 3 and 4. */
import { isKind, StoreError } from "../errors.js";
import {
  assertNotTruncated,
  canOpen,
  deriveForeignKey,
  isRawKey,
  keyIdOf,
  type OpenedStore,
  readSalt,
  StoreKey,
} from "./cipher.js";
import { type CipherParameters, type Digest, formatParameters } from "./cipher-settings.js";
import { Connection } from "./connection.js";

/**
 * Opens a database with given parameters, for writing. The returned key contains them, so that
 * `openEncrypted` and an export use them too.
 *
 * @param passphrase - a passphrase or a raw key, `x'…'`
 * @throws {@link StoreError} wrongPassphrase - if the passphrase or a parameter is wrong
 * @throws {@link StoreError} corrupted - if the file is truncated
 */
export async function openForeign(
  path: string,
  passphrase: string,
  parameters: CipherParameters,
): Promise<OpenedStore> {
  const connection = await Connection.open(path, { mode: "readwrite" });
  try {
    const key = await deriveForeignKey(passphrase, await readSalt(connection), parameters);
    if (!(await canOpen(connection, key))) {
      throw new StoreError(
        "wrongPassphrase",
        `${path}: wrong passphrase or cipher settings, or file is not a database`,
      );
    }
    await assertNotTruncated(connection, { mode: "readwrite" });
    return { connection, key, keyId: keyIdOf(key.salt) };
  } catch (error) {
    await connection.close();
    throw error;
  }
}

/** The key derivations of known programs, the fewest iterations first. */
const derivations: readonly (readonly [Digest, number])[] = [
  ["sha1", 4_000],
  ["sha512", 4_000],
  ["sha1", 64_000],
  ["sha512", 64_000],
  ["sha256", 64_000],
  ["sha512", 100_000],
  ["sha256", 100_000],
  ["sha256", 256_000],
  ["sha1", 256_000],
  ["sha512", 256_000],
];

const pageSizes = [4096, 1024, 2048, 8192, 16_384, 32_768, 65_536, 512];
const hmacDigests: readonly (Digest | undefined)[] = ["sha512", "sha1", "sha256", undefined];

/**
 * Tries the parameters of other programs with a passphrase, which takes a few seconds. Does not try
 * a plaintext header, because a file with such a header does not contain the salt for the key.
 *
 * @param passphrase - a passphrase or a raw key, `x'…'`
 * @returns the parameters that open the database; undefined if no tried parameters open it
 */
export async function probeParameters(
  path: string,
  passphrase: string,
): Promise<CipherParameters | undefined> {
  const salt = await readFileSalt(path);
  // With a raw key the iterations have no effect. The digest has one: SQLCipher derives the key of
  // the HMACs with it. So each digest is tried once.
  const tried = isRawKey(passphrase)
    ? derivations.filter(([, count]) => count === 256_000)
    : derivations;
  for (const [kdfDigest, kdfIterations] of tried) {
    const kdf = { ...formatParameters[4], kdfDigest, kdfIterations };
    const derived = await deriveForeignKey(passphrase, salt, kdf);
    for (const pageSize of pageSizes) {
      for (const hmacDigest of hmacDigests) {
        const parameters = { ...kdf, pageSize, hmacDigest };
        const key = new StoreKey(derived.salt, derived.key, 4, parameters);
        if (await canOpenFile(path, key)) return parameters;
      }
    }
  }
  return undefined;
}

async function readFileSalt(path: string): Promise<Buffer> {
  await using connection = await Connection.open(path, { mode: "readonly" });
  return await readSalt(connection);
}

/**
 * Returns whether a key opens the file. Uses a new connection, because SQLite keeps the page size
 * of a failed attempt.
 */
async function canOpenFile(path: string, key: StoreKey): Promise<boolean> {
  await using connection = await Connection.open(path, { mode: "readonly" });
  try {
    return await canOpen(connection, key);
  } catch (error) {
    if (isKind(error, "corrupted")) return false;
    throw error;
  }
}
