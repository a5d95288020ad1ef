/**
 * The recovery key: an age identity that opens the passphrase bundles. `init` generates it and does
 * not store it; the settings hold only its recipient, which can encrypt but not decrypt. See
 * https://age-encryption.org/v1, "The X25519 recipient type".
 *
 * Only X25519 keys are accepted (`age1…`, `AGE-SECRET-KEY-1…`), because every version of age opens
 * bundles for them. Keys of plugins and post-quantum keys need more than `age` on the day of the
 * restore.
 */
import { bech32 } from "@scure/base";
import { generateX25519Identity, identityToRecipient } from "age-encryption";
import { StoreError } from "../errors.js";
import { readSecretFile } from "../fs/private.js";

export interface RecoveryKey {
  /** `AGE-SECRET-KEY-1…`: the secret. */
  readonly identity: string;
  /** `age1…`: public. */
  readonly recipient: string;
}

const keyBytes = 32;

export async function generateRecoveryKey(): Promise<RecoveryKey> {
  const identity = await generateX25519Identity();
  return { identity, recipient: await identityToRecipient(identity) };
}

/**
 * Returns a recipient in canonical form (trimmed, lower case).
 *
 * @throws {@link StoreError} `usage` - for any other text; a secret is not repeated in the message
 */
export function parseRecipient(text: string): string {
  const recipient = text.trim();
  if (/^AGE-SECRET-KEY-/i.test(recipient)) {
    throw new StoreError("usage", "a recovery key was given instead of its recipient", {
      hint: "Generate another key, as this one may be in the shell's history, and give its age1… text: age-keygen -y FILE",
    });
  }
  const shown = recipient.length > 80 ? `${recipient.slice(0, 80)}…` : recipient;
  if (/^ssh-/.test(recipient)) {
    throw new StoreError("usage", `an SSH key cannot be a recipient: ${shown}`, {
      hint: "Generate an age key: age-keygen -o recovery-key.txt; its recipient begins with age1.",
    });
  }
  if (/^age1[a-z0-9]+1/i.test(recipient)) {
    throw new StoreError("usage", `a post-quantum or plugin recipient cannot be used: ${shown}`, {
      hint: "Give a recipient that age-keygen generated: every version of age opens bundles for it.",
    });
  }
  if (!isKey(recipient, "age")) {
    throw new StoreError("usage", `not an age recipient, or a typing mistake in it: ${shown}`, {
      hint: "Give age1 followed by 58 letters and digits.",
    });
  }
  return recipient.toLowerCase();
}

/**
 * Returns the identities in an identity file's text, as age-keygen writes it: an identity per line,
 * `#` begins a comment.
 *
 * @throws {@link StoreError} `usage` - if there is none, or any other line; no line is repeated
 */
export function parseIdentities(text: string): string[] {
  if (text.includes("-----BEGIN AGE ENCRYPTED FILE-----")) {
    throw new StoreError("usage", "the identity file is encrypted with a passphrase", {
      hint: "Decrypt it to a directory in memory first: age -d FILE > /dev/shm/recovery-key.txt",
    });
  }
  const lines = text.split(/\r?\n/).map((line) => line.trim());
  const identities = lines.filter((line) => line !== "" && !line.startsWith("#"));
  if (identities.length === 0) throw new StoreError("usage", "no recovery key in the file");
  return identities.map(parseIdentity);
}

function parseIdentity(text: string): string {
  const identity = text.toUpperCase();
  if (identity.startsWith("AGE1")) {
    throw new StoreError("usage", "a recipient was given instead of the recovery key", {
      hint: "Give the file with AGE-SECRET-KEY-1…: a recipient only encrypts.",
    });
  }
  if (!isKey(identity, "AGE-SECRET-KEY-")) {
    const isMistyped = identity.startsWith("AGE-SECRET-KEY-1");
    throw new StoreError(
      "usage",
      isMistyped ? "the recovery key has a typing mistake" : "not a recovery key",
      { hint: "Give AGE-SECRET-KEY-1 followed by 58 letters and digits." },
    );
  }
  return identity;
}

/** Checks the Bech32 checksum, which detects up to four wrong characters. */
function isKey(text: string, prefix: string): boolean {
  try {
    const decoded = bech32.decodeToBytes(text);
    return (
      decoded.prefix.toLowerCase() === prefix.toLowerCase() && decoded.bytes.length === keyBytes
    );
  } catch {
    return false;
  }
}

/**
 * Returns an identity file's text after parsing it. Ignores the file's mode: on the day of the
 * restore the file comes from a USB stick or CD, without modes.
 *
 * @throws {@link StoreError} `notFound` - if there is no such file
 * @throws {@link StoreError} `usage` - if it holds no recovery key
 * @throws {@link StoreError} `io` - if it cannot be read
 */
export async function readIdentityFile(path: string): Promise<string> {
  const text = await readSecretFile(path, { guarded: true });
  try {
    parseIdentities(text);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    throw new StoreError(error.kind, `${path}: ${error.message}`, { hint: error.hint });
  }
  return text;
}
