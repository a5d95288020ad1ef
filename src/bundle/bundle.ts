/**
 * The passphrase bundle: what opens a store when its keyring is gone, locked by age (https://age-encryption.org/v1) to
 * the owner's recovery key, or under a passphrase of its own. One a key_id, `clients.<key_id>.bundle.age`, so a backup
 * names by its first bytes the bundle that opens it.
 *
 * A bundle that cannot be opened is found out too late. So what is written is proven: it is locked to one more
 * identity that exists in memory alone, read back from the disk, opened with that, and the passphrase in it must open
 * the store. (A passphrase bundle can have no second lock; it is opened with its own passphrase.) What was proven is
 * recorded beside the bundle (proof.ts).
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
import { hasCode, StoreError, systemError } from "../errors.js";
import { claimName, createFile, removeFile, replaceFile, stagedName } from "../fs/atomic.js";
import { sha256Hex } from "../fs/hash.js";
import { lstatIfExists } from "../fs/lstat.js";
import { readSmallFile } from "../fs/read-small.js";
import * as z from "../schema.js";
import { keyIdOf, openEncrypted, type StoreKey } from "../store/cipher.js";
import { howToOpen } from "./instructions.js";
import { parseIdentities, parseRecipient } from "./recovery-key.js";
import {
  createVerificationRecord,
  isSameVerification,
  readVerificationRecord,
  verificationRecordPath,
} from "./verification-record.js";

const format = "hivemind-sqlcipher-bundle";
const version = 1;
const armorHeader = "-----BEGIN AGE ENCRYPTED FILE-----";
/** A bundle has a few kilobytes; whatever is longer is something else. */
const longestBundle = 1024 * 1024;

const contentsSchema = z.object({
  format: z.literal(format),
  version: z.literal(version),
  key_id: z.string().check(z.regex(/^[0-9a-f]{16}$/)),
  passphrase: z.string().check(z.minLength(1)),
  cipher_compatibility: z.union([z.literal(3), z.literal(4)]),
  /** The store's path when the bundle was made. */
  database: z.string(),
  created_at: z.iso.datetime(),
  /** Lines of plain words, for a reader of the raw text. */
  how_to_open: z.array(z.string()),
});

/** What is inside a bundle. */
export type BundleContents = z.infer<typeof contentsSchema>;

/** A bundle that is known to open the store. */
export interface Bundle {
  readonly path: string;
  readonly keyId: string;
  /** Sorted; none for a passphrase bundle. */
  readonly recipients: string[];
  /** Whether it was there already. */
  readonly reused: boolean;
}

export interface BundleRequest {
  /** Where it goes; it must exist. */
  readonly folder: string;
  /** The file that the passphrase must open: the store, or what is staged to become it. */
  readonly storePath: string;
  /** The store's path to name inside, where `storePath` is only staged. */
  readonly database?: string | undefined;
  readonly passphrase: string;
  readonly key: StoreKey;
  /** `age1…`; not used for a passphrase bundle. */
  readonly recipients: readonly string[];
  /** Makes a passphrase bundle, which the recovery key does not open. */
  readonly bundlePassphrase?: string | undefined;
}

/** What opens a bundle: the text of an identity file, or the passphrase of a passphrase bundle. */
export type BundleOpener = { readonly identity: string } | { readonly passphrase: string };

/** What can be told of a bundle without opening it. */
export interface BundleDescription {
  readonly path: string;
  /** From its name; null if it has another one. */
  readonly key_id: string | null;
  readonly opens_with: "recovery key" | "bundle passphrase";
  /** Bytes. */
  readonly size: number;
  readonly sha256: string;
  /** What the proof record beside it says, unchecked: its seal is the store's key. */
  readonly proof: { readonly recipients: string[]; readonly matches: boolean } | null;
}

export function bundleName(keyId: string): string {
  return `clients.${keyId}.bundle.age`;
}

