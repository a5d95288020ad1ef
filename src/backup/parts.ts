/** Splits a backup into numbered parts, such as `clients.….db.001`, for smaller media. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { appendFile } from "node:fs/promises";
import { StoreError, systemError } from "../errors.js";
import { createFile } from "../fs/atomic.js";
import { copyFile } from "../fs/copy.js";
import { lstatIfExists } from "../fs/read.js";

/** Part numbers have three digits. */
const maxParts = 999;

const chunkBytes = 1 << 20;

/** @param number - from 1 */
function partPath(path: string, number: number): string {
  return `${path}.${String(number).padStart(3, "0")}`;
}

/**
 * Returns the paths of a backup's parts.
 *
 * @param size - bytes of the backup
 * @param partBytes - bytes of each part except the last; undefined for a backup in one file, which
 *   keeps its name
 * @throws {@link StoreError} usage - if there would be too many parts
 */
export function planParts(path: string, size: number, partBytes: number | undefined): string[] {
  if (partBytes === undefined) return [path];
  const count = Math.max(1, Math.ceil(size / partBytes));
  if (count > maxParts) {
    throw new StoreError(
      "usage",
      `cannot split ${size} bytes into parts of ${partBytes} bytes: ${count} parts, at most ${maxParts} are allowed`,
      { hint: "Name a larger size with --split." },
    );
  }
  return Array.from({ length: count }, (_, index) => partPath(path, index + 1));
}

/**
 * Splits a file into new, synced files.
 *
 * @throws {@link StoreError} refused - if a part exists already
 * @throws {@link StoreError} io - if a file cannot be read or written
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function copyToParts(
  from: string,
  parts: readonly string[],
  { partBytes, signal }: { partBytes: number | undefined; signal: AbortSignal },
): Promise<void> {
  for (const [index, part] of parts.entries()) {
    const range =
      partBytes === undefined
        ? undefined
        : { start: index * partBytes, end: (index + 1) * partBytes - 1 };
    await copyFile(from, part, { range, signal });
  }
}

/** Returns whether a directory with these names has a part of the backup. */
export function hasPart(names: Iterable<string>, backup: string): boolean {
  return [...names].some(
    (name) => name.startsWith(`${backup}.`) && /^\d{3}$/.test(name.slice(backup.length + 1)),
  );
}

/**
 * Returns the paths of a split backup's parts, up to the first missing number. Returns none if the
 * whole file exists.
 */
export async function findParts(path: string): Promise<string[]> {
  if (await lstatIfExists(path)) return [];
  const parts: string[] = [];
  for (let number = 1; number <= maxParts; number += 1) {
    const part = partPath(path, number);
    if (!(await lstatIfExists(part))) break;
    parts.push(part);
  }
  return parts;
}

/**
 * Joins parts into a new file. Does not sync it.
 *
 * @throws {@link StoreError} refused - if the file exists already
 * @throws {@link StoreError} io - if a part cannot be read or the file cannot be written
 */
export async function joinParts(parts: readonly string[], to: string): Promise<void> {
  await createFile(to, "");
  for (const part of parts) {
    try {
      await appendFile(to, createReadStream(part, { highWaterMark: chunkBytes }));
    } catch (error) {
      throw systemError(error, `cannot copy ${part} to ${to}`);
    }
  }
}

/**
 * Returns the SHA-256 of each part, and of all parts joined, in hex.
 *
 * @throws {@link StoreError} io - if a part cannot be read
 */
export async function hashParts(
  parts: readonly string[],
): Promise<{ joined: string; each: { path: string; size: number; sha256: string }[] }> {
  const joined = createHash("sha256");
  const each: { path: string; size: number; sha256: string }[] = [];
  for (const path of parts) {
    const hash = createHash("sha256");
    let size = 0;
    try {
      for await (const chunk of createReadStream(path, { highWaterMark: chunkBytes })) {
        hash.update(chunk);
        joined.update(chunk);
        size += chunk.length;
      }
    } catch (error) {
      throw systemError(error, `cannot read ${path}`);
    }
    each.push({ path, size, sha256: hash.digest("hex") });
  }
  return { joined: joined.digest("hex"), each };
}
