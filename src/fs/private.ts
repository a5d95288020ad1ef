/** Reading a file that holds a secret: a passphrase, a key. And which files this program obeys. */
import { constants, type Stats } from "node:fs";
import { lstat, open } from "node:fs/promises";
import { type ErrorKind, hasCode, StoreError, systemError } from "../errors.js";

/** More than any passphrase or key; it keeps a wrong name, of a database perhaps, from being read whole. */
const longestSecret = 64 * 1024;

export interface SecretFileOptions {
  /** What it is when the file is not there. Default: `notFound`. */
  readonly missing?: ErrorKind;
  /**
   * The place is guarded by other means than the file's mode: systemd's credentials (readable through an ACL), a key
   * on a USB stick (whose file system has no modes).
   */
  readonly guarded?: boolean;
}

/**
 * The text in a secret's file, less one newline at its end. A pipe will do as well, as a shell makes one of
 * `<(command)`.
 *
 * @throws StoreError `refused` if others can read or change it, if a symbolic link of somebody else's leads to it, or
 *   if it is no text; `missing` if it is not there; `io`.
 */
export async function readSecretFile(
  path: string,
  options: SecretFileOptions = {},
): Promise<string> {
  try {
    const link = await lstat(path);
    if (link.isSymbolicLink()) assertOwned(path, link);
    await using file = await open(path, constants.O_RDONLY | constants.O_NOCTTY);
    const stats = await file.stat();
    if (!stats.isFile() && !stats.isFIFO()) throw new StoreError("refused", `${path} is no file`);
    if (!options.guarded) assertNotShared(path, stats);
    const secret = Buffer.alloc(longestSecret + 1);
    let length = 0;
    while (length < secret.length) {
      const { bytesRead } = await file.read(secret, length, secret.length - length);
      if (bytesRead === 0) return secretText(secret.subarray(0, length), path);
      length += bytesRead;
    }
    throw new StoreError("refused", `${path} is longer than a passphrase or a key can be`);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) {
      throw new StoreError(options.missing ?? "notFound", `there is no file ${path}`);
    }
    throw systemError(error, `cannot read ${path}`);
  }
}

/**
 * A secret's bytes as text, without the one newline that editors and `echo` leave at the end.
 *
 * @throws StoreError `refused` if they are not UTF-8.
 */
export function secretText(bytes: Uint8Array, what: string): string {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return text.replace(/\r?\n$/, "");
  } catch {
    throw new StoreError("refused", `${what}: not UTF-8 text`);
  }
}

/**
 * For a file that says what to do, which commands to run among it: nobody may have written it but its reader and root.
 *
 * @throws StoreError `refused` if others can change it.
 */
export function assertNotWritableByOthers(path: string, stats: Stats): void {
  assertOwned(path, stats);
  if ((stats.mode & 0o022) !== 0) {
    throw new StoreError("refused", `${path} can be changed by others than its owner`, {
      hint: `see that it says what you mean, then: chmod go-w '${path}'`,
    });
  }
}

function assertNotShared(path: string, stats: Stats): void {
  assertOwned(path, stats);
  if (stats.isFile() && (stats.mode & 0o077) !== 0) {
    throw new StoreError(
      "refused",
      `${path} holds a secret, and others than its owner may use it`,
      {
        hint: `chmod 600 '${path}'`,
      },
    );
  }
}

function assertOwned(path: string, stats: Stats): void {
  if (stats.uid !== 0 && stats.uid !== process.geteuid?.()) {
    throw new StoreError("refused", `${path} belongs to another user, who could change it`, {
      hint: "run this as that user, or copy it to a file of your own, with mode 600",
    });
  }
}