/**
 * The bundle for a store's key: the one in the folder if it is proven to hold, else a new one, proven now. One that does
 * not hold is kept, as `clients.<key_id>.bundle.superseded-<UTC>.age`.
 *
 * @throws StoreError `usage` without anything to lock it with, or for a recipient that does not parse;
 *   `wrongPassphrase` if the passphrase does not open the store; `io`; `corrupted` if the disk gives back something
 *   else than was written.
 */
export async function writeBundle(request: BundleRequest): Promise<Bundle> {
  const byPassphrase = request.bundlePassphrase !== undefined;
  const recipients = byPassphrase
    ? []
    : [...new Set(request.recipients.map(parseRecipient))].sort();
  if (request.bundlePassphrase === "")
    throw new StoreError("usage", "the bundle passphrase is empty");
  if (!byPassphrase && recipients.length === 0) {
    throw new StoreError("usage", "there is no recipient to lock the bundle to", {
      hint: "hivemind-sqlcipher bundle export --recipient age1… names one for good (age-keygen -o recovery-key.txt makes one)",
    });
  }
  const keyId = keyIdOf(request.key.salt);
  const path = join(request.folder, bundleName(keyId));
  await removeStagedBundles(request.folder, keyId);
  if (await holds(path, request, recipients)) return { path, keyId, recipients, reused: true };

  const staged = stagedName(path);
  const proving = await generateX25519Identity();
  const locked = await lock(contentsOf(request, keyId), request.bundlePassphrase, [
    ...recipients,
    await identityToRecipient(proving),
  ]);
  await createFile(staged, locked);
  try {
    const opener = byPassphrase
      ? { passphrase: request.bundlePassphrase ?? "" }
      : { identity: proving };
    await verifyOpens(staged, locked, opener, request);
    await supersede(path);
    await claimName(staged, path);
  } catch (error) {
    await rm(staged, { force: true });
    throw error;
  }
  await replaceFile(
    verificationRecordPath(path),
    `${JSON.stringify(createVerificationRecord(locked, recipients, request.key))}\n`,
  );
  return { path, keyId, recipients, reused: false };
}

/** Removes what a killed `writeBundle` left unfinished for this key. */
export async function removeStagedBundles(folder: string, keyId: string): Promise<void> {
  const prefix = `.${bundleName(keyId)}.`;
  try {
    for (const name of await readdir(folder)) {
      if (name.startsWith(prefix) && name.endsWith(".partial")) await rm(join(folder, name));
    }
  } catch (error) {
    if (hasCode(error, "ENOENT")) {
      throw new StoreError("io", `the bundle's folder ${folder} does not exist`, {
        hint: `is its disk mounted? If it is a new folder: mkdir -m 700 '${folder}'`,
      });
    }
    throw systemError(error, `cannot look into ${folder}`);
  }
}

/** Removes a key's bundle, and the record of its proof. @throws StoreError `io`. */
export async function removeBundle(folder: string, keyId: string): Promise<void> {
  const path = join(folder, bundleName(keyId));
  await removeFile(path);
  await removeFile(verificationRecordPath(path));
}

/**
 * Everything in a folder that belongs to a key's bundle: itself, the record of its proof, and superseded ones.
 *
 * @throws StoreError `io` if the folder cannot be read.
 */
export async function bundleFiles(folder: string, keyId: string): Promise<string[]> {
  const prefix = `clients.${keyId}.bundle.`;
  try {
    const names = await readdir(folder);
    return names
      .filter((name) => name.startsWith(prefix))
      .sort()
      .map((name) => join(folder, name));
  } catch (error) {
    throw systemError(error, `cannot look into ${folder}`);
  }
}

/**
 * Opens a bundle, armored or not.
 *
 * @throws StoreError `notFound`; `usage` for a key of the wrong kind; `wrongPassphrase` if it is not locked to this
 *   one; `corrupted` if it was cut off or altered, or is no bundle; `newerVersion`; `io`.
 */
