/**
 * Opens and creates stores encrypted by SQLCipher.
 *
 * This module never reads the file of a store: closing any descriptor of a file drops all POSIX
 * locks of the process on it, including SQLite's. SQLCipher returns the salt, and `stat` the size.
 *
 * The key is derived in Node's thread pool and passed to SQLCipher raw. The manifest needs the key
 * as well, a raw key opens a store ten times as fast, and no passphrase becomes part of an SQL
 * statement.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { hkdfSync, pbkdf2, randomBytes } from "node:crypto";
import { channel } from "node:diagnostics_channel";
import { realpath, rm } from "node:fs/promises";
import { inspect, promisify } from "node:util";
import { type ErrorKind, isKind, StoreError } from "../errors.js";
import { createFile } from "../fs/atomic.js";
import { recogniseFile, withFileKind } from "../fs/file-kind.js";
import { openIfExists, statIfExists } from "../fs/read.js";
import { shellQuote } from "../text/escape.js";
import {
  type CipherParameters,
  cipherPragmas,
  exportCommands,
  formatParameters,
} from "./cipher-settings.js";
import { Connection, type ConnectionOptions } from "./connection.js";
import { saltBytes } from "./page-cipher.js";
import { readWal } from "./wal.js";

/**
 * The major version of SQLCipher whose default parameters a file has: 4 for new files, 3 for the
 * library in Debian 12.
 */
export type CipherCompatibility = 3 | 4;

const keyBytes = 32;
/** The first bytes of a plaintext database. An encrypted database has its salt there. */
const plaintextHeader = Buffer.from("SQLite format 3\0", "latin1");
/** In bytes. No database is smaller. */
const smallestPage = 512;

/**
 * The key of a store's file. It is not printed by `console.log` or in JSON, and not copied by a
 * spread.
 */
export class StoreKey {
  readonly #salt: Buffer;
  readonly #key: Buffer;
  readonly #cipherCompatibility: CipherCompatibility;
  /** Undefined for the defaults of the format. */
  readonly parameters: CipherParameters | undefined;

  /** @throws RangeError if the salt does not have 16 bytes, or the key 32 */
  constructor(
    salt: Buffer,
    key: Buffer,
    cipherCompatibility: CipherCompatibility,
    parameters?: CipherParameters,
  ) {
    if (salt.length !== saltBytes || key.length !== keyBytes) {
      throw new RangeError("a store key has 32 bytes and a salt of 16");
    }
    this.#salt = salt;
    this.#key = key;
    this.#cipherCompatibility = cipherCompatibility;
    this.parameters = parameters;
  }

  get salt(): Buffer {
    return this.#salt;
  }

