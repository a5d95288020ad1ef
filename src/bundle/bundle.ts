/**
 * The passphrase bundle, which opens a store after its keyring is lost.
 *
 * A bundle is encrypted with age (https://age-encryption.org/v1) to the owner's recovery key, or
 * with a passphrase of its own. Its name, `clients.<key_id>.bundle.age`, contains the key_id: the
 * first 8 bytes, in hex, of the store's file and of its backups. So a backup names its bundle.
 *
 * A broken bundle would be noticed only when it is needed, so each new bundle is verified. It is
 * encrypted to a temporary identity in memory, too, read back from disk and decrypted with this
 * identity, and its passphrase must open the store. A bundle with a passphrase cannot have further
 * recipients, so it is verified with its passphrase. A verification record next to the bundle
 * (verification-record.ts) states that the bundle was verified.
 */
import { readdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import {
  armor,
  Decrypter,
  Encrypter,
  generateX25519Identity,
  identityToRecipient,
} from "age-encryption";
import { realPath } from "../config/paths.js";
import { readStoreId, storeIdSchema } from "../config/store-id.js";
import { hasCode, isKind, StoreError, systemError } from "../errors.js";
import {
  createFile,
  moveFile,
  removeFile,
  removePartials,
  replaceFile,
  stagedName,
  syncDirectory,
} from "../fs/atomic.js";
import { linkOrCopy } from "../fs/copy.js";
import { recogniseContent, withFileKind } from "../fs/file-kind.js";
import { lstatIfExists, readSmallFile, sha256Hex } from "../fs/read.js";
import { bundleName } from "../keys/bundle-name.js";
import * as z from "../schema.js";
import { keyIdOf, openEncrypted, type StoreKey } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import { formatInstructions } from "./instructions.js";
import { parseIdentities, parseRecipient } from "./recovery-key.js";
import {
  createVerificationRecord,
  isSameVerification,
  readVerificationRecord,
  type VerificationRecord,
  verificationRecordPath,
} from "./verification-record.js";

const format = "hivemind-sqlcipher-bundle";
const version = 1;
const armorHeader = "-----BEGIN AGE ENCRYPTED FILE-----";
/** A bundle has a few kilobytes, so a longer file is not a bundle. */
const maxBundleBytes = 1024 * 1024;

const contentsSchema = z.object({
  format: z.literal(format),
  version: z.literal(version),
  key_id: z.string().check(z.regex(/^[0-9a-f]{16}$/)),
  passphrase: z.string().check(z.minLength(1)),
  cipher_compatibility: z.union([z.literal(3), z.literal(4)]),
  /** The store's path when the bundle was created. */
  database: z.string(),
  created_at: z.iso.datetime(),
  /** The id of the store, if it has one. */
  store_id: z.optional(storeIdSchema),
  /** Instructions for a reader of the decrypted text, line by line. */
  how_to_open: z.array(z.string()),
});

/** The contents of a bundle. */
export type BundleContents = z.infer<typeof contentsSchema>;

/** A bundle that was verified to open the store. */
export interface Bundle {
  readonly path: string;
  readonly keyId: string;
  /** Sorted; empty for a bundle with a passphrase. */
  readonly recipients: string[];
  /** Whether the bundle existed already. */
  readonly reused: boolean;
}

/** A bundle in the result of an operation. */
export type BundleReport = Omit<Bundle, "reused">;

export interface BundleRequest {
  /** The directory for the bundle; must exist. */
  readonly directory: string;
  /** The file that the passphrase must open: the store, or the staged file for its replacement. */
  readonly storePath: string;
  /** The store's path to record in the bundle, if `storePath` is a staged file. */
  readonly database?: string | undefined;
  /** Default: the id in this machine's record of the store. */
  readonly storeId?: string | undefined;
  readonly passphrase: string;
  readonly key: StoreKey;
  /** `age1…`; ignored with `bundlePassphrase`. */
  readonly recipients: readonly string[];
  /** Encrypts with this passphrase instead. The recovery key does not open such a bundle. */
  readonly bundlePassphrase?: string | undefined;
}

/** Opens a bundle: the text of an identity file, or the bundle's own passphrase. */
export type BundleOpener =
  | { readonly identity: string }
  | {
      readonly passphrase: string;
      /** Further passphrases to try. */
      readonly alternatives?: readonly string[];
    };

/** The description of a bundle without decrypting it. */
export interface BundleDescription {
  readonly path: string;
  /** From the file name; null for any other name. */
  readonly keyId: string | null;
  readonly opensWith: "recovery key" | "bundle passphrase";
  /** Bytes. */
  readonly size: number;
  readonly sha256: string;
  /**
   * From the verification record, whose MAC is not checked, because the check needs the store's
   * key. `matches` is whether the record is of this bundle. Null without a readable record.
   */
  readonly proof: { readonly recipients: string[]; readonly matches: boolean } | null;
}

/**
 * Returns the name that a bundle or its verification record gets when another file takes its name.
 *
 * @param file - the name or path
 */
export function supersededName(file: string): string {
  const now = new Date().toISOString().replaceAll(":", "-").replace(".", "-");
  return file.replace(/\.bundle(?=\.age(\.proof\.json)?$)/, `.bundle.superseded-${now}`);
}

/**
 * Returns the recipients of a bundle, sorted; none for a bundle with a passphrase.
 *
 * @throws {@link StoreError} usage - without recipient and passphrase, or for a malformed recipient
 */
export function resolveRecipients({
  recipients,
  bundlePassphrase,
}: Pick<BundleRequest, "recipients" | "bundlePassphrase">): string[] {
  if (bundlePassphrase === "") throw new StoreError("usage", "the bundle passphrase is empty");
  if (bundlePassphrase !== undefined) return [];
  if (recipients.length === 0) {
    throw new StoreError("usage", "no recipient to encrypt the bundle to", {
      hint: "Name a recipient, for this and later bundles: hivemind-sqlcipher bundle export --recipient age1… (age-keygen -o recovery-key.txt generates a key).",
    });
  }
  return [...new Set(recipients.map(parseRecipient))].sort();
}

/**
 * Returns the verified bundle of a store's key: the existing bundle if it was verified for the same
 * request, else a new bundle. Any other existing bundle stays as
 * `clients.<key_id>.bundle.superseded-<UTC>.age`.
 *
 * @throws {@link StoreError} usage - without recipient and passphrase, or for a malformed recipient
 * @throws {@link StoreError} wrongPassphrase - if the passphrase does not open the store
 * @throws {@link StoreError} corrupted - if the disk returns other bytes than were written
 * @throws {@link StoreError} io - if the bundle cannot be written
 */
export async function writeBundle(request: BundleRequest): Promise<Bundle> {
  const recipients = resolveRecipients(request);
  const keyId = keyIdOf(request.key.salt);
  const path = join(request.directory, bundleName(keyId));
  if (!(await lstatIfExists(request.directory))) {
    throw new StoreError("io", `the bundle directory ${request.directory} does not exist`, {
      hint: `Mount its disk, or create a new directory: mkdir -p -m 700 ${shellQuote(request.directory)}`,
    });
  }
  await removeStagedBundles(request.directory, keyId);
  if (await isVerifiedFor(path, request, recipients)) {
    return { path, keyId, recipients, reused: true };
  }
  const staged = stagedName(path);
  const verifier = await generateX25519Identity();
  const encrypted = await encrypt(await buildContents(request, keyId), request.bundlePassphrase, [
    ...recipients,
    await identityToRecipient(verifier),
  ]);
  await createFile(staged, encrypted);
  try {
    const opener =
      request.bundlePassphrase !== undefined
        ? { passphrase: request.bundlePassphrase }
        : { identity: verifier };
    await verifyWritten(staged, encrypted, opener, request);
    if (await lstatIfExists(path)) await linkOrCopy(path, supersededName(path));
    await nameBundle(staged, path, createVerificationRecord(encrypted, recipients, request.key));
  } catch (error) {
    await rm(staged, { force: true });
    throw error;
  }
  return { path, keyId, recipients, reused: false };
}

export function bundleReport({ path, keyId, recipients }: Bundle): BundleReport {
  return { path, keyId, recipients };
}

/** Removes the staged files of a killed `writeBundle` for this key. */
export async function removeStagedBundles(directory: string, keyId: string): Promise<void> {
  const path = join(directory, bundleName(keyId));
  await removePartials(path);
  await removePartials(verificationRecordPath(path));
}

export async function removeBundle(directory: string, keyId: string): Promise<void> {
  const path = join(directory, bundleName(keyId));
  await removeFile(path);
  await removeFile(verificationRecordPath(path));
}

/**
 * Returns the files of a key's bundle: the bundle, its verification record, and superseded bundles.
 *
 * @throws {@link StoreError} io - if the directory cannot be read
 */
export async function listBundleFiles(directory: string, keyId: string): Promise<string[]> {
  const prefix = `clients.${keyId}.bundle.`;
  try {
    const names = await readdir(directory);
    return names
      .filter((name) => name.startsWith(prefix))
      .sort()
      .map((name) => join(directory, name));
  } catch (error) {
    throw systemError(error, `cannot read the directory ${directory}`);
  }
}

/**
 * Decrypts a bundle, armored or binary.
 *
 * @throws {@link StoreError} notFound - if there is no file at the path
 * @throws {@link StoreError} usage - for an opener of the wrong kind, or an identity file without a
 *   usable identity
 * @throws {@link StoreError} wrongPassphrase - if it is encrypted to another key or passphrase
 * @throws {@link StoreError} corrupted - if it is truncated or altered, or not a bundle
 * @throws {@link StoreError} newerVersion - if a newer version wrote it
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function readBundle(path: string, opener: BundleOpener): Promise<BundleContents> {
  const { bytes, opensWith } = await readEncrypted(path);
  const decrypter = new Decrypter();
  if (opensWith !== ("identity" in opener ? "recovery key" : "bundle passphrase")) {
    throw otherOpenerError(path, opensWith);
  }
  if ("identity" in opener) {
    for (const identity of parseIdentities(opener.identity).usable) decrypter.addIdentity(identity);
  } else {
    for (const passphrase of [opener.passphrase, ...(opener.alternatives ?? [])]) {
      decrypter.addPassphrase(passphrase);
    }
  }
  let text: string;
  try {
    text = await decrypter.decrypt(bytes, "text");
  } catch (error) {
    const message = error instanceof Error ? error.message : "";
    if (message.startsWith("no identity matched")) {
      throw new StoreError("wrongPassphrase", `this ${opensWith} does not open ${path}`, {
        hint: `Use the ${opensWith} of this bundle, or another bundle.`,
      });
    }
    throw alteredError(path, error);
  }
  return parseContents(path, text);
}

/**
 * Describes a bundle without decrypting it.
 *
 * @throws {@link StoreError} notFound - if there is no file at the path
 * @throws {@link StoreError} corrupted - if it is not an age file
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function describeBundle(path: string): Promise<BundleDescription> {
  return (await readBundleFile(path)).description;
}

/**
 * Returns whether the bundle was verified for this store. Unlike `describeBundle`, checks the
 * record's MAC, so write access to the directory is not enough to forge the record.
 *
 * @param recipients - sorted; default: any recipients
 * @throws {@link StoreError} as `describeBundle`
 */
export async function isVerified(
  path: string,
  key: StoreKey,
  recipients?: string[],
): Promise<boolean> {
  const record = await readVerificationRecord(path);
  if (record === undefined) return false;
  const { file } = await readEncrypted(path);
  const expected = createVerificationRecord(file, recipients ?? record.recipients, key);
  return isSameVerification(record, expected);
}

/**
 * Returns a bundle's bytes, without armor, and its description.
 *
 * @throws {@link StoreError} as `describeBundle`
 */
export async function readBundleFile(
  path: string,
): Promise<{ bytes: Uint8Array; description: BundleDescription }> {
  const { file, bytes, opensWith } = await readEncrypted(path);
  const sha256 = sha256Hex(file);
  const record = await readVerificationRecord(path);
  const description: BundleDescription = {
    path,
    keyId: /^clients\.([0-9a-f]{16})\.bundle\./.exec(basename(path))?.[1] ?? null,
    opensWith,
    size: file.length,
    sha256,
    proof: record ? { recipients: record.recipients, matches: record.sha256 === sha256 } : null,
  };
  return { bytes, description };
}

async function buildContents(request: BundleRequest, keyId: string): Promise<BundleContents> {
  const { passphrase, key } = request;
  const database = request.database ?? (await realPath(request.storePath));
  const storeId = request.storeId ?? (await readStoreId(database))?.id;
  return {
    format,
    version,
    key_id: keyId,
    passphrase,
    cipher_compatibility: key.cipherCompatibility,
    database,
    created_at: new Date().toISOString(),
    ...(storeId !== undefined && { store_id: storeId }),
    how_to_open: formatInstructions(
      key.cipherCompatibility,
      request.bundlePassphrase === undefined ? "recovery key" : "bundle passphrase",
    ),
  };
}

async function encrypt(
  contents: BundleContents,
  bundlePassphrase: string | undefined,
  recipients: string[],
): Promise<Buffer> {
  const encrypter = new Encrypter();
  if (bundlePassphrase !== undefined) encrypter.setPassphrase(bundlePassphrase);
  else for (const recipient of recipients) encrypter.addRecipient(recipient);
  const encrypted = await encrypter.encrypt(`${JSON.stringify(contents, null, 2)}\n`);
  return Buffer.from(armor.encode(encrypted));
}

/** Reads the bundle back from disk and opens the store with its passphrase. */
async function verifyWritten(
  path: string,
  written: Buffer,
  opener: BundleOpener,
  request: BundleRequest,
): Promise<void> {
  const { file } = await readEncrypted(path);
  const contents = await readBundle(path, opener);
  if (!file.equals(written) || contents.passphrase !== request.passphrase) {
    throw new StoreError(
      "corrupted",
      `the disk of ${dirname(path)} returns other bytes than were written`,
    );
  }
  await using opened = (
    await openEncrypted(request.storePath, contents.passphrase, { mode: "readonly" })
  ).connection;
  void opened;
}

/** Returns whether the bundle at `path` was verified for the same request. */
async function isVerifiedFor(
  path: string,
  request: BundleRequest,
  recipients: string[],
): Promise<boolean> {
  try {
    if (!(await isVerified(path, request.key, recipients))) return false;
  } catch (error) {
    if (isKind(error, "notFound", "corrupted")) return false;
    throw error;
  }
  if (request.bundlePassphrase === undefined) return true;
  // The record does not identify the passphrase, so decrypting is the only test.
  try {
    await readBundle(path, { passphrase: request.bundlePassphrase });
    return true;
  } catch (error) {
    if (error instanceof StoreError && error.kind !== "io") return false;
    throw error;
  }
}

/**
 * Gives a verified bundle its name, and replaces the earlier bundle in one step. Writes the record
 * first: after a failure, `planRecipients` reads from the record whether the bundle is encrypted to
 * the new recovery key.
 */
async function nameBundle(staged: string, path: string, record: VerificationRecord): Promise<void> {
  const recordPath = verificationRecordPath(path);
  await replaceFile(recordPath, `${JSON.stringify(record)}\n`);
  try {
    await moveFile(staged, path);
  } catch (error) {
    await rm(recordPath, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}

interface EncryptedBundle {
  /** The bytes on disk. */
  readonly file: Buffer;
  /** The bytes without armor. */
  readonly bytes: Uint8Array;
  readonly opensWith: BundleDescription["opensWith"];
}

async function readEncrypted(path: string): Promise<EncryptedBundle> {
  let file: Buffer;
  try {
    file = (await readSmallFile(path, maxBundleBytes)).bytes;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR"))
      throw new StoreError("notFound", `no such file: the bundle ${path}`);
    throw systemError(error, `cannot read the bundle ${path}`);
  }
  let bytes: Uint8Array;
  try {
    bytes = file.toString("latin1").trimStart().startsWith(armorHeader)
      ? armor.decode(file.toString("latin1"))
      : file;
  } catch (error) {
    throw alteredError(path, error);
  }
  const header = Buffer.from(bytes).toString("latin1").split("\n--- ")[0] ?? "";
  if (!header.startsWith("age-encryption.org/v1\n")) {
    const error = new StoreError("corrupted", `${path} is not a bundle: it is not an age file`);
    throw withFileKind(error, recogniseContent(file), []);
  }
  return {
    file,
    bytes,
    opensWith: header.includes("\n-> scrypt ") ? "bundle passphrase" : "recovery key",
  };
}

function parseContents(path: string, text: string): BundleContents {
  const json = z.parseJson(text);
  const head = z.object({ format: z.literal(format), version: z.int() }).safeParse(json);
  if (!head.success) {
    const error = new StoreError("corrupted", `${path} decrypts, but is not a passphrase bundle`);
    throw withFileKind(error, recogniseContent(Buffer.from(text)), ["decrypted bundle"]);
  }
  if (head.data.version > version) {
    throw new StoreError(
      "newerVersion",
      `${path} was written by a newer version of hivemind-sqlcipher`,
      {
        hint: "Install the newer version, or decrypt the bundle with age -d.",
      },
    );
  }
  const parsed = contentsSchema.safeParse(json);
  if (!parsed.success) {
    const field = parsed.error.issues[0]?.path.join(".") ?? "a field";
    throw new StoreError("corrupted", `${path} decrypts, but ${field} in it is missing or invalid`);
  }
  return parsed.data;
}

function otherOpenerError(path: string, opensWith: BundleDescription["opensWith"]): StoreError {
  if (opensWith === "recovery key") {
    return new StoreError("usage", `${path} opens with a recovery key, not with a passphrase`, {
      hint: "Name the file that contains the AGE-SECRET-KEY-1…: --identity FILE",
    });
  }
  return new StoreError(
    "usage",
    `${path} opens with a bundle passphrase, not with a recovery key`,
    { hint: "Name the file that contains its passphrase: --bundle-passphrase-file FILE" },
  );
}

function alteredError(path: string, cause: unknown): StoreError {
  return new StoreError("corrupted", `${path} is truncated or altered`, {
    hint: "Use another copy of this bundle.",
    cause,
  });
}
