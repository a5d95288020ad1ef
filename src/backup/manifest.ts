/**
 * The manifest next to a backup.
 *
 * The manifest is the backup's commit point: a `.db` without a manifest is not a backup yet. Its
 * `mac` is an HMAC-SHA256 of its canonical JSON (keys sorted, no spaces, UTF-8, without `mac`
 * itself) under a key derived from the store's. The MAC detects changes of the manifest and,
 * through the SHA-256 in it, of the backup. It cannot detect that a newer backup was removed.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { basename, dirname, extname, join } from "node:path";
import { readStoreId, storeIdSchema } from "../config/store-id.js";
import { hasCode, isKind, StoreError, systemError } from "../errors.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { recogniseContent, withFileKind } from "../fs/file-kind.js";
import { listDirectory, readSmallFile } from "../fs/read.js";
import { emitStep } from "../operation/step.js";
import * as z from "../schema.js";
import { deriveManifestKey, identify, type StoreKey } from "../store/cipher.js";

const manifestFormat = "hivemind-sqlcipher backup";
const manifestVersion = 1;
/** A manifest has about 600 bytes; a later version's manifest may have more. */
const maxManifestBytes = 64 * 1024;

const versionSchema = z.looseObject({ format: z.literal(manifestFormat), version: z.int() });
const count = z.int().check(z.nonnegative());

export const manifestSchema = z.strictObject({
  format: z.literal(manifestFormat),
  version: z.literal(manifestVersion),
  /** UTC. Every commit before this time is in the copy; a later commit may be. */
  created_at: z.iso.datetime(),
  /** The backup's name. A copy in a target may have the name that `copyName` returns. */
  file: z.string().check(z.regex(/^[^/\0]+$/)),
  /** Bytes. */
  size: count,
  sha256: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
  /** The first 8 bytes of the file, in hex. The name of the bundle contains them. */
  key_id: z.string().check(z.regex(/^[0-9a-f]{16}$/)),
  cipher_compatibility: z.union([z.literal(3), z.literal(4)]),
  schema_version: count,
  clients: z.strictObject({ active: count, revoked: count }),
  /** Bytes. */
  page_size: count,
  hostname: z.string(),
  unit: z.nullable(z.string()),
  method: z.enum(["stopped", "online"]),
  /** The id of the store. Absent in backups of earlier versions. */
  store_id: z.optional(storeIdSchema),
  mac: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
});

export type Manifest = z.infer<typeof manifestSchema>;

/** A manifest before it is signed. */
export type ManifestContents = Omit<Manifest, "format" | "version" | "mac">;

/** Returns the path of a backup's manifest: `clients.….manifest.json` for `clients.….db`. */
export function manifestPath(backupPath: string): string {
  const extension = extname(backupPath);
  const stem = extension === "" ? backupPath : backupPath.slice(0, -extension.length);
  return `${stem}.manifest.json`;
}

/** Returns the path of a manifest's backup: `clients.….db` for `clients.….manifest.json`. */
export function backupOf(manifest: string): string {
  return manifest.replace(/\.manifest\.json$/, ".db");
}

/** Returns the path of a backup: `clients.2026-11-24T18-50-00Z.db` for a store `clients.db`. */
export function backupPath(directory: string, storePath: string, at: Date): string {
  const name = basename(storePath, extname(storePath));
  const second = at.toISOString().slice(0, 19).replaceAll(":", "-");
  return join(directory, `${name}.${second}Z.db`);
}

/**
 * Matches the end of a backup's or manifest's name, after the store's name. A re-encrypted backup
 * has the key_id of its new passphrase after the time, and a copy in a target the store's id.
 */
const nameEnd = /\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(?:\.[0-9a-f]{16}){0,2}\.(?:db|manifest\.json)$/;

/**
 * Returns the name of the store in the name of a backup or manifest: `clients` for
 * `clients.2026-11-24T18-50-00Z.db`; undefined for any other name.
 */
export function storeNameIn(name: string): string | undefined {
  const end = nameEnd.exec(name);
  return end && end.index > 0 ? name.slice(0, end.index) : undefined;
}

/**
 * Returns whether a name belongs to a backup of a store of this name, or to its manifest. The
 * backups of another store may begin with the same text: `clients.test.db` and `clients.db`.
 */
export function isNameOfBackup(name: string, storePath: string): boolean {
  return storeNameIn(name) === basename(storePath, extname(storePath));
}

/**
 * Returns the name of a backup's copy in a target: `clients.2026-11-24T18-50-00Z.<store_id>.db`.
 * Hubs that share a target may make backups in the same second. A backup without an id keeps its
 * name.
 */
export function copyName({ file, store_id: id }: Pick<Manifest, "file" | "store_id">): string {
  if (id === undefined || file.endsWith(`.${id}.db`)) return file;
  return file.replace(/\.db$/, `.${id}.db`);
}

/** Returns whether a file with this name may be the backup of the manifest. */
export function isNamedBy(name: string, manifest: Manifest): boolean {
  return name === manifest.file || name === copyName(manifest);
}

/**
 * Returns whether a backup may belong to a store, by their ids. Returns true if either has no id:
 * the caller has compared the names, and the key checks the MAC.
 *
 * @param id - of the store; undefined if it has none
 */
