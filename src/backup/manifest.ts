/**
 * The manifest beside a backup: what the backup is, and that whoever knew the passphrase made it so.
 *
 * It is the backup's commit point: a `.db` beside which there is none is not a backup yet. Its `mac` is an HMAC-SHA256
 * over its canonical JSON (keys sorted, no spaces, UTF-8, without `mac` itself) under a key derived from the
 * store's. It says that nothing here, the file's sha256 included, was altered since; it cannot say that no newer
 * backup was taken away.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { readdir } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { readSmallFile } from "../fs/read.js";
import * as z from "../schema.js";
import { manifestKey, type StoreKey } from "../store/cipher.js";

const manifestFormat = "hivemind-sqlcipher backup";
const manifestVersion = 1;
/** A manifest has some 600 bytes; one of a later version may have more. */
const longestManifest = 64 * 1024;

const versionSchema = z.looseObject({ format: z.literal(manifestFormat), version: z.int() });
const count = z.int().check(z.nonnegative());

export const manifestSchema = z.strictObject({
  format: z.literal(manifestFormat),
  version: z.literal(manifestVersion),
  /** When the copy was completed: what was committed before is in it. UTC. */
  created_at: z.iso.datetime(),
  /** The backup's name, in the manifest's own folder. */
  file: z.string().check(z.regex(/^[^/\0]+$/)),
  /** Bytes. */
  size: count,
  sha256: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
  /** Names the bundle that opens it: the first 16 hex digits of the file. */
  key_id: z.string().check(z.regex(/^[0-9a-f]{16}$/)),
  cipher_compatibility: z.union([z.literal(3), z.literal(4)]),
  schema_version: count,
  clients: z.strictObject({ active: count, revoked: count }),
  /** Bytes. */
  page_size: count,
  hostname: z.string(),
  unit: z.nullable(z.string()),
  method: z.enum(["stopped", "online"]),
  mac: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
});

export type Manifest = z.infer<typeof manifestSchema>;

/** What a manifest says, before it is sealed. */
export type ManifestContents = Omit<Manifest, "format" | "version" | "mac">;

/** The manifest of a backup: `clients.….manifest.json` for `clients.….db`. */
export function manifestPath(backupPath: string): string {
  const extension = extname(backupPath);
  const stem = extension === "" ? backupPath : backupPath.slice(0, -extension.length);
  return `${stem}.manifest.json`;
}

/** A backup's name: `clients.2026-11-24T18-50-00Z.db` for a store `clients.db`. */
export function backupPath(folder: string, storePath: string, at: Date): string {
  const name = basename(storePath, extname(storePath));
  const second = at.toISOString().slice(0, 19).replaceAll(":", "-");
  return join(folder, `${name}.${second}Z.db`);
}

/**
 * Whether a name is that of a backup of this store, or of its manifest. Another store's may begin alike: `clients.test.db`
 * beside `clients.db`.
 */
export function isNameOfBackup(name: string, storePath: string): boolean {
  const stem = `${basename(storePath, extname(storePath))}.`;
  // Brought under another passphrase, it has that one's key_id behind the time.
  const rest = /^\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(?:\.[0-9a-f]{16})?\.(?:db|manifest\.json)$/;
  return name.startsWith(stem) && rest.test(name.slice(stem.length));
}

/** Completes a manifest by its `mac`, under the key of the backup's file. */
export function signManifest(contents: ManifestContents, key: StoreKey): Manifest {
  const unsealed = { format: manifestFormat, version: manifestVersion, ...contents } as const;
  return { ...unsealed, mac: macOf(unsealed, key) };
}

/** Whether the manifest is as it was sealed by whoever had this key. */
export function verifyManifestMac(manifest: Manifest, key: StoreKey): boolean {
  const { mac, ...unsealed } = manifest;
  return timingSafeEqual(Buffer.from(mac, "hex"), Buffer.from(macOf(unsealed, key), "hex"));
}

/** The text of a manifest's file. */
export function formatManifest(manifest: Manifest): string {
  return `${JSON.stringify(manifest, undefined, 2)}\n`;
}

/**
 * Reads a manifest's file. Its `mac` is not checked here: that takes the key.
 *
 * @throws StoreError `notFound` if there is none, `corrupted` if it is none, `newerVersion`, `io`.
 */
export async function readManifest(path: string): Promise<Manifest> {
  let text: string;
  try {
    text = (await readSmallFile(path, longestManifest)).bytes.toString("utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT")) throw new StoreError("notFound", `there is no manifest ${path}`);
    throw systemError(error, `cannot read ${path}`);
  }
  return parseManifest(text, path);
}

/**
 * The newest backup of a store in a folder, as its manifest says; whether it is sound is another question. Undefined if
 * there is none, or no such folder.
 *
 * @param before leaves out those that were made later.
 * @throws StoreError `io` if the folder cannot be read.
 */
export async function newestBackup(
  folder: string,
  storePath: string,
  before?: Date,
): Promise<{ path: string; created_at: string } | undefined> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw systemError(error, `cannot read ${folder}`);
  }
  let newest: { path: string; created_at: string } | undefined;
  for (const name of names) {
    if (!isNameOfBackup(name, storePath) || !name.endsWith(".manifest.json")) continue;
    const manifest = await readManifest(join(folder, name)).catch(() => undefined);
    if (!manifest || !names.includes(manifest.file)) continue;
    if (before && Date.parse(manifest.created_at) > before.getTime()) continue;
    if (newest && newest.created_at >= manifest.created_at) continue;
    newest = { path: join(folder, manifest.file), created_at: manifest.created_at };
  }
  return newest;
}

function parseManifest(text: string, path: string): Manifest {
  const damaged = () => new StoreError("corrupted", `${path} is damaged, or not a manifest`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw damaged();
  }
  const head = versionSchema.safeParse(json);
  if (!head.success) throw damaged();
  if (head.data.version > manifestVersion) {
    throw new StoreError("newerVersion", `${path} was written by a newer version of this program`, {
      hint: "update hivemind-sqlcipher",
    });
  }
  const manifest = manifestSchema.safeParse(json);
  if (!manifest.success) throw damaged();
  return manifest.data;
}

function macOf(unsealed: Omit<Manifest, "mac">, key: StoreKey): string {
  return createHmac("sha256", manifestKey(key)).update(canonicalJson(unsealed)).digest("hex");
}

/** JSON with sorted keys and no spaces. The manifest holds strings, integers and null, which have one spelling. */
function canonicalJson(value: unknown): string {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${members.map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item)}`).join(",")}}`;
}
