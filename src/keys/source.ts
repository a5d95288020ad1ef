/**
 * Where a store's passphrase comes from: the keyring (the rule), a file, a command's output, or a credential that
 * systemd hands to a service.
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { expandPath } from "../config/paths.js";
import { StoreError, systemError } from "../errors.js";
import { readSecretFile, secretText } from "../fs/private.js";
import { getEntry, listEntries } from "./keyring.js";
import { checkPassphrase } from "./passphrase.js";

export type PassphraseSource =
  | {
      readonly kind: "keyring";
      /** True where no derived key is to be kept there, and one that is, is to be forgotten. */
      readonly withoutKeyCache?: boolean;
    }
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "command"; readonly command: string }
  | { readonly kind: "credential"; readonly name: string };

/** Which of the passphrases that are kept for a store this is. Only the keyring keeps more than the current one. */
export type Generation = "current" | "pending" | `previous:${string}`;

export interface KeptPassphrase {
  readonly passphrase: string;
  readonly generation: Generation;
}

/** The systemd credential's name where none is given: `LoadCredentialEncrypted=hivemind-sqlcipher:…`. */
const defaultCredential = "hivemind-sqlcipher";

/**
 * Reads `keyring`, `file:PATH`, `command:CMD`, `credential` or `credential:NAME`.
 *
 * @throws StoreError `usage` for anything else.
 */
export function parseSource(text: string): PassphraseSource {
  const colon = text.indexOf(":");
  const kind = colon === -1 ? text : text.slice(0, colon);
  const rest = colon === -1 ? "" : text.slice(colon + 1);
  if (text === "keyring") return { kind: "keyring" };
  if (kind === "file" && rest !== "") return { kind, path: expandPath(rest) };
  if (kind === "command" && rest.trim() !== "") return { kind, command: rest };
  if (text === "credential") return { kind: "credential", name: defaultCredential };
  if (kind === "credential" && /^[^/\0]+$/.test(rest) && rest !== "." && rest !== "..") {
    return { kind, name: rest };
  }
  throw new StoreError("usage", "the passphrase source is not one of those there are", {
    hint: "keyring, file:PATH, command:CMD, credential or credential:NAME",
  });
}

/** The source, with no derived key kept in the keyring; one that is kept there is forgotten when the store is opened. */
export function withoutKeyCache(source: PassphraseSource): PassphraseSource {
  return source.kind === "keyring" ? { ...source, withoutKeyCache: true } : source;
}

/** The text that `parseSource` reads. */
export function formatSource(source: PassphraseSource): string {
  if (source.kind === "file") return `file:${source.path}`;
  if (source.kind === "command") return `command:${source.command}`;
  if (source.kind === "credential") return `credential:${source.name}`;
  return "keyring";
}

/** The source for a message, which a log may keep: without a command's text, since that may hold a token of its own. */
export function describeSource(source: PassphraseSource): string {
  return source.kind === "command" ? "the passphrase command" : formatSource(source);
}

/**
 * The passphrases kept for a store, the likeliest first: current, pending, then previous ones, of which the one for
 * the file's own `keyId` leads. A passphrase is fetched only when it is asked for.
 *
 * @throws StoreError `passphraseUnavailable` if there is none or it cannot be had, `refused` for one that is unsafe.
 */
export async function* readPassphrases(
  source: PassphraseSource,
  storePath: string,
  keyId?: string,
): AsyncGenerator<KeptPassphrase> {
  switch (source.kind) {
    case "keyring":
      yield* readKeyring(storePath, keyId);
      return;
    case "file":
      yield { passphrase: await readPassphraseFile(source.path), generation: "current" };
      return;
    case "command":
      yield { passphrase: await readCommand(source.command), generation: "current" };
      return;
    case "credential":
      yield { passphrase: await readCredential(source.name), generation: "current" };
      return;
  }
}