export function mayBelongTo(manifest: Pick<Manifest, "store_id">, id: string | undefined): boolean {
  return manifest.store_id === undefined || id === undefined || manifest.store_id === id;
}

/** Adds the `mac`, computed with the key of the backup. */
export function signManifest(contents: ManifestContents, key: StoreKey): Manifest {
  const unsigned = { format: manifestFormat, version: manifestVersion, ...contents } as const;
  return { ...unsigned, mac: computeMac(unsigned, key) };
}

/** Returns whether the manifest was signed with this key and is unchanged. */
export function verifyManifestMac(manifest: Manifest, key: StoreKey): boolean {
  const { mac, ...unsigned } = manifest;
  return timingSafeEqual(Buffer.from(mac, "hex"), Buffer.from(computeMac(unsigned, key), "hex"));
}

export function formatManifest(manifest: Manifest): string {
  return `${JSON.stringify(manifest, undefined, 2)}\n`;
}

/**
 * Reads a manifest without checking its `mac`: see {@link verifyManifestMac}.
 *
 * @throws {@link StoreError} notFound - if the file does not exist
 * @throws {@link StoreError} corrupted - if the file is damaged or not a manifest
 * @throws {@link StoreError} newerVersion - if a later version of this program wrote it
 * @throws {@link StoreError} io - if the file cannot be read
 */
export async function readManifest(path: string): Promise<Manifest> {
  let text: string;
  try {
    text = (await readSmallFile(path, maxManifestBytes)).bytes.toString("utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT")) throw new StoreError("notFound", `there is no manifest ${path}`);
    throw systemError(error, `cannot read ${path}`);
  }
  return parseManifest(text, path);
}

/**
 * Reads a manifest like `readManifest`; returns undefined if it is missing, damaged or of a newer
 * version.
 *
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function readManifestIfValid(path: string): Promise<Manifest | undefined> {
  try {
    return await readManifest(path);
  } catch (error) {
    if (isKind(error, "notFound", "corrupted", "newerVersion")) return undefined;
    throw error;
  }
}

/**
 * Returns the key_id in a backup's file, then the key_id in its manifest if it differs: the first
 * bytes of the file may be damaged.
 *
 * @throws {@link StoreError} io - if one of the two cannot be read
 */
export async function readBackupKeyIds(path: string): Promise<string[]> {
  const { keyId } = await identify(path);
  const manifest = await readManifestIfValid(manifestPath(path));
  return [...new Set([keyId, manifest?.key_id])].filter((each) => each !== undefined);
}

/**
 * Returns the newest backup of a store in a directory, by the dates in the manifests. Does not
 * check their MACs. Returns undefined if there is no backup, or no such directory. Leaves out
 * backups with another store's id.
 *
 * @param before - leaves out later backups
 * @throws {@link StoreError} io - if the directory cannot be read
 */
export async function findNewestBackup(
  directory: string,
  storePath: string,
  before?: Date,
): Promise<{ path: string; createdAt: string } | undefined> {
  const names = new Set((await listDirectory(directory)) ?? []);
  const own = await readStoreId(storePath);
  let newest: { path: string; createdAt: string } | undefined;
  for (const name of names) {
    if (!isNameOfBackup(name, storePath) || !name.endsWith(".manifest.json")) continue;
    const manifest = await readManifest(join(directory, name)).catch(() => undefined);
    const file = backupOf(name);
    if (!manifest || !isNamedBy(file, manifest) || !names.has(file)) continue;
    if (!mayBelongTo(manifest, own?.id)) continue;
    if (before && Date.parse(manifest.created_at) > before.getTime()) continue;
    if (newest && newest.createdAt >= manifest.created_at) continue;
    newest = { path: join(directory, file), createdAt: manifest.created_at };
  }
  return newest;
}

/**
 * Removes a backup and its manifest. Either may be gone already.
 *
 * @throws {@link StoreError} io - if a file cannot be removed
 */
export async function removeBackup(path: string): Promise<void> {
  // The manifest is removed last. After a kill, a manifest without its backup is recognized as a
  // leftover, but a backup without a manifest could be a copy in progress.
  await removeFile(path);
  emitStep("backup-file.removed");
  await removeFile(manifestPath(path));
  await syncDirectory(dirname(path));
}

function parseManifest(text: string, path: string): Manifest {
  const damaged = () => {
    const error = new StoreError("corrupted", `${path} is damaged, or not a manifest`);
    return withFileKind(error, recogniseContent(Buffer.from(text)), ["manifest", "passphrase"]);
  };
  const json = z.parseJson(text);
  const head = versionSchema.safeParse(json);
  if (!head.success) throw damaged();
  if (head.data.version > manifestVersion) {
    throw new StoreError("newerVersion", `${path} was written by a newer version of this program`, {
      hint: "Update hivemind-sqlcipher.",
    });
  }
  const manifest = manifestSchema.safeParse(json);
  if (!manifest.success) throw damaged();
  return manifest.data;
}

function computeMac(unsigned: Omit<Manifest, "mac">, key: StoreKey): string {
  return createHmac("sha256", deriveManifestKey(key)).update(canonicalJson(unsigned)).digest("hex");
}

/**
 * Formats JSON with sorted keys and no spaces. A manifest contains only strings, integers and null,
 * each with a single form in JSON.
 */
function canonicalJson(value: unknown): string {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${members.map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item)}`).join(",")}}`;
}
