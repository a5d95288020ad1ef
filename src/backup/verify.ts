/**
 * Checking a backup as a restore would: that it is what its manifest says, that the passphrase opens it, and that every
 * page of it is what was written with that passphrase.
 *
 * A backup is opened as immutable: nothing is locked, nothing is left beside it, not one byte of it changes.
 */
import { basename } from "node:path";
import { StoreError } from "../errors.js";
import { sha256File, statIfExists } from "../fs/read.js";
import { type KeptPassphrase, type PassphraseSource, readPassphrases } from "../keys/source.js";
import { noneOpens } from "../keys/unlock.js";
import { identify, type OpenedStore, openEncrypted, type StoreKey } from "../store/cipher.js";
import { ClientStore, integrityErrors } from "../store/client-store.js";
import { pageErrors } from "../store/page-integrity.js";
import { type Manifest, manifestPath, readManifest, verifyManifestMac } from "./manifest.js";

/** Where a backup's passphrase comes from: what is kept for its store, or one that is known, as from a bundle. */
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
  /** Of the file that the checks were made of, in hex. */
  readonly sha256: string;
  /** What they were made against; absent if there is none that can be read. */
  readonly manifest?: Manifest | undefined;
}

/** What was found in an encrypted copy. */
export interface Inspection {
  /** What is wrong with the database's structure, in SQLite's words. */
  readonly faults: readonly string[];
  readonly schemaVersion: number;
  readonly clients: { readonly active: number; readonly revoked: number };
  readonly pageSize: number;
}

/** How many findings are quoted: a damaged file has one for every page. */
const quoted = 3;

/**
 * Checks a backup against its manifest and itself. Without a manifest it is not ok, whatever else holds.
 *
 * @throws StoreError `notFound` if there is no such file; `newerVersion` if a newer version made it;
 *   `passphraseUnavailable`; `wrongPassphrase` if the file is as it was made but the passphrase is another's; `io`.
 */
export async function verifyBackup(path: string, secret: BackupPassphrase): Promise<Verification> {
  const size = await backupSize(path);
  const checks: Check[] = [];
  const check = (name: string, ok: boolean, good: string, bad: string) => {
    checks.push({ name, ok, detail: ok ? good : bad });
    return ok;
  };
  const compare = (name: string, found: string | number, expected: string | number) =>
    check(name, found === expected, `${found}`, `${found}, but the manifest says ${expected}`);

  const manifest = await manifestOf(path, checks);
  const { format, keyId } = await identify(path);
  // While its pages are looked at.
  const summing = sha256File(path);
  summing.catch(() => undefined);
  const [seen] =
    format === "sqlcipher" ? await Promise.allSettled([openAndInspect(path, secret)]) : [];
  const sha256 = await summing;
  const verified = () => ({ path, ok: checks.every(({ ok }) => ok), checks, sha256, manifest });
  if (manifest) {
    compare("file", basename(path), manifest.file);
    compare("size", size, manifest.size);
    compare("sha256", sha256, manifest.sha256);
  }
  const asMade = checks.every(({ ok }) => ok);
  check("encrypted", seen !== undefined, "SQLCipher", `${format}, not SQLCipher`);
  if (seen === undefined) return verified();
  if (manifest) compare("key_id", keyId ?? "", manifest.key_id);

  if (seen.status === "rejected") {
    const error = seen.reason;
    // A file that is as it was made opens with its own passphrase: this one is another's.
    const isDamage =
      error instanceof StoreError &&
      (error.kind === "corrupted" || (error.kind === "wrongPassphrase" && !asMade));
    if (!isDamage) throw error;
    check("opens", false, "", error.message);
    return verified();
  }
  const { key, badPages, inspection } = seen.value;
  check("opens", true, `with its passphrase, format ${key.cipherCompatibility}`, "");
  if (manifest) {
    const held = verifyManifestMac(manifest, key);
    check("mac", held, "the manifest is as it was made", "the manifest was altered");
  }
  check("pages", badPages.length === 0, "every page is as it was written", quote(badPages));
  if (inspection instanceof StoreError) {
    check("structure", false, "", inspection.message);
    return verified();
  }
  const { faults, clients, schemaVersion } = inspection;
  check("structure", faults.length === 0, "sound", quote(faults));
  const counts = (n: typeof clients) => `${n.active} active, ${n.revoked} revoked`;
  if (manifest) {
    compare("clients", counts(clients), counts(manifest.clients));
    compare("schema", schemaVersion, manifest.schema_version);
  } else {
    check("clients", true, counts(clients), "");
  }
  return verified();
}

/**
 * Opens a backup, as immutable, with the first passphrase that fits. Close the connection afterwards.
 *
 * @throws StoreError `wrongPassphrase` if none fits; what the source throws if there is none; what opening a store throws.
 */