/**
 * Whether a passphrase is one of those kept for a store: then what it opens was made by whoever knew it.
 *
 * @throws StoreError as `readPassphrases`, but for `passphraseUnavailable`: then it is not.
 */
export async function isKept(
  source: PassphraseSource,
  storePath: string,
  wanted: string,
): Promise<boolean> {
  try {
    for await (const { passphrase } of readPassphrases(source, storePath)) {
      if (passphrase === wanted) return true;
    }
  } catch (error) {
    if (!(error instanceof StoreError && error.kind === "passphraseUnavailable")) throw error;
  }
  return false;
}

/** Entries are asked for one by one; the whole list, which holds every secret of this service, only as the last resort. */
async function* readKeyring(storePath: string, keyId?: string): AsyncGenerator<KeptPassphrase> {
  const asked: Generation[] = ["current", "pending"];
  if (keyId !== undefined) asked.push(`previous:${keyId}`);
  let found = false;
  for (const generation of asked) {
    const passphrase = await getEntry(storePath, generation);
    if (passphrase === undefined) continue;
    found = true;
    yield { passphrase, generation };
  }
  for (const { slot, secret } of await listEntries(storePath)) {
    if (!isPrevious(slot) || asked.includes(slot)) continue;
    found = true;
    yield { passphrase: secret, generation: slot };
  }
  if (!found) {
    throw new StoreError(
      "passphraseUnavailable",
      `the keyring has no passphrase for ${storePath}`,
      {
        hint: "a new store: hivemind-sqlcipher init; one whose passphrase is in a bundle: hivemind-sqlcipher bundle import FILE --identity FILE",
      },
    );
  }
}

function isPrevious(slot: string): slot is `previous:${string}` {
  return slot.startsWith("previous:");
}

/**
 * The passphrase in a file of its owner's, less one newline at its end.
 *
 * @throws StoreError `passphraseUnavailable` if there is no such file, `refused` if others can read it or what it holds
 *   is no passphrase, `io`.
 */
export async function readPassphraseFile(path: string): Promise<string> {
  return usable(await readSecretFile(path, { missing: "passphraseUnavailable" }), path);
}

async function readCredential(name: string): Promise<string> {
  const folder = process.env.CREDENTIALS_DIRECTORY;
  if (!folder) {
    throw new StoreError(
      "passphraseUnavailable",
      `systemd gave no credentials to this process, so there is no "${name}"`,
      { hint: `in the unit: LoadCredentialEncrypted=${name}:/etc/credstore.encrypted/${name}` },
    );
  }
  const options = { missing: "passphraseUnavailable", guarded: true } as const;
  return usable(await readSecretFile(join(folder, name), options), `the credential ${name}`);
}

/**
 * What a command prints. It runs in a shell and has the terminal, so it may ask for something itself; what it says on
 * standard error is shown.
 */
async function readCommand(command: string): Promise<string> {
  const child = spawn("/bin/sh", ["-c", command], { stdio: ["inherit", "pipe", "inherit"] });
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  const ended = await new Promise<string | undefined>((resolve, reject) => {
    child.once("error", (error) => reject(systemError(error, "cannot run /bin/sh")));
    child.once("close", (code, signal) => {
      if (code === 0) resolve(undefined);
      else resolve(code === null ? `was ended by ${signal}` : `ended with exit code ${code}`);
    });
  });
  if (ended !== undefined) {
    throw new StoreError("passphraseUnavailable", `the passphrase command ${ended}`, {
      hint: "run it yourself; it has to print the passphrase and nothing else",
    });
  }
  const what = "the passphrase command's output";
  return usable(secretText(Buffer.concat(chunks), what), what);
}

/** The passphrase as it goes to SQLCipher: a generated one in its canonical form, any other as it is. */
function usable(text: string, what: string): string {
  try {
    return checkPassphrase(text).passphrase;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    throw new StoreError(error.kind, `${what}: ${error.message}`, { hint: error.hint });
  }
}