export async function readBundle(path: string, opener: BundleOpener): Promise<BundleContents> {
  const { bytes, opensWith } = await readLocked(path);
  const decrypter = new Decrypter();
  if ("identity" in opener) {
    if (opensWith !== "recovery key") {
      throw new StoreError(
        "usage",
        `${path} opens with a bundle passphrase, not with a recovery key`,
        {
          hint: "--bundle-passphrase-file FILE",
        },
      );
    }
    for (const identity of parseIdentities(opener.identity)) decrypter.addIdentity(identity);
  } else {
    if (opensWith !== "bundle passphrase") {
      throw new StoreError("usage", `${path} opens with a recovery key, not with a passphrase`, {
        hint: "--identity FILE, with the AGE-SECRET-KEY-1… in it",
      });
    }
    decrypter.addPassphrase(opener.passphrase);
  }
  let text: string;
  try {
    text = await decrypter.decrypt(bytes, "text");
  } catch (error) {
    const message = error instanceof Error ? error.message : "";
    if (message.startsWith("no identity matched")) {
      throw new StoreError("wrongPassphrase", `${path} is not locked to this ${opensWith}`, {
        hint: "another bundle, or another key, belongs together with it",
      });
    }
    throw altered(path, error);
  }
  return parseContents(path, text);
}

/**
 * What can be told of a bundle without opening it.
 *
 * @throws StoreError `notFound`; `corrupted` if it is no age file; `io`.
 */
export async function describeBundle(path: string): Promise<BundleDescription> {
  return (await readBundleFile(path)).description;
}

/**
 * Whether the record beside a bundle is this store's own, so that the bundle is the one that was proven. What is described
 * is what anybody says who can write there.
 *
 * @throws StoreError as `describeBundle`.
 */
export async function isVerified(path: string, key: StoreKey): Promise<boolean> {
  const { file } = await readLocked(path);
  const proof = await readVerificationRecord(path);
  return (
    proof !== undefined &&
    isSameVerification(proof, createVerificationRecord(file, proof.recipients, key))
  );
}

/** The same as `describeBundle`, with the bundle itself, without armor. @throws as above. */
export async function readBundleFile(
  path: string,
): Promise<{ bytes: Uint8Array; description: BundleDescription }> {
  const { file, bytes, opensWith } = await readLocked(path);
  const sha256 = sha256Hex(file);
  const proof = await readVerificationRecord(path);
  const description: BundleDescription = {
    path,
    key_id: /^clients\.([0-9a-f]{16})\.bundle\./.exec(basename(path))?.[1] ?? null,
    opens_with: opensWith,
    size: file.length,
    sha256,
    proof: proof ? { recipients: proof.recipients, matches: proof.sha256 === sha256 } : null,
  };
  return { bytes, description };
}

function contentsOf(request: BundleRequest, keyId: string): BundleContents {
  const { passphrase, key, storePath, database } = request;
  return {
    format,
    version,
    key_id: keyId,
    passphrase,
    cipher_compatibility: key.cipherCompatibility,
    database: database ?? storePath,
    created_at: new Date().toISOString(),
    how_to_open: howToOpen(key.cipherCompatibility),
  };
}

async function lock(
  contents: BundleContents,
  bundlePassphrase: string | undefined,
  recipients: string[],
): Promise<Buffer> {
  const encrypter = new Encrypter();
  if (bundlePassphrase !== undefined) encrypter.setPassphrase(bundlePassphrase);
  else for (const recipient of recipients) encrypter.addRecipient(recipient);
  const locked = await encrypter.encrypt(`${JSON.stringify(contents, null, 2)}\n`);
  return Buffer.from(armor.encode(locked));
}

