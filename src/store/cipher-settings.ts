/**
 * SQLCipher's parameters, for a database with other parameters than the defaults of format 4.
 *
 * As text they are `KEY=VALUE,…`. The keys are the names of SQLCipher's pragmas without `cipher_`.
 */
import { StoreError } from "../errors.js";
import { shellQuote } from "../text/escape.js";

const digests = ["sha1", "sha256", "sha512"] as const;

export type Digest = (typeof digests)[number];

/** All parameters of a database. */
export interface CipherParameters {
  /** Bytes. */
  readonly pageSize: number;
  readonly kdfIterations: number;
  readonly kdfDigest: Digest;
  /** The digest of each page's HMAC; undefined for pages without an HMAC. */
  readonly hmacDigest: Digest | undefined;
  /** The number of unencrypted bytes at the beginning of the file, a multiple of 16. */
  readonly plaintextHeaderSize: number;
  /**
   * 16 bytes. Required with a plaintext header, because the file then does not contain its salt.
   */
  readonly salt?: Buffer | undefined;
}

/** The defaults of SQLCipher's major versions. */
export const formatParameters = {
  1: buildParameters(1024, 4_000, "sha1", undefined),
  2: buildParameters(1024, 4_000, "sha1", "sha1"),
  3: buildParameters(1024, 64_000, "sha1", "sha1"),
  4: buildParameters(4096, 256_000, "sha512", "sha512"),
} as const satisfies Record<number, CipherParameters>;

function buildParameters(
  pageSize: number,
  kdfIterations: number,
  kdfDigest: Digest,
  hmacDigest: Digest | undefined,
): CipherParameters {
  return { pageSize, kdfIterations, kdfDigest, hmacDigest, plaintextHeaderSize: 0 };
}

const keys = {
  compatibility: "1, 2, 3 or 4",
  page_size: "a power of two from 512 to 65536",
  kdf_iter: "a number from 1",
  kdf_algorithm: "PBKDF2_HMAC_SHA1, PBKDF2_HMAC_SHA256 or PBKDF2_HMAC_SHA512",
  hmac_algorithm: "HMAC_SHA1, HMAC_SHA256 or HMAC_SHA512",
  use_hmac: "ON or OFF",
  plaintext_header_size: "a multiple of 16, up to 96",
  salt: "32 hexadecimal digits",
} as const;

type Key = keyof typeof keys;

/**
 * Parses `KEY=VALUE,…`. `compatibility` sets the defaults for the other keys; its own default is 4.
 *
 * @throws {@link StoreError} usage - for an unknown key or an invalid value
 */
export function parseCipherSettings(text: string): CipherParameters {
  const given = new Map(text.split(",").map(parseSetting));
  const base =
    formatParameters[parseNumber(given, "compatibility", (n) => n >= 1 && n <= 4, 4) as 4];
  const isPageSize = (n: number) => n >= 512 && n <= 65536 && (n & (n - 1)) === 0;
  const useHmac = parseChoice(given, "use_hmac", ["on", "off"], base.hmacDigest ? "on" : "off");
  const hmacDigest = parseDigest(given, "hmac_algorithm", "HMAC_", base.hmacDigest ?? "sha1");
  const plaintextHeaderSize = parseNumber(
    given,
    "plaintext_header_size",
    (n) => n % 16 === 0 && n <= 96,
    0,
  );
  const salt = parseSalt(given);
  if (plaintextHeaderSize > 0 && salt === undefined) {
    throw new StoreError("usage", "a database with a plaintext header needs its salt", {
      hint: "Add salt=…, the 32 hexadecimal digits that PRAGMA cipher_salt prints in the program that wrote the file.",
    });
  }
  return {
    pageSize: parseNumber(given, "page_size", isPageSize, base.pageSize),
    kdfIterations: parseNumber(given, "kdf_iter", (n) => n >= 1, base.kdfIterations),
    kdfDigest: parseDigest(given, "kdf_algorithm", "PBKDF2_HMAC_", base.kdfDigest),
    hmacDigest: useHmac === "on" ? hmacDigest : undefined,
    plaintextHeaderSize,
    salt,
  };
}

function parseSetting(setting: string): [Key, string] {
  const [key = "", ...value] = setting.trim().split("=");
  if (Object.hasOwn(keys, key)) return [key as Key, value.join("=").trim()];
  throw new StoreError("usage", `unknown cipher setting "${key}"`, {
    hint: `Use KEY=VALUE,… with: ${Object.keys(keys).join(", ")}.`,
  });
}

function invalidValueError(key: Key, value: string): StoreError {
  return new StoreError("usage", `invalid value for the cipher setting ${key}: "${value}"`, {
    hint: `Use ${keys[key]}.`,
  });
}

function parseNumber(
  given: ReadonlyMap<Key, string>,
  key: Key,
  isValid: (value: number) => boolean,
  fallback: number,
): number {
  const value = given.get(key);
  if (value === undefined) return fallback;
  if (!/^\d{1,9}$/.test(value) || !isValid(Number(value))) throw invalidValueError(key, value);
  return Number(value);
}

function parseChoice<Choice extends string>(
  given: ReadonlyMap<Key, string>,
  key: Key,
  choices: readonly Choice[],
  fallback: Choice,
): Choice {
  const value = given.get(key);
  if (value === undefined) return fallback;
  const choice = choices.find((each) => each === value.toLowerCase());
  if (choice === undefined) throw invalidValueError(key, value);
  return choice;
}

