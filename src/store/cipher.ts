/**
 * Opening and making stores that SQLCipher encrypted.
 *
 * While this process has a connection to a store it must not open the store's file by any other means: closing any
 * descriptor of a file drops every POSIX lock that the process holds on it, SQLite's own included. So nothing here
 * reads the file. The salt, which is its first 16 bytes, is asked of SQLCipher; sizes come from `stat`.
 *
 * The key is derived here, in Node's thread pool, and handed over raw: it is needed for the manifest as well, and a
 * raw key opens a store in a tenth of the time. A passphrase is never part of an SQL statement.
 */
import { hkdfSync, pbkdf2, randomBytes } from "node:crypto";
import { channel } from "node:diagnostics_channel";
import { realpath, rm } from "node:fs/promises";
import { inspect, promisify } from "node:util";
import { StoreError } from "../errors.js";
import { createFile } from "../fs/atomic.js";
import { openIfExists, statIfExists } from "../fs/read.js";
import { Connection, type ConnectionOptions } from "./connection.js";
import { readWal } from "./wal.js";

/** The major version of SQLCipher whose defaults a file follows. 4 is what is written; 3 is what Debian 12 has. */
export type CipherCompatibility = 3 | 4;

/** How SQLCipher derives a key from a passphrase, by format: its documented defaults. */
const derivation = {
  3: { iterations: 64_000, digest: "sha1" },
  4: { iterations: 256_000, digest: "sha512" },
} as const;

const keyBytes = 32;
const saltBytes = 16;
/** The first 16 bytes of a database that is not encrypted, where an encrypted one has its salt. */
const plaintextHeader = Buffer.from("SQLite format 3\0", "latin1");
/** The smallest page that SQLite knows. */
const smallestPage = 512;

/**
 * The key of one store's file, good for no other file. It shows neither in `console.log` nor in JSON, and is not
 * copied by a spread.
 */
export class StoreKey {
  readonly #salt: Buffer;
  readonly #key: Buffer;
  readonly #cipherCompatibility: CipherCompatibility;

  /** @throws RangeError unless the salt has 16 bytes and the key 32. */
  constructor(salt: Buffer, key: Buffer, cipherCompatibility: CipherCompatibility) {
    if (salt.length !== saltBytes || key.length !== keyBytes) {
      throw new RangeError("a store key has 32 bytes and a salt of 16");
    }
    this.#salt = salt;
    this.#key = key;
    this.#cipherCompatibility = cipherCompatibility;
  }

  get salt(): Buffer {
    return this.#salt;
  }

  /** The raw key, 32 bytes. */
  get key(): Buffer {
    return this.#key;
  }

  get cipherCompatibility(): CipherCompatibility {
    return this.#cipherCompatibility;
  }

  toJSON(): string {
    return this.toString();
  }

  toString(): string {
    return `[key of ${keyIdOf(this.#salt)}]`;
  }

  [inspect.custom](): string {
    return this.toString();
  }
}

/** An open store, unlocked. */
export interface OpenedStore {
  connection: Connection;
  key: StoreKey;
  keyId: string;
}

/** What names a passphrase of a store: the first 16 hex digits of the file's salt. */
export function keyIdOf(salt: Buffer): string {
  return salt.toString("hex", 0, 8);
}

const pbkdf2Async = promisify(pbkdf2);

/** Every derivation of a key is said here, with its format, before it begins: it is nearly all that opening costs. */
export const derivationChannelName = "hivemind-sqlcipher:derivation";

const derivations = channel(derivationChannelName);

/**
 * Derives a store's key as SQLCipher does, from the passphrase's UTF-8 bytes. Takes some 200 ms for format 4.
 *
 * @throws StoreError `refused` for a passphrase that SQLCipher would not derive a key from: an empty one, one with a
 *   NUL (SQLCipher stops there), or one of the form `x'…'`, which it takes as the raw key itself.
 */
export async function deriveKey(
  passphrase: string,
  salt: Buffer,
  cipherCompatibility: CipherCompatibility,
): Promise<StoreKey> {
  if (passphrase === "") throw new StoreError("refused", "the passphrase is empty");
  if (passphrase.includes("\0")) {
    throw new StoreError("refused", "the passphrase holds a NUL, where SQLCipher would cut it off");
  }
  if (/^x'(?:[0-9a-f]{64}|[0-9a-f]{96})'$/i.test(passphrase)) {
    throw new StoreError("refused", "the passphrase has the form of a raw key, x'…'");
  }
  const { iterations, digest } = derivation[cipherCompatibility];
  derivations.publish(cipherCompatibility);
  const key = await pbkdf2Async(passphrase, salt, iterations, keyBytes, digest);
  return new StoreKey(salt, key, cipherCompatibility);
}

