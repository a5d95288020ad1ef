/**
 * Where a store's passphrase comes from: the keyring (the rule), a file, a command's output, or a credential that
 * systemd hands to a service.
 */
import { StoreError } from "../errors.js";

export type PassphraseSource =
  | { readonly kind: "keyring" }
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
export const defaultCredential = "hivemind-sqlcipher";

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
  if (kind === "file" && rest !== "") return { kind, path: rest };
  if (kind === "command" && rest.trim() !== "") return { kind, command: rest };
  if (text === "credential") return { kind: "credential", name: defaultCredential };
  if (kind === "credential" && /^[^/\0]+$/.test(rest) && rest !== "." && rest !== "..") {
    return { kind, name: rest };
  }
  throw new StoreError("usage", "the passphrase source is not one of those there are", {
    hint: "keyring, file:PATH, command:CMD, credential or credential:NAME",
  });
}

/** The text that `parseSource` reads. */
export function formatSource(source: PassphraseSource): string {
  if (source.kind === "file") return `file:${source.path}`;
  if (source.kind === "command") return `command:${source.command}`;
  if (source.kind === "credential") return `credential:${source.name}`;
  return "keyring";
}

/**
 * The passphrases kept for a store, the likeliest first: current, pending, then previous ones, of which the one for
 * the file's own `keyId` leads. A passphrase is fetched only when it is asked for.
 *
 * @throws StoreError `passphraseUnavailable` if there is none or it cannot be had, `refused` for one that is unsafe.
 */
export async function* readPassphrases(
  _source: PassphraseSource,
  _storePath: string,
  _keyId?: string,
): AsyncGenerator<KeptPassphrase> {
  throw new StoreError("failed", "not there yet");
}
