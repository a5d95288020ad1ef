/**
 * Exports a backup to offline media, such as a USB stick: a directory with everything that opens
 * the backup on a machine with only Python, except the bundle and the recovery key.
 *
 * The directory is written under a temporary name, and gets its final name after every byte was
 * read back and compared. A kill at any step leaves no directory that looks like an export.
 */
import { readFile, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { formatManifest, type Manifest, manifestPath } from "../backup/manifest.js";
import { copyToParts, hashParts, planParts } from "../backup/parts.js";
import { type BackupPassphrase, describeFailedChecks, verifyBackup } from "../backup/verify.js";
import { assertPlacement } from "../bundle/placement.js";
import { hasCode, isKind, StoreError, systemError, wrap } from "../errors.js";
import { createFile, makeDirectory, moveFile, stagedName, syncDirectory } from "../fs/atomic.js";
import { assertFreeSpace } from "../fs/copy.js";
import { assertDeviceLabel } from "../fs/mount.js";
import { lstatIfExists, sha256Hex, statIfExists } from "../fs/read.js";
import { emitStep } from "../operation/step.js";
import { throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { shellQuote } from "../text/escape.js";
import { formatMediaReadme } from "./media-readme.js";

export interface MediaOptions {
  /** The path of the backup. */
  readonly backup: string;
  /** An existing directory on the medium, in which the export creates a new directory. */
  readonly directory: string;
  readonly secret: BackupPassphrase;
  /** Directories of bundles. The export's directory must not be, contain or be inside one. */
  readonly bundleDirectories: readonly string[];
  /** The label of the medium's file system, checked if it is given. */
  readonly deviceLabel?: string | undefined;
  /** Bytes of a part; undefined for a backup in one file. */
  readonly partBytes?: number | undefined;
  readonly exportedAt: Date;
  readonly signal: AbortSignal;
  readonly reporter: Pick<Reporter, "notice" | "detail">;
}

export interface MediaFile {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly sha256: string;
}

export interface MediaExport {
  /** The new directory. */
  readonly path: string;
  readonly backup: string;
  readonly createdAt: string;
  readonly keyId: string;
  /** Bytes of the backup. */
  readonly size: number;
  /** The number of parts; 1 for a backup in one file. */
  readonly parts: number;
  readonly deviceLabel: string | null;
  readonly files: readonly MediaFile[];
}

/** An upper limit for the small files, and for space lost to the file system's blocks: 512 KiB. */
const overheadBytes = 512 * 1024;

/**
 * Verifies a backup and exports it to a new directory, named after the backup.
 *
 * @throws {@link StoreError} notFound - if there is no such backup
 * @throws {@link StoreError} corrupted - if it does not verify, or the medium returns other bytes
 * @throws {@link StoreError} refused - if the directory is, contains or is inside a directory of
 *   bundles, is not on the labelled device, or has this export already
 * @throws {@link StoreError} usage - if there would be too many parts
 * @throws {@link StoreError} io - if the directory is missing, read-only or full
 * @throws {@link StoreError} interrupted - if the signal is aborted
 * @throws {@link StoreError} what `verifyBackup` throws
 */
export async function exportToMedia(options: MediaOptions): Promise<MediaExport> {
  const { backup, directory, deviceLabel, partBytes, signal } = options;
  await assertUsable(options);
  const path = join(directory, basename(backup).replace(/\.db$/, ""));
  if (await lstatIfExists(path)) throw existsError(path);
  const manifest = await verifyAndReadManifest(options);
  const names = planParts(manifest.file, manifest.size, partBytes);
  await assertFreeSpace(
    directory,
    manifest.size + overheadBytes,
    `the export of ${manifest.file}`,
    "Free some space there, or use a larger medium.",
  );
  throwIfAborted(signal);
  const staged = stagedName(path);
  try {
    await makeDirectory(staged);
    const files = await writeFiles(staged, names, { ...options, manifest });
    emitStep("export.written");
    throwIfAborted(signal);
    // A rename would replace an empty directory.
    if (await lstatIfExists(path)) throw existsError(path);
    await moveFile(staged, path);
    await assertComplete(path, files);
    await syncDirectory(directory);
    return {
      path,
      backup,
      files,
      parts: names.length,
      deviceLabel: deviceLabel ?? null,
      createdAt: manifest.created_at,
      keyId: manifest.key_id,
      size: manifest.size,
    };
  } catch (error) {
    await rm(staged, { recursive: true, force: true }).catch(() => undefined);
    throw error;
  }
}

async function assertUsable(options: MediaOptions): Promise<void> {
  const { directory, deviceLabel, bundleDirectories, reporter } = options;
  const stats = await statIfExists(directory);
  if (!stats?.isDirectory()) {
    const why = stats === undefined ? "no such file or directory" : "not a directory";
    throw new StoreError("io", `cannot export to ${directory}: ${why}`, {
      hint: "Mount the medium, and name a directory on it. export creates no directory but its own.",
    });
  }
  if (deviceLabel !== undefined) await assertDeviceLabel(directory, deviceLabel);
  for (const bundles of bundleDirectories) {
    await assertPlacement(directory, bundles, reporter).catch((error: unknown) => {
      if (!isKind(error, "refused")) throw error;
      throw wrap(error, {
        message: `cannot export to ${directory}: bundles are kept in ${bundles}, and an export must be apart from them`,
        hint: "Name a directory on another medium: --to DIRECTORY",
      });
    });
  }
}

/** @throws {@link StoreError} corrupted - if the backup does not verify */
async function verifyAndReadManifest({ backup, secret }: MediaOptions): Promise<Manifest> {
  const { ok, checks, manifest } = await verifyBackup(backup, secret);
  if (ok && manifest !== undefined) return manifest;
  throw new StoreError(
    "corrupted",
    `${backup} does not verify: ${describeFailedChecks(checks).join("; ")}`,
    {
      hint: `Export another backup. See all checks: hivemind-sqlcipher verify ${shellQuote(backup)}`,
    },
  );
}

/** Writes the files, reads them back and compares them. */
async function writeFiles(
  staged: string,
  parts: readonly string[],
  options: MediaOptions & { manifest: Manifest },
): Promise<MediaFile[]> {
  const { backup, manifest, partBytes, signal, deviceLabel, exportedAt, reporter } = options;
  const paths = parts.map((part) => join(staged, part));
  await copyToParts(backup, paths, { partBytes, signal }).catch((error: unknown) => {
    if (!(error instanceof StoreError) || !hasCode(error.cause, "EFBIG")) throw error;
    throw wrap(error, {
      hint: "The file is too large for the medium's file system (FAT: 4 GiB or more). Export in smaller parts: --split 2G",
    });
  });
  const { joined, each } = await hashParts(paths);
  if (joined !== manifest.sha256) throw otherBytesError(staged);
  emitStep("export.copied");
  reporter.detail(`copied ${backup}, and compared the copy with its manifest`);
  const texts = [
    { name: basename(manifestPath(manifest.file)), text: formatManifest(manifest) },
    { name: "open_backup.py", text: await readOwnFile("open_backup.py") },
    { name: "formats.md", text: await readOwnFile("formats.md") },
    { name: "README.txt", text: formatMediaReadme({ manifest, parts, deviceLabel, exportedAt }) },
  ];
  const files = [
    ...each.map(({ path, size, sha256 }) => ({ name: basename(path), size, sha256 })),
    ...texts.map(({ name, text }) => describeFile(name, text)),
  ];
  const sums = files.map(({ name, sha256 }) => `${sha256}  ${name}\n`).join("");
  for (const { name, text } of [...texts, { name: "SHA256SUMS", text: sums }]) {
    await createFile(join(staged, name), text);
    const { joined } = await hashParts([join(staged, name)]);
    if (joined !== sha256Hex(text)) throw otherBytesError(staged);
  }
  return [...files, describeFile("SHA256SUMS", sums)];
}

function describeFile(name: string, text: string): MediaFile {
  return { name, size: Buffer.byteLength(text), sha256: sha256Hex(text) };
}

/** Reads a file that the build copies next to the command. */
async function readOwnFile(name: string): Promise<string> {
  const path = fileURLToPath(new URL(`./${name}`, import.meta.url));
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
}

/**
 * Checks the files under their final name. A driver of the medium may lose the contents of a
 * renamed directory, as fusefat 0.1 does with FAT.
 *
 * @throws {@link StoreError} corrupted - if a file is missing or has another size; the directory is
 *   removed
 */
async function assertComplete(path: string, files: readonly MediaFile[]): Promise<void> {
  for (const { name, size } of files) {
    if ((await statIfExists(join(path, name)))?.size === size) continue;
    await rm(path, { recursive: true, force: true }).catch(() => undefined);
    throw new StoreError("corrupted", `${path} lost ${name} when it got its name`, {
      hint: "The driver of the medium is faulty. Mount it with another driver, or use another file system.",
    });
  }
}

function existsError(path: string): StoreError {
  return new StoreError("refused", `file exists: ${path}`, {
    hint: "The backup is exported already. Check that export: sha256sum -c SHA256SUMS in its directory. To export the backup again, remove that directory first.",
  });
}

function otherBytesError(path: string): StoreError {
  return new StoreError("corrupted", `${path} returns other bytes than were written`, {
    hint: "The medium is faulty. Use another medium.",
  });
}
