/**
 * Verifies a backup as a restore does: the file matches its manifest, the passphrase opens it, and
 * every page is authentic under that passphrase.
 *
 * A backup is opened as immutable: SQLite locks nothing, creates no file next to it and changes no
 * byte of it.
 */
import { createHash, type Hash } from "node:crypto";
import { basename } from "node:path";
import type { ClientCounts } from "../client/client.js";
import { realPath } from "../config/paths.js";
import { addHint, isKind, StoreError } from "../errors.js";
import { recogniseFile } from "../fs/file-kind.js";
import { sha256File, statIfExists } from "../fs/read.js";
import { bundleName } from "../keys/bundle-name.js";
import { type KeptPassphrase, type PassphraseSource, readPassphrases } from "../keys/source.js";
import { noneOpensError } from "../keys/unlock.js";
import {
  type Identity,
  identify,
  type OpenedStore,
  openImmutable,
  plaintextHeaderError,
  type StoreKey,
  unknownFormatError,
} from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { findIntegrityErrors } from "../store/integrity.js";
import { findPageErrors, isReadByIntegrityCheck } from "../store/page-integrity.js";
import {
  isNamedBy,
  type Manifest,
  manifestPath,
  readBackupKeyIds,
  readManifest,
  verifyManifestMac,
} from "./manifest.js";

/**
 * The passphrase of a backup: the stored passphrases of its store, or a given passphrase, such as
 * from a bundle.
 */
export type BackupPassphrase =
  | { readonly source: PassphraseSource; readonly storePath: string }
  | { readonly passphrase: string };

