/**
 * Reads files, directories and metadata, and computes hashes. A failure of the system is a
 * `StoreError` of kind `io`, unless a function says otherwise.
 */
import { createHash } from "node:crypto";
import { type BigIntStats, constants, realpathSync, type Stats } from "node:fs";
import { type FileHandle, lstat, open, readdir, readFile, stat } from "node:fs/promises";
import { hasCode, StoreError, systemError } from "../errors.js";

/** Bytes in a read of a large file: 1 MiB. */
const chunkBytes = 1 << 20;

/** The first and the last byte of a part of a file. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** Returns the metadata of a file, or of a symbolic link itself; undefined if it does not exist. */
export async function lstatIfExists(path: string): Promise<BigIntStats | undefined> {
  try {
    return await lstat(path, { bigint: true });
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot read the metadata of ${path}`);
  }
}

/** Returns a file's metadata and follows symbolic links; undefined if the file does not exist. */
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

/** Returns the sorted names in a directory, or undefined if it does not exist. */
export async function listDirectory(path: string): Promise<string[] | undefined> {
  try {
    return (await readdir(path)).sort();
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot read the directory ${path}`);
  }
}

/** Returns the text of a file, or undefined if it does not exist. */
export async function readTextIfExists(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot read ${path}`);
  }
}

/**
 * Opens a file for reading. Returns undefined if it does not exist.
 *
 * @throws the system's own error if it cannot be opened
 */
export async function openIfExists(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

/** Fills a buffer from an offset of a file, as far as the file reaches. Returns the bytes read. */
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
 * Safe in a directory that other users can write to: a plain read of a pipe would block forever,
 * and of a device or a huge file would fill the memory.
 *
 * @param limit - size of the longest file to read, in bytes
 * @throws {@link StoreError} corrupted - if the file is longer, grows, or is not a regular file
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
 * Yields the bytes of a file in order. Each buffer is valid only until the next iteration. Reuses a
 * single buffer, because a stream, with a buffer for each read, makes a copy use twice the CPU time
 * and 70 MB more memory.
 *
 * @param range - the first and the last byte; the end may be beyond the file's
 */
export async function* readChunks(
  file: FileHandle,
  { start, end }: ByteRange = { start: 0, end: Number.POSITIVE_INFINITY },
): AsyncGenerator<Buffer> {
  const buffer = Buffer.allocUnsafe(chunkBytes);
  for (let at = start; at <= end; at += buffer.length) {
    const bytes = await readUpTo(file, buffer.subarray(0, end - at + 1), at);
    if (bytes > 0) yield buffer.subarray(0, bytes);
    if (bytes < buffer.length) return;
  }
}

/** Returns the SHA-256 of a file, in hex. */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash("sha256");
  try {
    await using file = await open(path);
    for await (const bytes of readChunks(file)) hash.update(bytes);
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
  return hash.digest("hex");
}

/** Returns the SHA-256 of bytes, or of a text's UTF-8, in hex. */
export function sha256Hex(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}
