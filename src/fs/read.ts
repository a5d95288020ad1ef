/** Reads files, directories and metadata that may be missing. */
import { createHash } from "node:crypto";
import { type BigIntStats, constants, createReadStream, realpathSync, type Stats } from "node:fs";
import { type FileHandle, lstat, open, readdir, stat } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { hasCode, StoreError, systemError } from "../errors.js";

/**
 * Returns a file's metadata, or a symbolic link's own, or undefined if it does not exist.
 *
 * @throws {@link StoreError} io - if the directory cannot be searched
 */
export async function lstatIfExists(path: string): Promise<BigIntStats | undefined> {
  try {
    return await lstat(path, { bigint: true });
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot read the metadata of ${path}`);
  }
}

/**
 * Returns a file's metadata and follows symbolic links. Returns undefined if the file does not
 * exist.
 *
 * @throws {@link StoreError} io - if a directory cannot be searched, or the links form a circle
 */
export async function statIfExists(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot read the metadata of ${path}`);
  }
}

/** Returns the path without symbolic links, or the path itself if it cannot be resolved. */
export function realPathIfExists(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

/**
 * Returns the sorted names in a directory, or undefined if it does not exist.
 *
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function listDirectory(path: string): Promise<string[] | undefined> {
  try {
    return (await readdir(path)).sort();
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot read the directory ${path}`);
  }
}

/** Opens a file for reading. Returns undefined if it does not exist. */
export async function openIfExists(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

/** Fills the buffer from an offset. Returns fewer bytes only at the end of the file. */
export async function readUpTo(file: FileHandle, buffer: Buffer, offset: number): Promise<number> {
  let filled = 0;
  while (filled < buffer.byteLength) {
    const { bytesRead } = await file.read(buffer, filled, buffer.length - filled, offset + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return filled;
}

/**
 * Reads a regular file as a whole.
 *
 * For directories writable by other users: a pipe would block the reader forever, and a device or a
 * huge file would fill the memory.
 *
 * @param limit - bytes; a longer file is not read
 * @throws {@link StoreError} corrupted - if it is longer, or not a regular file
 * @throws the system's own error if it cannot be opened or read
 */
export async function readSmallFile(
  path: string,
  limit: number,
): Promise<{ bytes: Buffer; stats: Stats }> {
  const flags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
  await using file = await open(path, flags);
  const stats = await file.stat();
  if (!stats.isFile()) throw new StoreError("corrupted", `${path} is not a regular file`);
  const bytes = Buffer.alloc(Math.min(stats.size, limit) + 1);
  const length = await readUpTo(file, bytes, 0);
  if (length < bytes.length) return { bytes: bytes.subarray(0, length), stats };
  throw new StoreError("corrupted", `${path} is longer than ${limit} bytes, or is being written`);
}

/**
 * Returns the SHA-256 of a file, in hex.
 *
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash("sha256");
  try {
    await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
  return hash.digest("hex");
}

/** Returns the SHA-256 of bytes, or of a text's UTF-8, in hex. */
export function sha256Hex(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}