export interface Check {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

export interface Verification {
  readonly path: string;
  readonly ok: boolean;
  readonly checks: readonly Check[];
  /** The checksum of the verified file, in hex. */
  readonly sha256: string;
  /** Absent if there is no readable manifest. */
  readonly manifest?: Manifest | undefined;
}

/** The contents of an encrypted copy. */
export interface Inspection {
  /** SQLite's messages about damage of the database's structure; empty if it is sound. */
  readonly faults: readonly string[];
  readonly schemaVersion: number;
  readonly clients: ClientCounts;
  readonly pageSize: number;
}

/** The errors of a damaged file: a damaged first page looks like a wrong passphrase. */
const damageKinds = ["corrupted", "wrongPassphrase"] as const;

/** The number of findings in a message: a damaged file may have a finding for every page. */
const maxQuoted = 3;

/**
 * Verifies a backup. A backup without a manifest is not ok, whatever the other checks find.
 *
 * @throws {@link StoreError} notFound - if the file does not exist
 * @throws {@link StoreError} refused - if the path is a directory or another special file
 * @throws {@link StoreError} corrupted - if the file is a manifest or a bundle
 * @throws {@link StoreError} newerVersion - if a later version of this program made it
 * @throws {@link StoreError} passphraseUnavailable - if the source has no passphrase
 * @throws {@link StoreError} wrongPassphrase - if no passphrase opens the file, although it is
 *   unchanged
 * @throws {@link StoreError} io - if a file cannot be read
 */
export async function verifyBackup(path: string, secret: BackupPassphrase): Promise<Verification> {
  return (await verifyContents(path, secret)).verification;
}

/** A verification, and the contents of a file that could be opened. */
interface OpenedVerification {
  readonly verification: Verification;
  readonly opened: VerifiedContents | undefined;
}

/**
 * Verifies a backup as `verifyBackup` does, or a private copy of it.
 *
 * @param makeCopy - copies the backup when its passphrase is known, and returns the path of the
 *   copy. Everything except the manifest is then verified in the copy, so the backup is read once,
 *   and other users of its directory cannot change what was verified.
 * @throws {@link StoreError} what `verifyBackup` and `makeCopy` throw
 */
export async function verifyContents(
  path: string,
  secret: BackupPassphrase,
  makeCopy?: (path: string) => Promise<string>,
): Promise<OpenedVerification> {
  const findings = await examine(path, secret, makeCopy);
  const checks = evaluate(findings);
  const { manifest, sha256, contents } = findings;
  return {
    verification: { path, ok: checks.every(({ ok }) => ok), checks, sha256, manifest },
    opened: contents instanceof StoreError ? undefined : contents,
  };
}

/** What was read of a backup, before it is judged. */
interface Findings extends Identity {
  readonly path: string;
  readonly size: number;
  readonly manifest: Manifest | undefined;
  /** Whether the manifest could be read. */
  readonly manifestCheck: Check;
  /** The error if the file does not open or is damaged; undefined if it is not encrypted. */
  readonly contents: VerifiedContents | StoreError | undefined;
  readonly sha256: string;
}

/** Reads a backup and its manifest. Damage is only a finding. */
async function examine(
  path: string,
  secret: BackupPassphrase,
  makeCopy: ((path: string) => Promise<string>) | undefined,
): Promise<Findings> {
  const size = await readBackupSize(path);
  const { manifest, check: manifestCheck } = await checkManifest(path);
  const identity = await identify(path);
  if (identity.format === "unknown") await assertNotAnotherKind(path);
  const contents =
    identity.format === "sqlcipher"
      ? await examineContents(path, secret, makeCopy)
      : { contents: undefined, sha256: await sha256File(path) };
  return { ...identity, path, size, manifest, manifestCheck, ...contents };
}

async function examineContents(
  path: string,
  secret: BackupPassphrase,
  makeCopy: ((path: string) => Promise<string>) | undefined,
): Promise<Pick<Findings, "contents" | "sha256">> {
  const unlocked = await unlockBackup(path, secret).catch(toDamage);
  if (unlocked instanceof StoreError) {
    return { contents: unlocked, sha256: await sha256File(path) };
  }
  const { key, passphrase } = unlocked;
  const verifiedPath = makeCopy ? await makeCopy(path) : path;
  const hash = createHash("sha256");
  const inspected = await openImmutable(verifiedPath, key)
    .then((opened) => inspectPages(opened, hash))
    .catch(toDamage);
  if (inspected instanceof StoreError) {
    return { contents: inspected, sha256: await sha256File(verifiedPath) };
  }
  return { contents: { ...inspected, path: verifiedPath, passphrase }, sha256: hash.digest("hex") };
}

/** Returns the error of a damaged file, and throws any other error. */
function toDamage(error: unknown): StoreError {
  if (isKind(error, ...damageKinds)) return error;
  throw error;
}

/**
 * Checks the findings against each other.
 *
 * @throws {@link StoreError} wrongPassphrase - if no passphrase opens the file, although it is
 *   unchanged
 */
function evaluate(findings: Findings): Check[] {
  const { format, keyId = "", manifest, contents } = findings;
  const file = checkFile(findings);
  const isUnchanged = file.every(({ ok }) => ok);
  // A file that differs from its manifest fails the check "opens". An unchanged file is not
  // damaged, so the passphrase that was tried is wrong.
  if (isUnchanged && isKind(contents, "wrongPassphrase")) throw contents;
  const isEncrypted = contents !== undefined;
  const encrypted = check("encrypted", isEncrypted, "SQLCipher", `${format}, not SQLCipher`);
  if (!isEncrypted) return [...file, encrypted];
  const key = manifest ? [compare("key_id", keyId, manifest.key_id)] : [];
  return [...file, encrypted, ...key, ...checkContents(contents, manifest)];
}

function checkFile({ path, size, sha256, manifest, manifestCheck }: Findings): Check[] {
  if (!manifest) return [manifestCheck];
  const file = basename(path);
  return [
    manifestCheck,
    compare("file", isNamedBy(file, manifest) ? manifest.file : file, manifest.file),
    compare("size", size, manifest.size),
    compare("sha256", sha256, manifest.sha256),
  ];
}

function checkContents(
  contents: VerifiedContents | StoreError,
  manifest: Manifest | undefined,
): Check[] {
  if (contents instanceof StoreError) return [check("opens", false, "", contents.message)];
  const { key, badPages, inspection } = contents;
  return [
    check("opens", true, `with its passphrase, format ${key.cipherCompatibility}`, ""),
    ...(manifest ? [checkMac(manifest, key)] : []),
    check("pages", badPages.length === 0, "every page is authentic", quote(badPages)),
    ...checkDatabase(inspection, manifest),
  ];
}

function checkMac(manifest: Manifest, key: StoreKey): Check {
  const isSigned = verifyManifestMac(manifest, key);
  return check("mac", isSigned, "the manifest is unchanged", "the manifest was altered");
}

function checkDatabase(
  inspection: Inspection | StoreError,
  manifest: Manifest | undefined,
): Check[] {
  if (inspection instanceof StoreError) return [check("structure", false, "", inspection.message)];
  const { faults, clients, schemaVersion } = inspection;
  const structure = check("structure", faults.length === 0, "sound", quote(faults));
  const counts = (n: ClientCounts) => `${n.active} active, ${n.revoked} revoked`;
  if (!manifest) return [structure, check("clients", true, counts(clients), "")];
  return [
    structure,
    compare("clients", counts(clients), counts(manifest.clients)),
    compare("schema", schemaVersion, manifest.schema_version),
  ];
}

function check(name: string, ok: boolean, good: string, bad: string): Check {
  return { name, ok, detail: ok ? good : bad };
}

function compare(name: string, found: string | number, expected: string | number): Check {
  return check(name, found === expected, `${found}`, `${found}, but ${expected} in the manifest`);
}

/** Returns each failed check and its detail, for a message. */
export function describeFailedChecks(checks: readonly Check[]): string[] {
  return checks.filter(({ ok }) => !ok).map(({ name, detail }) => `${name}: ${detail}`);
}

/** Throws if the file is a manifest or a bundle instead of a backup. Damage is only a finding. */
async function assertNotAnotherKind(path: string): Promise<void> {
  const kind = await recogniseFile(path);
  if (kind === undefined || kind === "empty" || kind === "passphrase") return;
  throw await unknownFormatError(path, "corrupted");
}

/**
 * Returns the first passphrase that opens a backup, and the key.
 *
 * @throws {@link StoreError} wrongPassphrase - if no passphrase opens it
 * @throws {@link StoreError} passphraseUnavailable - if the source has no passphrase
 * @throws {@link StoreError} what `openEncrypted` throws
 */
export async function unlockBackup(
  path: string,
  secret: BackupPassphrase,
): Promise<{ readonly key: StoreKey; readonly passphrase: string }> {
  const open = async (passphrase: string) => {
    const { connection, key } = await openImmutable(path, passphrase);
    await connection.close();
    return { key, passphrase };
  };
  if ("passphrase" in secret) return open(secret.passphrase);
  const { source } = secret;
  const storePath = await realPath(secret.storePath);
  const identity = await identify(path);
  if (identity.format === "sqlcipher" && identity.keyId === undefined) {
    throw await plaintextHeaderError(path);
  }
  const keyId = (await readBackupKeyIds(path)).at(-1);
  const bundle = keyId === undefined ? "FILE" : bundleName(keyId);
  const withBundle = `Open it with its bundle and the recovery key: --bundle ${bundle} --identity FILE`;
  const tried: KeptPassphrase[] = [];
  try {
    for await (const kept of readPassphrases(source, storePath, keyId)) {
      try {
        return await open(kept.passphrase);
      } catch (error) {
        if (!isKind(error, "wrongPassphrase")) throw error;
        tried.push(kept);
      }
    }
  } catch (error) {
    if (!isKind(error, "passphraseUnavailable")) throw error;
    throw addHint(error, withBundle);
  }
  throw noneOpensError(path, source, tried, { keyring: withBundle, elsewhere: withBundle });
}

/**
 * Reads an opened copy as a database, and closes it. `findPageErrors` checks that its pages are
 * authentic.
 *
 * @throws {@link StoreError} newerVersion - if this version does not know the schema
 * @throws {@link StoreError} corrupted - if the database cannot be read
 */
async function inspect(opened: OpenedStore): Promise<Inspection> {
  await using store = await ClientStore.from(opened);
  const { connection } = opened;
  const faults = await findIntegrityErrors(connection);
  const row = await connection.get<{ cipher_page_size: string }>("PRAGMA cipher_page_size");
  return {
    faults,
    schemaVersion: store.schemaVersion,
    clients: await store.counts(),
    pageSize: Number(row?.cipher_page_size),
  };
}

interface InspectedCopy {
  readonly key: StoreKey;
  readonly badPages: readonly string[];
  /** The error if the copy is too damaged to be read as a database. */
  readonly inspection: Inspection | StoreError;
}

interface VerifiedContents extends InspectedCopy {
  /** The verified file: the backup, or its copy. */
  readonly path: string;
  readonly passphrase: string;
}

/**
 * Checks every page of an opened copy. At the same time SQLite, in its own thread, reads the copy
 * as a database. Closes the copy.
 *
 * SQLCipher authenticates the pages that SQLite reads, which are all pages if there are no free
 * pages. If SQLite finds an error, each page is checked separately, to name the bad pages.
 */
async function inspectPages(opened: OpenedStore, hash?: Hash): Promise<InspectedCopy> {
  const { connection, key } = opened;
  const { path } = connection;
  const onlyLockPage = await isReadByIntegrityCheck(connection).catch(() => false);
  const [pages, inspection] = await Promise.allSettled([
    findPageErrors(path, key, { hash, onlyLockPage }),
    inspect(opened),
  ]);
  if (pages.status === "rejected") throw pages.reason;
  const isSound = inspection.status === "fulfilled" && inspection.value.faults.length === 0;
  const badPages = onlyLockPage && !isSound ? await findPageErrors(path, key) : pages.value;
  if (inspection.status === "fulfilled") return { key, badPages, inspection: inspection.value };
  const error: unknown = inspection.reason;
  if (!isKind(error, "corrupted")) throw error;
  return { key, badPages, inspection: error };
}

/**
 * Checks every page of a new copy and reads it as a database. Closes the copy.
 *
 * @param hash - is updated with the bytes that were checked
 * @throws {@link StoreError} corrupted - if the copy is damaged
 * @throws {@link StoreError} newerVersion - if this version does not know the schema
 */
export async function verifyCopy(opened: OpenedStore, hash?: Hash): Promise<Inspection> {
  const { badPages, inspection } = await inspectPages(opened, hash);
  const isReadable = !(inspection instanceof StoreError);
  const [fault] = [...badPages, ...(isReadable ? inspection.faults : [inspection.message])];
  if (isReadable && fault === undefined) return inspection;
  throw new StoreError(
    "corrupted",
    `the copy is damaged, and so may be the file that it was made from: ${fault}`,
    { hint: "Keep the earlier backups, which are unchanged, until the cause is known." },
  );
}

/** Reads a backup's manifest. It is undefined if it is missing or damaged. */
async function checkManifest(
  path: string,
): Promise<{ readonly manifest: Manifest | undefined; readonly check: Check }> {
  try {
    const manifest = await readManifest(manifestPath(path));
    return { manifest, check: check("manifest", true, `made ${manifest.created_at}`, "") };
  } catch (error) {
    if (!isKind(error, "notFound", "corrupted")) throw error;
    return { manifest: undefined, check: check("manifest", false, "", error.message) };
  }
}

async function readBackupSize(path: string): Promise<number> {
  const stats = await statIfExists(path);
  if (stats?.isFile()) return stats.size;
  if (stats) throw new StoreError("refused", `${path} is not a file`);
  throw new StoreError("notFound", `no such file or directory: ${path}`, {
    hint: "Name the .db file of a backup. List the backups with hivemind-sqlcipher backups.",
  });
}

function quote(findings: readonly string[]): string {
  const more = findings.length > maxQuoted ? ` and ${findings.length - maxQuoted} more` : "";
  return findings.slice(0, maxQuoted).join("; ") + more;
}