/** A key for another purpose, 32 bytes, that tells nothing about the store's own: HKDF-SHA256 with the file's salt. */
export function hkdfKey(key: StoreKey, info: string): Buffer {
  return Buffer.from(hkdfSync("sha256", key.key, key.salt, info, keyBytes));
}

/** The key of a manifest's `mac`. */
export function manifestKey(key: StoreKey): Buffer {
  return hkdfKey(key, "hivemind-sqlcipher manifest");
}

export interface Identity {
  /** `sqlcipher` is everything that may be encrypted: only the right key can tell it from noise. */
  format: "absent" | "plaintext" | "sqlcipher" | "unknown";
  /** Of an encrypted file. */
  keyId?: string;
  /** Bytes. */
  size: number;
}

/**
 * What kind of file is at a path, as far as can be said without a key. `unknown` is a folder, a file too short to be
 * a database, or one that begins as text and has a size that no database has.
 *
 * @throws StoreError `io` if it cannot be read.
 */
export async function identify(path: string): Promise<Identity> {
  const size = await databaseSize(path);
  if (size === undefined) return { format: "absent", size: 0 };
  if (size < smallestPage) return { format: "unknown", size };
  await using connection = await Connection.open(path, { mode: "readonly" });
  const salt = await readSalt(connection);
  if (salt.equals(plaintextHeader)) return { format: "plaintext", size };
  if (size % smallestPage !== 0 && /^[\t\n\r -~]*$/.test(salt.toString("latin1"))) {
    return { format: "unknown", size };
  }
  return { format: "sqlcipher", keyId: keyIdOf(salt), size };
}

/**
 * Opens an encrypted store with a passphrase, or with a key derived before. Of a passphrase both formats are tried,
 * 4 first. Nothing is written.
 *
 * @throws StoreError `notFound` if there is no file; `refused` if it is not encrypted, or if this build cannot
 *   encrypt; `wrongPassphrase` also for what is no database; `corrupted` if it was cut off; `inUse`, `io`.
 */
export async function openEncrypted(
  path: string,
  secret: string | StoreKey,
  options: ConnectionOptions,
): Promise<OpenedStore> {
  const size = await databaseSize(path);
  if (size === undefined) {
    throw new StoreError("notFound", `there is no store at ${path}`, {
      hint: "hivemind-sqlcipher init",
    });
  }
  if (size === 0) throw notADatabase(path);
  const connection = await Connection.open(path, options);
  try {
    const salt = await readSalt(connection);
    if (salt.equals(plaintextHeader)) {
      throw new StoreError("refused", `${path} is not encrypted`, {
        hint: "hivemind-sqlcipher encrypt",
      });
    }
    const key = await unlock(connection, secret, salt);
    await assertNotTruncated(connection, options);
    return { connection, key, keyId: keyIdOf(salt) };
  } catch (error) {
    await connection.close();
    throw error;
  }
}

/**
 * Makes a new, empty encrypted database, 0600, that must not exist yet.
 *
 * @throws StoreError `refused` if something has that name or if this build cannot encrypt; `io`.
 */
export async function createEncrypted(
  path: string,
  passphrase: string,
  cipherCompatibility: CipherCompatibility = 4,
): Promise<OpenedStore> {
  const key = await deriveKey(passphrase, randomBytes(saltBytes), cipherCompatibility);
  await using memory = await Connection.open(":memory:", { mode: "create" });
  await assertSqlcipher(memory);
  await createFile(path, "");
  const connection = await Connection.open(path, { mode: "readwrite" });
  try {
    await applyKey(connection, key);
    // The first transaction writes the first page, and with it the salt.
    await connection.transaction(() => connection.run("PRAGMA user_version = 0"));
    connection.unlocked = true;
    const { keyId } = await identify(path);
    if (keyId !== keyIdOf(key.salt)) {
      throw new StoreError("failed", `${path} was not written encrypted`);
    }
    return { connection, key, keyId };
  } catch (error) {
    await connection.close();
    await rm(path, { force: true });
    throw error;
  }
}

