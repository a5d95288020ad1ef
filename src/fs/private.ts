/** Reads files with a secret. Refuses files that other users can read or change. */
import type { Stats } from "node:fs";
import { type FileHandle, lstat } from "node:fs/promises";
import { type ErrorKind, hasCode, StoreError, systemError } from "../errors.js";
import { shellQuote } from "../text/escape.js";
import { decodeText } from "./encoding.js";
import { openFileOrPipe } from "./pipe.js";

/**
 * Longer than any passphrase or key. A database named by mistake is not read as a whole.
 */
const maxSecretBytes = 64 * 1024;

export interface SecretFileOptions {
  /** The error's kind if the file does not exist. Default: `notFound`. */
  readonly missing?: ErrorKind;
  /**
   * Skips the check of mode and owner. systemd's credentials are readable through an access control
   * list, and the file system of a USB stick has no modes.
   */
  readonly skipPermissionCheck?: boolean;
}

/**
 * Returns the text of a file with a secret, without its final newline.
 *
 * @throws {@link StoreError} refused - if it is not text
 */
export async function readSecretFile(
  path: string,
  options: SecretFileOptions = {},
): Promise<string> {
  return decodeSecret(await readSecretBytes(path, options), path);
}

/**
 * Returns the bytes of a file with a secret, or of a pipe such as the shell's `<(command)`.
 *
 * @throws {@link StoreError} refused - if other users can read or change it, if the path is another
 *   user's symbolic link, or if it is longer than a secret or not a file
 * @throws {@link StoreError} notFound or `missing` - if it does not exist
 * @throws {@link StoreError} io - if the system fails
 */
export async function readSecretBytes(
  path: string,
  options: SecretFileOptions = {},
): Promise<Uint8Array> {
  try {
    const link = await lstat(path);
    if (link.isSymbolicLink()) assertOwned(path, link);
    await using file = await openFileOrPipe(path);
    const stats = await file.stat();
    if (!stats.isFile() && !stats.isFIFO()) {
      throw new StoreError(
        "refused",
        `${path} is ${stats.isDirectory() ? "a directory" : "not a file"}`,
        { hint: "Name a file." },
      );
    }
    if (!options.skipPermissionCheck) assertNotShared(path, stats);
    return await readSecret(file, path);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) {
      throw new StoreError(options.missing ?? "notFound", `no such file or directory: ${path}`);
    }
    throw systemError(error, `cannot read ${path}`);
  }
}

/** Reads sequentially, because a pipe has no offsets. */
async function readSecret(file: FileHandle, path: string): Promise<Uint8Array> {
  const buffer = Buffer.alloc(maxSecretBytes + 1);
  let length = 0;
  while (length < buffer.length) {
    const { bytesRead } = await file.read(buffer, length, buffer.length - length);
    if (bytesRead === 0) return buffer.subarray(0, length);
    length += bytesRead;
  }
  throw new StoreError("refused", `${path} is longer than a passphrase or a key can be`);
}

/**
 * Decodes a secret, without the final newline appended by editors and `echo`.
 *
 * @param what - the origin of the secret, for the message
 * @throws {@link StoreError} refused - if it is neither UTF-8 nor UTF-16 with a byte order mark
 */
export function decodeSecret(bytes: Uint8Array, what: string): string {
  try {
    return decodeText(bytes).replace(/\r?\n$/, "");
  } catch {
    throw new StoreError("refused", `${what}: not text in UTF-8 or UTF-16`);
  }
}

/**
 * Checks that only this user and root can change a file. For a file with commands that this user
 * runs.
 *
 * @throws {@link StoreError} refused - if another user can change it
 */
export function assertNotWritableByOthers(path: string, stats: Stats): void {
  assertOwned(path, stats);
  if ((stats.mode & 0o022) !== 0) {
    throw new StoreError("refused", `${path} can be changed by users other than its owner`, {
      hint: `Check its contents, then run: chmod go-w ${shellQuote(path)}`,
    });
  }
}

function assertNotShared(path: string, stats: Stats): void {
  assertOwned(path, stats);
  if (stats.isFile() && (stats.mode & 0o077) !== 0) {
    throw new StoreError("refused", `${path} contains a secret, and other users can access it`, {
      hint: `Restrict it to its owner: chmod 600 ${shellQuote(path)}`,
    });
  }
}

function assertOwned(path: string, stats: Stats): void {
  if (stats.uid !== 0 && stats.uid !== process.geteuid?.()) {
    throw new StoreError("refused", `${path} belongs to another user, who could change it`, {
      hint: "Run this as the file's owner, or copy the file to one of your own with mode 600.",
    });
  }
}
