/**
 * The recovery key: an age identity that opens the passphrase bundles, made by `init` and never kept by this project.
 * What is kept is its recipient, which can only lock. See https://age-encryption.org/v1, "The X25519 recipient type".
 *
 * Only X25519 keys are taken (`age1…`, `AGE-SECRET-KEY-1…`): every age there is opens what is locked with them, while
 * plugins' and post-quantum keys would ask for more than `age` on the day of the restore.
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
 * A recipient in its one form (lower case, no blanks around it).
 *
 * @throws StoreError `usage` for what is none. A secret given by mistake is not repeated in the message.
 */
export function parseRecipient(text: string): string {
  const recipient = text.trim();
  if (/^AGE-SECRET-KEY-/i.test(recipient)) {
    throw new StoreError("usage", "a recovery key was given where its recipient belongs", {
      hint: "the secret key is for opening only, and anybody may have seen it now; give the age1… text that belongs to it: age-keygen -y FILE",
    });
  }
  const shown = recipient.length > 80 ? `${recipient.slice(0, 80)}…` : recipient;
  if (/^ssh-/.test(recipient)) {
    throw new StoreError("usage", `an SSH key cannot be a recipient: ${shown}`, {
      hint: "make an age key: age-keygen -o recovery-key.txt; its recipient begins with age1",
    });
  }
  if (/^age1[a-z0-9]+1/i.test(recipient)) {
    throw new StoreError("usage", `a post-quantum or plugin recipient cannot be used: ${shown}`, {
      hint: "bundles open with age alone, of any version; give a recipient that age-keygen made",
    });
  }
  if (!isKey(recipient, "age")) {
    throw new StoreError(
      "usage",
      `this is no age recipient, or one with a typing mistake: ${shown}`,
      {
        hint: "a recipient is age1 followed by 58 letters and digits",
      },
    );
  }
  return recipient.toLowerCase();
}

/**
 * The identities in the text of an identity file, as age-keygen writes it: one a line, `#` begins a comment.
 *
 * @throws StoreError `usage` if there is none in it, or something else. The text is never repeated.
 */
export function parseIdentities(text: string): string[] {
  if (text.includes("-----BEGIN AGE ENCRYPTED FILE-----")) {
    throw new StoreError("usage", "the recovery key's file is itself encrypted", {
      hint: "decrypt it first: age -d FILE > recovery-key.txt (on a disk that keeps nothing, such as /dev/shm)",
    });
  }
  const lines = text.split(/\r?\n/).map((line) => line.trim());
  const identities = lines.filter((line) => line !== "" && !line.startsWith("#"));
  if (identities.length === 0) throw new StoreError("usage", "there is no recovery key in it");
  return identities.map(parseIdentity);
}

function parseIdentity(text: string): string {
  const identity = text.toUpperCase();
  if (identity.startsWith("AGE1")) {
    throw new StoreError("usage", "a recipient was given where the recovery key belongs", {
      hint: "what opens a bundle begins with AGE-SECRET-KEY-1",
    });
  }
  if (!isKey(identity, "AGE-SECRET-KEY-")) {
    const looksRight = identity.startsWith("AGE-SECRET-KEY-1");
    throw new StoreError(
      "usage",
      looksRight ? "the recovery key has a typing mistake" : "this is no recovery key",
      { hint: "it is AGE-SECRET-KEY-1 followed by 58 letters and digits" },
    );
  }
  return identity;
}

/** Bech32, whose checksum finds any mistake in up to four characters. */
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
 * The text of an identity file, known to hold identities. Its mode is not looked at: on the day of the restore it comes
 * from a stick or a CD that has none.
 *
 * @throws StoreError `notFound`, `usage` if it holds no recovery key, `io`.
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