  /** 32 bytes. */
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

/** The key of an encrypted database; undefined for a plaintext database. */
export type Secret = StoreKey | undefined;

/** An open, decrypted store. */
export interface OpenedStore {
  connection: Connection;
  key: StoreKey;
  keyId: string;
}

/** Returns the identifier of a passphrase: the first 16 hex digits of the file's salt. */
export function keyIdOf(salt: Buffer): string {
  return salt.toString("hex", 0, 8);
}

const pbkdf2Async = promisify(pbkdf2);

/**
 * The diagnostics channel that announces each key derivation with its format, before the derivation
 * begins. The derivation takes most of the time of opening a store.
 */
export const derivationChannelName = "hivemind-sqlcipher:derivation";

const derivations = channel(derivationChannelName);

/** The keys that `work` has derived, by format, salt and passphrase. */
const derivedKeys = new AsyncLocalStorage<Map<string, Promise<Buffer>>>();

/**
 * Runs `work`, in which every key is derived only once.
 *
 * A backup and its bundle have the store's salt and are verified with its passphrase, so their key
 * is the store's. No key is kept after `work`.
 */
export function withDerivedKeys<Result>(work: () => Result): Result {
  return derivedKeys.getStore() ? work() : derivedKeys.run(new Map(), work);
}

/**
 * Derives a store's key as SQLCipher does. Takes about 200 ms for format 4, unless the running
 * operation has derived it before.
 *
 * @throws {@link StoreError} refused - for a passphrase that SQLCipher would not use unchanged: an
 *   empty passphrase, a passphrase with a NUL, or the form of a raw key, `x'…'`
 *
 * @example
 * ```ts
 * const key = await deriveKey(passphrase, salt, 4);
 * ```
 */
export async function deriveKey(
  passphrase: string,
  salt: Buffer,
  cipherCompatibility: CipherCompatibility,
): Promise<StoreKey> {
  if (passphrase === "") throw new StoreError("refused", "the passphrase is empty");
  if (passphrase.includes("\0")) {
    throw new StoreError(
      "refused",
      "the passphrase contains a NUL character, at which SQLCipher would truncate it",
    );
  }
  if (rawKeyPattern.test(passphrase)) {
    throw new StoreError("refused", "the passphrase has the form of a raw key, x'…'");
  }
  const known = derivedKeys.getStore();
  const name = `${cipherCompatibility} ${salt.toString("hex")} ${passphrase}`;
  const key = known?.get(name) ?? derive(passphrase, salt, cipherCompatibility);
  known?.set(name, key);
  return new StoreKey(salt, await key, cipherCompatibility);
}

function derive(passphrase: string, salt: Buffer, format: CipherCompatibility): Promise<Buffer> {
  const { kdfIterations, kdfDigest } = formatParameters[format];
  derivations.publish(format);
  return pbkdf2Async(passphrase, salt, kdfIterations, keyBytes, kdfDigest);
}

/** Derives the key of a file that does not exist yet, with a new salt. @throws as `deriveKey` */
export function deriveNewKey(
  passphrase: string,
  cipherCompatibility: CipherCompatibility,
): Promise<StoreKey> {
  return deriveKey(passphrase, randomBytes(saltBytes), cipherCompatibility);
}

/** A raw key in SQLCipher's form, with or without a salt. */
const rawKeyPattern = /^x'([0-9a-f]{64})([0-9a-f]{32})?'$/i;

export function isRawKey(passphrase: string): boolean {
  return rawKeyPattern.test(passphrase);
}

/** Returns the key of a database with other parameters, derived or from a raw key. */
export async function deriveForeignKey(
  passphrase: string,
  fileSalt: Buffer,
  parameters: CipherParameters,
): Promise<StoreKey> {
  const [, rawKey, rawSalt] = rawKeyPattern.exec(passphrase) ?? [];
  const salt = rawSalt ? Buffer.from(rawSalt, "hex") : (parameters.salt ?? fileSalt);
  const { kdfIterations, kdfDigest } = parameters;
  const key = rawKey
    ? Buffer.from(rawKey, "hex")
    : await pbkdf2Async(passphrase, salt, kdfIterations, keyBytes, kdfDigest);
  return new StoreKey(salt, key, 4, parameters);
}

/**
 * Derives a 32-byte key for another purpose, from which the store's key cannot be computed
 * (HKDF-SHA256 with the file's salt).
 */
export function deriveHkdfKey(key: StoreKey, info: string): Buffer {
  return Buffer.from(hkdfSync("sha256", key.key, key.salt, info, keyBytes));
}

/** Returns the key for the `mac` of a manifest. */
export function deriveManifestKey(key: StoreKey): Buffer {
  return deriveHkdfKey(key, "hivemind-sqlcipher manifest");
}

export interface Identity {
  /** `sqlcipher` is any possibly encrypted file. Only the right key distinguishes it from noise. */
  format: "absent" | "plaintext" | "sqlcipher" | "unknown";
  /** Only for an encrypted file without a plaintext header. */
  keyId?: string;
  /** Bytes. */
  size: number;
}

/**
 * Returns the format of the file at a path, without a key. `unknown` is no regular file, a file too
 * short for a database, or a text file of a length that no database has.
 *
 * @throws {@link StoreError} io - if the file cannot be read
 *
 * @example
 * ```ts
 * if ((await identify(path)).format === "plaintext") console.warn("not encrypted");
 * ```
 */
export async function identify(path: string): Promise<Identity> {
  const size = await readDatabaseSize(path);
  if (size === undefined) return { format: "absent", size: 0 };
  if (size < smallestPage) return { format: "unknown", size };
  await using connection = await Connection.open(path, { mode: "readonly" });
  const salt = await readSalt(connection);
  if (salt.equals(plaintextHeader)) {
    return { format: (await isPlaintext(path)) ? "plaintext" : "sqlcipher", size };
  }
  if (size % smallestPage !== 0 && /^[\t\n\r -~]*$/.test(salt.toString("latin1"))) {
    return { format: "unknown", size };
  }
  return { format: "sqlcipher", keyId: keyIdOf(salt), size };
}

/**
 * Returns whether plain SQLite reads a database that begins with SQLite's header. If not, SQLCipher
 * wrote it with a plaintext header: the first bytes are unencrypted, so that programs recognise the
 * file.
 *
 * Opens the file as immutable, because any other mode could leave sidecars.
 */
async function isPlaintext(path: string): Promise<boolean> {
  await using connection = await Connection.open(path, { mode: "readonly", immutable: true });
  try {
    await connection.get("SELECT count(*) FROM sqlite_schema");
  } catch (error) {
    // "not a database", or "unsupported file format" from an encrypted format number.
    if (isKind(error, "wrongPassphrase", "failed")) return false;
    return !isKind(error, "corrupted") || (await hasPossibleFreeList(connection));
  }
  return true;
}

/**
 * Returns whether a damaged file can have as many free pages as its header says. An encrypted
 * header is random, so one in fifty has a format number that SQLite supports, but hardly any a
 * possible number of free pages.
 */
async function hasPossibleFreeList(connection: Connection): Promise<boolean> {
  const size = (await readDatabaseSize(connection.path)) ?? 0;
  try {
    const row = await connection.get<{ freelist_count: number }>("PRAGMA freelist_count");
    const count = row?.freelist_count ?? 0;
    return count >= 0 && count < size / smallestPage;
  } catch (error) {
    // SQLite does not read the header of a truncated file.
    if (isKind(error, "corrupted")) return true;
    throw error;
  }
}

/**
 * Opens an encrypted store with a passphrase or a derived key. Tries a passphrase with format 4,
 * then with format 3. Writes nothing.
 *
 * @throws {@link StoreError} notFound - if there is no file
 * @throws {@link StoreError} refused - if it is not encrypted, or this build has no SQLCipher
 * @throws {@link StoreError} wrongPassphrase - also for any other kind of file
 * @throws {@link StoreError} corrupted - if the file is truncated
 * @throws {@link StoreError} inUse - if another connection locks it
 * @throws {@link StoreError} io - if the system fails
 */
export async function openEncrypted(
  path: string,
  secret: string | StoreKey,
  options: ConnectionOptions,
): Promise<OpenedStore> {
  const size = await readDatabaseSize(path);
  if (size === undefined) {
    throw new StoreError("notFound", `there is no store at ${path}`, {
      hint: "Name the store: --db PATH",
    });
  }
  if (size === 0) throw notADatabaseError(path);
  const connection = await Connection.open(path, options);
  try {
    const salt = await readSalt(connection);
    const hasHeader = salt.equals(plaintextHeader);
    if (hasHeader && !(secret instanceof StoreKey && secret.parameters?.plaintextHeaderSize)) {
      throw await plaintextHeaderError(path);
    }
    const key = await unlock(connection, secret, salt);
    await assertNotTruncated(connection, options);
    return { connection, key, keyId: keyIdOf(salt) };
  } catch (error) {
    await connection.close();
    throw error;
  }
}

/** Opens a file as `openEncrypted` does. SQLite locks nothing and creates no file next to it. */
export function openImmutable(path: string, secret: string | StoreKey): Promise<OpenedStore> {
  return openEncrypted(path, secret, { mode: "readonly", immutable: true });
}

/** Returns the error for opening a database with a key although it begins with SQLite's header. */
export async function plaintextHeaderError(path: string): Promise<StoreError> {
  if (await isPlaintext(path)) {
    return new StoreError("refused", `${path} is not encrypted`, {
      hint: "Encrypt it in place: hivemind-sqlcipher encrypt",
    });
  }
  const header = ["PRAGMA cipher_plaintext_header_size = 32;", `PRAGMA cipher_salt = "x'SALT'";`];
  return new StoreError(
    "refused",
    `${path} begins like a plaintext database and is not one: SQLCipher wrote it with a plaintext header, or it is damaged`,
    {
      hint: `Adopt it with the salt that the program which wrote it keeps: hivemind-sqlcipher init --adopt --cipher-settings plaintext_header_size=32,salt=SALT\nOr export it with the sqlcipher program, version 4:\n${exportCommands(path, header)}`,
    },
  );
}

/** Opens a database for writing, encrypted or not. */
export async function openDatabase(path: string, secret: Secret): Promise<Connection> {
  if (secret) return (await openEncrypted(path, secret, { mode: "readwrite" })).connection;
  return Connection.open(path, { mode: "readwrite" });
}

/**
 * Creates an empty encrypted database with mode 0600.
 *
 * @param secret - a passphrase, for a file with a new salt, or the key of the file
 * @throws {@link StoreError} refused - if the file exists, or this build has no SQLCipher
 * @throws {@link StoreError} io - if the system fails
 */
export async function createEncrypted(
  path: string,
  secret: string | StoreKey,
  cipherCompatibility: CipherCompatibility = 4,
): Promise<OpenedStore> {
  const key = secret instanceof StoreKey ? secret : await deriveNewKey(secret, cipherCompatibility);
  await using memory = await Connection.open(":memory:", { mode: "create" });
  await assertSqlcipher(memory);
  await createFile(path, "");
  const connection = await Connection.open(path, { mode: "readwrite" });
  try {
    await applyKey(connection, key);
    // The first transaction writes the first page with the salt.
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

/**
 * Returns a file's size in bytes: undefined if it does not exist, 0 for anything but a regular
 * file.
 */
async function readDatabaseSize(path: string): Promise<number | undefined> {
  const stats = await statIfExists(path);
  return stats?.isFile() === false ? 0 : stats?.size;
}

/**
 * Throws if SQLite is built without SQLCipher: it would ignore `PRAGMA key` and write plaintext.
 */
async function assertSqlcipher(connection: Connection): Promise<void> {
  const version = await connection.get("PRAGMA cipher_version");
  if (version === undefined) {
    throw new StoreError(
      "refused",
      "this installation's SQLite is built without SQLCipher, so it cannot encrypt",
      { hint: "Build it again: npm rebuild @journeyapps/sqlcipher" },
    );
  }
}

/**
 * Returns the file's first 16 bytes through SQLite's own descriptor. With a raw key set, SQLCipher
 * reads the salt without deriving or decrypting anything. Returns random bytes for a shorter file.
 */
export async function readSalt(connection: Connection): Promise<Buffer> {
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
    const isOwnSalt = secret.parameters?.plaintextHeaderSize || secret.salt.equals(salt);
    if (isOwnSalt && (await canOpen(connection, secret))) return secret;
    throw notADatabaseError(connection.path);
  }
  for (const cipherCompatibility of [4, 3] as const) {
    const key = await deriveKey(secret, salt, cipherCompatibility);
    if (await canOpen(connection, key)) return key;
  }
  throw notADatabaseError(connection.path);
}

/** Returns whether the first page decrypts with this key. */
export async function canOpen(connection: Connection, key: StoreKey): Promise<boolean> {
  await applyKey(connection, key);
  try {
    await connection.get("SELECT count(*) FROM sqlite_schema");
  } catch (error) {
    if (isKind(error, "wrongPassphrase")) return false;
    throw error;
  }
  connection.unlocked = true;
  return true;
}

async function applyKey(connection: Connection, key: StoreKey): Promise<void> {
  const raw = key.key.toString("hex") + key.salt.toString("hex");
  await connection.all(`PRAGMA key = "x'${raw}'"`);
  if (key.cipherCompatibility === 3) await connection.all("PRAGMA cipher_compatibility = 3");
  for (const pragma of key.parameters ? cipherPragmas(key.parameters) : []) {
    await connection.all(pragma);
  }
}

/**
 * Throws if the last page is incomplete. SQLite itself only notices missing pages.
 *
 * A crash during a checkpoint also leaves an incomplete page. In this case the page and all later
 * pages are in the log, which SQLite reads unless the file is immutable.
 */
export async function assertNotTruncated(
  connection: Connection,
  { immutable = false }: ConnectionOptions,
): Promise<void> {
  const row = await connection.get<{ cipher_page_size: string }>("PRAGMA cipher_page_size");
  const pageSize = Number(row?.cipher_page_size);
  const size = (await readDatabaseSize(connection.path)) ?? 0;
  if (size % pageSize === 0) return;
  const cutPage = Math.ceil(size / pageSize);
  if (!immutable && (await isInLog(connection.path, cutPage, pageSize))) return;
  throw new StoreError(
    "corrupted",
    `${connection.path} is truncated: its last page is incomplete`,
    {
      hint: "Restore the newest backup that verifies: hivemind-sqlcipher restore FILE",
    },
  );
}

/**
 * Returns whether the log has a page and all later pages. SQLite holds no lock on the log, so it
 * may be opened here.
 */
async function isInLog(path: string, first: number, pageSize: number): Promise<boolean> {
  await using log = await openIfExists(`${await realpath(path)}-wal`);
  const read = log && (await readWal(log));
  if (read === undefined || typeof read === "string") return false;
  const { pageSize: logged, databasePages } = read.position;
  if (logged !== pageSize || databasePages === undefined) return false;
  for (let page = first; page <= databasePages; page++) if (!read.pages.has(page)) return false;
  return true;
}

/**
 * Returns the error for a file of the format `unknown`, which names the kind of file found. Such a
 * file is not open in any connection, so this may read it.
 *
 * @param kind - of the error
 */
export async function unknownFormatError(
  path: string,
  kind: ErrorKind = "wrongPassphrase",
): Promise<StoreError> {
  const error = new StoreError(kind, `${path} is not a database`, {
    hint: "Name the database: a store with --db PATH, or a backup.",
  });
  return withFileKind(error, await recogniseFile(path), ["encrypted database", "database"]);
}

function notADatabaseError(path: string): StoreError {
  return new StoreError("wrongPassphrase", `${path}: wrong passphrase, or file is not a database`, {
    hint: `If the passphrase is right, the file may have other SQLCipher parameters: find them with hivemind-sqlcipher init --adopt --db ${shellQuote(path)}`,
  });
}