export async function openBackup(
  path: string,
  secret: BackupPassphrase,
): Promise<OpenedStore & { passphrase: string }> {
  const open = async (passphrase: string) => ({
    ...(await openEncrypted(path, passphrase, { mode: "readonly", immutable: true })),
    passphrase,
  });
  if ("passphrase" in secret) return open(secret.passphrase);
  const { source, storePath } = secret;
  const { keyId } = await identify(path);
  const otherwise = `with its bundle: --bundle clients.${keyId}.bundle.age --identity FILE (the recovery key)`;
  const tried: KeptPassphrase[] = [];
  try {
    for await (const kept of readPassphrases(source, storePath, keyId)) {
      try {
        return await open(kept.passphrase);
      } catch (error) {
        if (!(error instanceof StoreError) || error.kind !== "wrongPassphrase") throw error;
        tried.push(kept);
      }
    }
  } catch (error) {
    if (!(error instanceof StoreError) || error.kind !== "passphraseUnavailable") throw error;
    const hint = error.hint === undefined ? otherwise : `${error.hint}\nor ${otherwise}`;
    throw new StoreError(error.kind, error.message, { hint, cause: error });
  }
  throw noneOpens(path, source, tried, { keyring: otherwise, elsewhere: otherwise });
}

/**
 * Reads an opened copy as a database, and closes it. That its pages are authentic is `pageErrors`'s to say.
 *
 * @throws StoreError `newerVersion` for a schema not known here, `corrupted` if it cannot be read.
 */
async function inspect(opened: OpenedStore): Promise<Inspection> {
  await using store = await ClientStore.from(opened);
  const { connection } = opened;
  const faults = await integrityErrors(connection);
  const row = await connection.get<{ cipher_page_size: string }>("PRAGMA cipher_page_size");
  return {
    faults,
    schemaVersion: store.schemaVersion,
    clients: await store.counts(),
    pageSize: Number(row?.cipher_page_size),
  };
}

/** What was seen of an encrypted copy. */
interface Seen {
  readonly key: StoreKey;
  readonly badPages: readonly string[];
  /** Or how it came out that it is too damaged to be read as a database. */
  readonly inspection: Inspection | StoreError;
}

async function openAndInspect(path: string, secret: BackupPassphrase): Promise<Seen> {
  return inspectPages(await openBackup(path, secret));
}

/**
 * Checks an opened copy's every page here while SQLite, in a thread of its own, reads it as a database. Closes it.
 */
async function inspectPages(opened: OpenedStore): Promise<Seen> {
  const { connection, key } = opened;
  const [pages, inspection] = await Promise.allSettled([
    pageErrors(connection.path, key),
    inspect(opened),
  ]);
  if (pages.status === "rejected") throw pages.reason;
  const seen = { key, badPages: pages.value };
  if (inspection.status === "fulfilled") return { ...seen, inspection: inspection.value };
  const error: unknown = inspection.reason;
  if (!(error instanceof StoreError) || error.kind !== "corrupted") throw error;
  return { ...seen, inspection: error };
}

/**
 * Looks at every page of a copy that was just made, and reads it as a database; closes it.
 *
 * @throws StoreError `corrupted` if anything is wrong with it; else as `inspect`.
 */
export async function inspectSound(opened: OpenedStore): Promise<Inspection> {
  const { badPages, inspection } = await inspectPages(opened);
  const isReadable = !(inspection instanceof StoreError);
  const [wrong] = [...badPages, ...(isReadable ? inspection.faults : ["it cannot be read"])];
  if (isReadable && wrong === undefined) return inspection;
  throw new StoreError(
    "corrupted",
    `the copy is not sound, and so perhaps what it was made from: ${wrong}`,
    { hint: "earlier backups are untouched; keep them until this is understood" },
  );
}

async function manifestOf(path: string, checks: Check[]): Promise<Manifest | undefined> {
  try {
    const manifest = await readManifest(manifestPath(path));
    checks.push({ name: "manifest", ok: true, detail: `made ${manifest.created_at}` });
    return manifest;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    if (error.kind !== "notFound" && error.kind !== "corrupted") throw error;
    checks.push({ name: "manifest", ok: false, detail: error.message });
    return undefined;
  }
}

async function backupSize(path: string): Promise<number> {
  const stats = await statIfExists(path);
  if (stats?.isFile()) return stats.size;
  if (stats) throw new StoreError("refused", `${path} is not a file`);
  throw new StoreError("notFound", `no such file or directory: ${path}`, {
    hint: "Name the .db file of a backup; find the newest with: hivemind-sqlcipher status",
  });
}

function quote(findings: readonly string[]): string {
  const more = findings.length > quoted ? ` and ${findings.length - quoted} more` : "";
  return findings.slice(0, quoted).join("; ") + more;
}