function parseDigest(
  given: ReadonlyMap<Key, string>,
  key: Key,
  prefix: string,
  fallback: Digest,
): Digest {
  const value = given.get(key);
  if (value === undefined) return fallback;
  const digest = digests.find((each) => `${prefix}${each}`.toUpperCase() === value.toUpperCase());
  if (digest === undefined) throw invalidValueError(key, value);
  return digest;
}

function parseSalt(given: ReadonlyMap<Key, string>): Buffer | undefined {
  const value = given.get("salt");
  if (value === undefined) return undefined;
  if (!/^[0-9a-f]{32}$/i.test(value)) throw invalidValueError("salt", value);
  return Buffer.from(value, "hex");
}

/**
 * Formats parameters as `KEY=VALUE,…`: the differences from format 4, or an older format as a
 * whole.
 */
export function formatCipherSettings(parameters: CipherParameters): string {
  for (const version of [1, 2, 3] as const) {
    if (hasSameFormat(formatParameters[version], parameters)) return `compatibility=${version}`;
  }
  const changed = findDifferences(parameters).map(([key, value]) => `${key}=${value}`);
  return changed.length === 0 ? "compatibility=4" : changed.join(",");
}

function hasSameFormat(a: CipherParameters, b: CipherParameters): boolean {
  return (
    a.pageSize === b.pageSize &&
    a.kdfIterations === b.kdfIterations &&
    a.kdfDigest === b.kdfDigest &&
    a.hmacDigest === b.hmacDigest &&
    a.plaintextHeaderSize === b.plaintextHeaderSize
  );
}

/** Returns the parameters other than the defaults of format 4, and a given salt. */
function findDifferences(parameters: CipherParameters): [Key, string][] {
  const { pageSize, kdfIterations, kdfDigest, hmacDigest, plaintextHeaderSize, salt } = parameters;
  const usual = formatParameters[4];
  const found: [Key, string][] = [];
  if (pageSize !== usual.pageSize) found.push(["page_size", `${pageSize}`]);
  if (kdfIterations !== usual.kdfIterations) found.push(["kdf_iter", `${kdfIterations}`]);
  if (kdfDigest !== usual.kdfDigest) {
    found.push(["kdf_algorithm", `PBKDF2_HMAC_${kdfDigest.toUpperCase()}`]);
  }
  if (hmacDigest === undefined) found.push(["use_hmac", "OFF"]);
  else if (hmacDigest !== usual.hmacDigest) {
    found.push(["hmac_algorithm", `HMAC_${hmacDigest.toUpperCase()}`]);
  }
  if (plaintextHeaderSize > 0) found.push(["plaintext_header_size", `${plaintextHeaderSize}`]);
  if (salt) found.push(["salt", salt.toString("hex")]);
  return found;
}

/** Returns the pragmas to set these parameters on a connection. They must follow `PRAGMA key`. */
export function cipherPragmas(parameters: CipherParameters): string[] {
  const { pageSize, kdfDigest, hmacDigest, plaintextHeaderSize } = parameters;
  return [
    `PRAGMA cipher_page_size = ${pageSize}`,
    // Needed with a raw key, too: SQLCipher derives the key of the HMACs with this digest.
    `PRAGMA cipher_kdf_algorithm = PBKDF2_HMAC_${kdfDigest.toUpperCase()}`,
    ...(hmacDigest === undefined
      ? ["PRAGMA cipher_use_hmac = OFF"]
      : [
          "PRAGMA cipher_use_hmac = ON",
          `PRAGMA cipher_hmac_algorithm = HMAC_${hmacDigest.toUpperCase()}`,
        ]),
    `PRAGMA cipher_plaintext_header_size = ${plaintextHeaderSize}`,
  ];
}

/** Returns the pragmas to set these parameters for each database opened next in this process. */
export function defaultCipherPragmas(parameters: CipherParameters): string[] {
  return cipherPragmas(parameters).map((pragma) =>
    pragma.replace("PRAGMA cipher_", "PRAGMA cipher_default_"),
  );
}

/**
 * Returns the commands to export a database to the defaults of format 4 with the `sqlcipher`
 * program.
 *
 * @param settings - the parameters as SQL, or a placeholder for them
 */
export function exportCommands(path: string, settings: readonly string[]): string {
  return [
    `sqlcipher ${shellQuote(path)}`,
    "  PRAGMA key = 'PASSPHRASE';",
    ...settings.map((setting) => `  ${setting}`),
    `  ATTACH DATABASE '${path.replaceAll("'", "''")}.new' AS new KEY 'PASSPHRASE';`,
    "  SELECT sqlcipher_export('new');",
    "  PRAGMA user_version;",
    "  PRAGMA new.user_version = NUMBER;",
    "  DETACH DATABASE new;",
  ].join("\n");
}

/** Returns the pragmas for opening a database of these parameters with the `sqlcipher` program. */
export function exportPragmas(parameters: CipherParameters): string[] {
  return findDifferences(parameters).map(([key, value]) => {
    const pragma = key === "kdf_iter" ? key : `cipher_${key}`;
    return `PRAGMA ${pragma} = ${key === "salt" ? `"x'${value}'"` : value};`;
  });
}