/** Reads the bundle back and opens the store with what is in it, as somebody would who has nothing else. */
async function verifyOpens(
  path: string,
  written: Buffer,
  opener: BundleOpener,
  request: BundleRequest,
): Promise<void> {
  const { file } = await readLocked(path);
  const contents = await readBundle(path, opener);
  if (!file.equals(written) || contents.passphrase !== request.passphrase) {
    throw new StoreError(
      "corrupted",
      `the disk of ${dirname(path)} gives back something else than was written`,
    );
  }
  await using opened = (
    await openEncrypted(request.storePath, contents.passphrase, { mode: "readonly" })
  ).connection;
  void opened;
}

/** Whether the bundle at `path` is the one that was proven for this very request. */
async function holds(path: string, request: BundleRequest, recipients: string[]): Promise<boolean> {
  const proof = await readVerificationRecord(path);
  if (!proof) return false;
  let file: Buffer;
  try {
    ({ file } = await readLocked(path));
  } catch (error) {
    if (error instanceof StoreError && (error.kind === "notFound" || error.kind === "corrupted"))
      return false;
    throw error;
  }
  if (!isSameVerification(proof, createVerificationRecord(file, recipients, request.key)))
    return false;
  if (request.bundlePassphrase === undefined) return true;
  // Which passphrase locks it is in no record: only trying tells.
  try {
    await readBundle(path, { passphrase: request.bundlePassphrase });
    return true;
  } catch (error) {
    if (error instanceof StoreError && error.kind !== "io") return false;
    throw error;
  }
}

/** Gives what is in the way a name that says when it was superseded. */
async function supersede(path: string): Promise<void> {
  if (!(await lstatIfExists(path))) return;
  const now = new Date().toISOString().replaceAll(":", "-").replace(".", "-");
  await claimName(path, path.replace(/\.age$/, `.superseded-${now}.age`));
}

interface Locked {
  /** As on the disk. */
  readonly file: Buffer;
  /** Without armor. */
  readonly bytes: Uint8Array;
  readonly opensWith: BundleDescription["opens_with"];
}

async function readLocked(path: string): Promise<Locked> {
  let file: Buffer;
  try {
    file = (await readSmallFile(path, longestBundle)).bytes;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR"))
      throw new StoreError("notFound", `there is no bundle ${path}`);
    throw systemError(error, `cannot read the bundle ${path}`);
  }
  let bytes: Uint8Array;
  try {
    bytes = file.toString("latin1").trimStart().startsWith(armorHeader)
      ? armor.decode(file.toString("latin1"))
      : file;
  } catch (error) {
    throw altered(path, error);
  }
  const header = Buffer.from(bytes).toString("latin1").split("\n--- ")[0] ?? "";
  if (!header.startsWith("age-encryption.org/v1\n")) {
    throw new StoreError("corrupted", `${path} is no bundle: it was not made by age`);
  }
  return {
    file,
    bytes,
    opensWith: header.includes("\n-> scrypt ") ? "bundle passphrase" : "recovery key",
  };
}

function parseContents(path: string, text: string): BundleContents {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new StoreError("corrupted", `${path} opens, but is no passphrase bundle`);
  }
  const head = z.object({ format: z.literal(format), version: z.int() }).safeParse(json);
  if (!head.success)
    throw new StoreError("corrupted", `${path} opens, but is no passphrase bundle`);
  if (head.data.version > version) {
    throw new StoreError(
      "newerVersion",
      `${path} was written by a newer version of hivemind-sqlcipher`,
      {
        hint: "install that one, or open it by hand: age -d shows its text",
      },
    );
  }
  const parsed = contentsSchema.safeParse(json);
  if (!parsed.success) {
    const field = parsed.error.issues[0]?.path.join(".") ?? "something";
    throw new StoreError("corrupted", `${path} opens, but ${field} in it is missing or wrong`);
  }
  return parsed.data;
}

function altered(path: string, cause: unknown): StoreError {
  return new StoreError("corrupted", `${path} was cut off or altered`, {
    hint: "take another copy of this bundle",
    cause,
  });
}
