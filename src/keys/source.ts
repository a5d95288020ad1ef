/**
 * The sources of a store's passphrase: the keyring (the default), a file, a command's output, a
 * systemd credential, or a file sealed to this machine.
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { expandPath } from "../config/paths.js";
import { ignoreKind, isKind, StoreError, systemError } from "../errors.js";
import { decodeSecret, readSecretFile } from "../fs/private.js";
import { lstatIfExists, realPathIfExists } from "../fs/read.js";
import { bundleName } from "./bundle-name.js";
import { isSlotOf, listEntries, readEntries } from "./keyring.js";
import {
  parsePassphraseLines,
  parsePassphrases,
  readPassphrasesInFile,
} from "./passphrase-file.js";
import { defaultSealedPath, readSealed, sealedName } from "./sealed.js";

export type PassphraseSource =
  | {
      readonly kind: "keyring";
      /** Stores no derived key in the keyring, and deletes the derived keys of earlier commands. */
      readonly withoutKeyCache?: boolean;
    }
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "command"; readonly command: string }
  | { readonly kind: "credential"; readonly name: string }
  /** The sealed file from which systemd decrypts a credential. */
  | { readonly kind: "sealed"; readonly path: string };

/** The role of a passphrase. Sources other than the keyring have only the current one. */
export type Generation = "current" | "pending" | `previous:${string}`;

export interface KeptPassphrase {
  readonly passphrase: string;
  readonly generation: Generation;
  /** The keyring's collection, if several entries match. */
  readonly collection?: string | undefined;
}

/** Every form of a source, for messages. */
const sourceForms = "keyring, file:PATH, command:CMD, credential[:NAME] or sealed[:PATH]";

/**
 * Parses `keyring`, `file:PATH`, `command:CMD`, `credential[:NAME]` or `sealed[:PATH]`.
 *
 * @throws {@link StoreError} usage - for any other text, which the message does not repeat
 */
export function parseSource(text: string): PassphraseSource {
  const colon = text.indexOf(":");
  const kind = colon === -1 ? text : text.slice(0, colon);
  const rest = colon === -1 ? "" : text.slice(colon + 1);
  if (text === "keyring") return { kind: "keyring" };
  if (kind === "file" && rest !== "") return { kind, path: expandPath(rest) };
  if (kind === "command" && rest.trim() !== "") return { kind, command: rest };
  if (text === "credential") return { kind: "credential", name: sealedName };
  if (text === "sealed") return { kind: "sealed", path: defaultSealedPath() };
  if (kind === "sealed" && rest !== "") return { kind, path: expandPath(rest) };
  if (kind === "credential" && /^[^/\0]+$/.test(rest) && rest !== "." && rest !== "..") {
    return { kind, name: rest };
  }
  throw new StoreError("usage", "unknown kind of passphrase source", {
    hint: `Use ${sourceForms}.`,
  });
}

/**
 * Returns the source without the derived-key cache. Opening the store then deletes the cached keys.
 */
export function withoutKeyCache(source: PassphraseSource): PassphraseSource {
  return source.kind === "keyring" ? { ...source, withoutKeyCache: true } : source;
}

/** Returns the source as text, the inverse of `parseSource`. */
export function formatSource(source: PassphraseSource): string {
  if (source.kind === "file") return `file:${source.path}`;
  if (source.kind === "command") return `command:${source.command}`;
  if (source.kind === "credential") return `credential:${source.name}`;
  if (source.kind === "sealed") return `sealed:${source.path}`;
  return "keyring";
}

/** Returns whether two sources are the same, also if a symbolic link leads to the file. */
export function isSameSource(one: PassphraseSource, other: PassphraseSource): boolean {
  return formatSource(withRealPath(one)) === formatSource(withRealPath(other));
}

function withRealPath(source: PassphraseSource): PassphraseSource {
  return "path" in source ? { ...source, path: realPathIfExists(source.path) } : source;
}

/** Returns the error for a source that reads the secrets of a container engine. */
export function engineSecretError(): StoreError {
  return new StoreError(
    "refused",
    "the passphrase is read from the secrets of a container engine, which are on the disk unencrypted",
    {
      hint: "Leave out --passphrase-source and its setting: the passphrase is then kept in the keyring, or with --passphrase-source sealed in a file that systemd-creds seals. Move an existing passphrase: hivemind-sqlcipher bundle import BUNDLE --passphrase-source keyring",
    },
  );
}