/** Returns a file's size; undefined if it does not exist, 0 for anything but a regular file. */
async function databaseSize(path: string): Promise<number | undefined> {
  const stats = await statIfExists(path);
  return stats?.isFile() === false ? 0 : stats?.size;
}

/** A SQLite without SQLCipher ignores `PRAGMA key` and would write everything in plain text. */
async function assertSqlcipher(connection: Connection): Promise<void> {
  const version = await connection.get("PRAGMA cipher_version");
  if (version === undefined) {
    throw new StoreError(
      "refused",
      "the SQLite library of this installation is built without SQLCipher: it cannot encrypt",
      { hint: "npm rebuild @journeyapps/sqlcipher" },
    );
  }
}

/**
 * The file's first 16 bytes, through SQLite's own descriptor: with a raw key set, SQLCipher reads the salt without
 * deriving or decrypting anything. Of a file shorter than that it answers random bytes.
 */
async function readSalt(connection: Connection): Promise<Buffer> {
  await assertSqlcipher(connection);
  await connection.all(`PRAGMA key = "x'${"00".repeat(keyBytes)}'"`);
  const row = await connection.get<{ cipher_salt: string }>("PRAGMA cipher_salt");
  return Buffer.from(row?.cipher_salt ?? "", "hex");
}

async function unlock(
  connection: Connection,
  secret: string | StoreKey,
  salt: Buffer,
): Promise<StoreKey> {
  if (secret instanceof StoreKey) {
    if (secret.salt.equals(salt) && (await opens(connection, secret))) return secret;
    throw notADatabase(connection.path);
  }
  for (const cipherCompatibility of [4, 3] as const) {
    const key = await deriveKey(secret, salt, cipherCompatibility);
    if (await opens(connection, key)) return key;
  }
  throw notADatabase(connection.path);
}

/** Whether the first page decrypts with this key. */
async function opens(connection: Connection, key: StoreKey): Promise<boolean> {
  await applyKey(connection, key);
  try {
    await connection.get("SELECT count(*) FROM sqlite_schema");
  } catch (error) {
    if (error instanceof StoreError && error.kind === "wrongPassphrase") return false;
    throw error;
  }
  connection.unlocked = true;
  return true;
}

async function applyKey(connection: Connection, key: StoreKey): Promise<void> {
  const raw = key.key.toString("hex") + key.salt.toString("hex");
  await connection.all(`PRAGMA key = "x'${raw}'"`);
  if (key.cipherCompatibility === 3) await connection.all("PRAGMA cipher_compatibility = 3");
}

/**
 * SQLite notices whole pages missing at the end, not a part of one. A crash while the log is brought into the file leaves
 * a part of one as well: then that page and all after it are in the log, which SQLite reads, unless the file is immutable.
 */
async function assertNotTruncated(
  connection: Connection,
  { immutable = false }: ConnectionOptions,
): Promise<void> {
  const row = await connection.get<{ cipher_page_size: string }>("PRAGMA cipher_page_size");
  const pageSize = Number(row?.cipher_page_size);
  const size = (await databaseSize(connection.path)) ?? 0;
  if (size % pageSize === 0) return;
  const cutPage = Math.ceil(size / pageSize);
  if (!immutable && (await isInLog(connection.path, cutPage, pageSize))) return;
  throw new StoreError("corrupted", `${connection.path} is cut off: its last page is not whole`, {
    hint: "put the newest sound backup back in its place: hivemind-sqlcipher restore FILE",
  });
}

/** Whether the log has a page and all after it. SQLite locks no byte of a log, so it may be opened beside the connection. */
async function isInLog(path: string, first: number, pageSize: number): Promise<boolean> {
  await using log = await openIfExists(`${await realpath(path)}-wal`);
  const read = log && (await readWal(log));
  if (read === undefined || typeof read === "string") return false;
  const { pageSize: logged, databasePages } = read.position;
  if (logged !== pageSize || databasePages === undefined) return false;
  for (let page = first; page <= databasePages; page++) if (!read.pages.has(page)) return false;
  return true;
}

function notADatabase(path: string): StoreError {
  return new StoreError("wrongPassphrase", `${path}: wrong passphrase, or not a database`);
}