/** Returns whether a source reads the secrets of a container engine, which are not encrypted. */
export function isEngineSecret(source: PassphraseSource): boolean {
  return (
    (source.kind === "command" && /\b(?:podman|docker)\s+secret\b/.test(source.command)) ||
    (source.kind === "file" && /\/containers\/storage\/secrets\//.test(source.path))
  );
}

/** Returns the source for messages. Omits a command's text, which may contain a token. */
export function describeSource(source: PassphraseSource): string {
  return source.kind === "command" ? "the passphrase command" : formatSource(source);
}

/**
 * Yields the passphrases of a store, the likeliest first: current, pending, the previous passphrase
 * of `keyId`, other previous passphrases. Reads each only when the caller requests it.
 *
 * @throws {@link StoreError} passphraseUnavailable - if there is none, or it cannot be read
 * @throws {@link StoreError} refused - if SQLCipher would not use the passphrase unchanged, or if
 *   other users can read its file
 */
export async function* readPassphrases(
  source: PassphraseSource,
  storePath: string,
  keyId?: string,
): AsyncGenerator<KeptPassphrase> {
  if (source.kind === "keyring") return yield* readKeyring(storePath, keyId);
  for (const passphrase of await readCurrent(source)) yield { passphrase, generation: "current" };
}

function readCurrent(
  source: Exclude<PassphraseSource, { kind: "keyring" }>,
): Promise<readonly string[]> {
  switch (source.kind) {
    case "file":
      return readPassphrasesInFile(source.path, { missing: "passphraseUnavailable" });
    case "command":
      return readCommand(source.command);
    case "credential":
      return readCredential(source.name);
    case "sealed":
      return readSealed(source.path);
  }
}

/**
 * Returns whether a source has this passphrase for a store.
 *
 * @throws {@link StoreError} what `readPassphrases` throws
 */
export async function hasPassphrase(
  source: PassphraseSource,
  storePath: string,
  wanted: string,
): Promise<boolean> {
  for await (const { passphrase } of readPassphrases(source, storePath)) {
    if (passphrase === wanted) return true;
  }
  return false;
}

/**
 * Returns whether a source has this passphrase for a store; false if it has none or cannot be read.
 *
 * @throws {@link StoreError} refused - as `readPassphrases`
 */
export function isKept(
  source: PassphraseSource,
  storePath: string,
  wanted: string,
): Promise<boolean> {
  return hasPassphrase(source, storePath, wanted).catch(ignoreKind("passphraseUnavailable", false));
}

/** The hint for a source without the passphrase of a bundle, if this program does not write it. */
export const fillSourceHint =
  "Print the passphrase and put it there first: hivemind-sqlcipher bundle show BUNDLE --identity FILE --show-passphrase. Or add --passphrase-source keyring or sealed: it is then stored there.";

/**
 * Checks the passphrase in a source not written by this program.
 *
 * @param expected - the passphrase, and its description for the message
 * @throws {@link StoreError} refused - if the source has another passphrase or none
 */
export async function assertYields(
  source: PassphraseSource,
  storePath: string,
  expected: { readonly passphrase: string; readonly what: string },
  hint: string,
): Promise<void> {
  let reason = "";
  try {
    if (await hasPassphrase(source, storePath, expected.passphrase)) return;
  } catch (error) {
    if (!isKind(error, "passphraseUnavailable")) throw error;
    reason = `: ${error.message}`;
  }
  throw new StoreError(
    "refused",
    `${describeSource(source)} does not yield ${expected.what}${reason}`,
    { hint },
  );
}

/**
 * Yields the passphrases in the keyring. Lists the entries only after the known slots, because the
 * list takes several calls for each entry.
 */
async function* readKeyring(storePath: string, keyId?: string): AsyncGenerator<KeptPassphrase> {
  const requested: Generation[] = ["current", "pending"];
  if (keyId !== undefined) requested.push(`previous:${keyId}`);
  let found = false;
  for (const generation of requested) {
    for await (const { secret, collection } of readEntries(storePath, generation)) {
      found = true;
      yield { passphrase: secret, generation, collection };
    }
  }
  for (const { slot, secret } of await listEntries(storePath)) {
    if (!isSlotOf(slot, "previous") || requested.includes(slot)) continue;
    found = true;
    yield { passphrase: secret, generation: slot };
  }
  if (!found) throw await noEntryError(storePath, keyId);
}

const noEntryErrors = new WeakSet<StoreError>();

/**
 * Returns the error for a store without an entry. Never names `init`, which refuses the store, and
 * names `bundle import` only if the store exists: a restore also asks for a missing store.
 */
async function noEntryError(storePath: string, keyId: string | undefined): Promise<StoreError> {
  const bundle = keyId === undefined ? "FILE" : bundleName(keyId);
  const hint = (await lstatIfExists(storePath))
    ? `Take the passphrase from a bundle: hivemind-sqlcipher bundle import ${bundle} --identity FILE`
    : undefined;
  const error = new StoreError(
    "passphraseUnavailable",
    `the keyring has no passphrase for ${storePath}`,
    { hint },
  );
  noEntryErrors.add(error);
  return error;
}

/** Returns whether the keyring was read and has no entry for the store. */
export function isNoEntryError(error: unknown): error is StoreError {
  return error instanceof StoreError && noEntryErrors.has(error);
}

async function readCredential(name: string): Promise<readonly string[]> {
  const directory = process.env.CREDENTIALS_DIRECTORY;
  if (!directory) {
    throw new StoreError(
      "passphraseUnavailable",
      `systemd passed no credentials to this process, so there is no credential "${name}"`,
      { hint: `Add to the unit: LoadCredentialEncrypted=${name}:/etc/credstore.encrypted/${name}` },
    );
  }
  const options = { missing: "passphraseUnavailable", skipPermissionCheck: true } as const;
  const secret = await readSecretFile(join(directory, name), options);
  const what = `the credential ${name}`;
  // Versions up to 0.1.0 used the whole text.
  const lines = parsePassphraseLines(secret, what);
  return lines.includes(secret) ? lines : [...lines, secret];
}

/**
 * Returns the passphrases in a command's output. The command runs in a shell with the terminal, so
 * it can prompt. Its standard error is passed through.
 */
async function readCommand(command: string): Promise<readonly string[]> {
  const child = spawn("/bin/sh", ["-c", command], { stdio: ["inherit", "pipe", "inherit"] });
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  const failure = await new Promise<string | undefined>((resolve, reject) => {
    child.once("error", (error) => reject(systemError(error, "cannot run /bin/sh")));
    child.once("close", (code, signal) => {
      if (code === 0) resolve(undefined);
      else resolve(code === null ? `was killed by ${signal}` : `failed with exit code ${code}`);
    });
  });
  if (failure !== undefined) {
    throw new StoreError("passphraseUnavailable", `the passphrase command ${failure}`, {
      hint: "Run it yourself: it must print the passphrase and nothing else.",
    });
  }
  const what = "the passphrase command's output";
  return parsePassphrases(decodeSecret(Buffer.concat(chunks), what), what);
}
