/**
 * The recovery key: an age identity that opens the passphrase bundles.
 *
 * `planRecipients` generates the key if none exists or the user requests one. The key is shown once
 * or written to --recovery-key-file; the settings keep only its recipient, which can encrypt but
 * not decrypt. See https://age-encryption.org/v1, "The X25519 recipient type".
 *
 * Only X25519 keys are accepted (`age1…`, `AGE-SECRET-KEY-1…`), because every version of age opens
 * bundles for them. On the day of the restore, a plugin's key would also need the plugin, and a
 * post-quantum key age 1.3 or later.
 */
import { bech32 } from "@scure/base";
import { armor, Decrypter, generateX25519Identity, identityToRecipient } from "age-encryption";
import { isKind, StoreError } from "../errors.js";
import { type FileKind, recogniseContent, withFileKind } from "../fs/file-kind.js";
import { decodeSecret, readSecretBytes } from "../fs/private.js";
import { currentInteraction } from "../process/interaction.js";

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

/** Returns the first lines of a recovery key file, up to the place of the recipient. */
export function formatRecoveryKeyHeading(storePath: string): string {
  return `# Recovery key of the HiveMind store ${storePath}\n# Opens its passphrase bundles: age -d -i THIS-FILE clients.….bundle.age\n# public key: `;
}

/**
 * Returns a recipient in canonical form (trimmed, lower case).
 *
 * @throws {@link StoreError} usage - for any other text; the message does not repeat a secret
 */
export function parseRecipient(text: string): string {
  const recipient = text.trim();
  if (/^AGE-SECRET-KEY-/i.test(recipient)) {
    throw new StoreError("usage", "a recovery key was given instead of its recipient", {
      hint: "Generate a new key, because this one may be in the shell's history, and give the age1… text that age-keygen -y FILE prints.",
    });
  }
  const shown = recipient.length > 80 ? `${recipient.slice(0, 80)}…` : recipient;
  if (/^ssh-/.test(recipient)) {
    throw new StoreError("usage", `an SSH key cannot be a recipient: ${shown}`, {
      hint: "Generate an age key: age-keygen -o recovery-key.txt; its recipient begins with age1.",
    });
  }
  if (decodeBech32(recipient)?.prefix.toLowerCase().startsWith("age1")) {
    throw new StoreError("usage", `a post-quantum or plugin recipient cannot be used: ${shown}`, {
      hint: "Generate a key with age-keygen, without -pq, and give its recipient: every version of age opens bundles for it.",
    });
  }
  if (!isKey(recipient, "age")) {
    throw new StoreError("usage", `not an age recipient, or a typing mistake in it: ${shown}`, {
      hint: "Give age1 followed by 58 letters and digits.",
    });
  }
  return recipient.toLowerCase();
}

export interface Identities {
  /** In canonical form; at least one identity. */
  readonly usable: string[];
  /** Skipped lines, for messages, without secrets. */
  readonly skipped: string[];
}

/**
 * Returns the usable identities in an identity file, as age-keygen writes it: an identity per line,
 * `#` begins a comment. Skips identities of plugins, SSH keys and post-quantum keys.
 *
 * @throws {@link StoreError} usage - if there is no usable identity; the message repeats no line
 */
export function parseIdentities(text: string): Identities {
  const usable: string[] = [];
  const skipped: string[] = [];
  let firstProblem: IdentityProblem | undefined;
  for (const { number, line } of findIdentityLines(text)) {
    const identity = line.toUpperCase();
    if (isKey(identity, "AGE-SECRET-KEY-")) {
      usable.push(identity);
      continue;
    }
    const problem = identityProblems.find(({ pattern }) => pattern.test(identity)) ?? unknownLine;
    firstProblem ??= problem;
    skipped.push(`line ${number}: ${problem.name}`);
  }
  if (usable.length > 0) return { usable, skipped };
  const { message, hint } = firstProblem ?? noIdentity;
  throw new StoreError("usage", message, { hint });
}

/** Returns the lines with an identity. An SSH key has several lines and counts once. */
function findIdentityLines(text: string): { number: number; line: string }[] {
  const lines: { number: number; line: string }[] = [];
  let isInKey = false;
  for (const [index, raw] of text
    .replace(/^\ufeff/, "")
    .split(/\r\n|[\r\n]/)
    .entries()) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    if (!isInKey) lines.push({ number: index + 1, line });
    if (/^-----BEGIN /.test(line)) isInKey = true;
    if (/^-----END /.test(line)) isInKey = false;
  }
  return lines;
}

interface IdentityProblem {
  /** For the notice about a skipped line. */
  readonly name: string;
  /** The error if no identity is usable. */
  readonly message: string;
  readonly hint: string;
}

const identityHint = "Give AGE-SECRET-KEY-1 followed by 58 letters and digits.";

const noIdentity = { message: "no recovery key in the file", hint: identityHint };

const unknownLine: IdentityProblem = {
  name: "not a recovery key",
  message: "not a recovery key",
  hint: identityHint,
};

/** `pattern` is matched against the line in upper case. The first match applies. */
const identityProblems: readonly (IdentityProblem & { readonly pattern: RegExp })[] = [
  {
    pattern: /^AGE1/,
    name: "a recipient",
    message: "a recipient was given instead of the recovery key",
    hint: "Give the file with AGE-SECRET-KEY-1…: a recipient only encrypts.",
  },
  {
    pattern: /^AGE-PLUGIN-/,
    name: "the identity of a plugin",
    message: "the identity of an age plugin opens no bundle: bundles are encrypted to X25519 keys",
    hint: identityHint,
  },
  {
    pattern: /^AGE-SECRET-KEY-PQ-1/,
    name: "a post-quantum identity",
    message: "a post-quantum key opens no bundle: bundles are encrypted to X25519 keys",
    hint: identityHint,
  },
  {
    pattern: /^-----BEGIN (?!AGE )|^SSH-/,
    name: "an SSH key",
    message: "an SSH key is not a recovery key",
    hint: "Bundles are encrypted to age keys only: give AGE-SECRET-KEY-1….",
  },
  {
    pattern: /^AGE-SECRET-KEY-1/,
    name: "a recovery key with a typing mistake",
    message: "the recovery key has a typing mistake",
    hint: identityHint,
  },
];

/** Returns whether the text is Bech32 with this prefix and 32 bytes. */
function isKey(text: string, prefix: string): boolean {
  const decoded = decodeBech32(text);
  return (
    decoded?.prefix.toLowerCase() === prefix.toLowerCase() && decoded.bytes.length === keyBytes
  );
}

/**
 * Returns undefined if the text is not Bech32 with a valid checksum, which detects up to four wrong
 * characters. Accepts any length: a post-quantum recipient has about 2000 characters.
 */
function decodeBech32(text: string): { prefix: string; bytes: Uint8Array } | undefined {
  try {
    return bech32.decodeToBytes(text, false);
  } catch {
    return undefined;
  }
}

/** For these kinds, the errors of this module already describe the file. */
const describedKinds: readonly FileKind[] = [
  "identity",
  "recipients",
  "ssh key",
  "encrypted with a passphrase",
  "passphrase",
];

/**
 * Returns the usable identities of a file, a line for each. Ignores the file's mode and owner: on
 * the day of the restore the file comes from a USB stick or CD, without modes.
 *
 * @param askPassphrase - for a file that age encrypted with a passphrase, binary or armored
 * @throws {@link StoreError} notFound - if there is no such file
 * @throws {@link StoreError} refused - if it is not a file, is too long, or is reached through
 *   another user's link
 * @throws {@link StoreError} usage - if it contains no usable recovery key, or is encrypted and
 *   `askPassphrase` is missing
 * @throws {@link StoreError} wrongPassphrase - if the passphrase does not decrypt it
 * @throws {@link StoreError} corrupted - if it is truncated or altered
 * @throws {@link StoreError} io - if it cannot be read
 */
export async function readIdentityFile(
  path: string,
  askPassphrase?: () => Promise<string>,
): Promise<string> {
  const bytes = await readSecretBytes(path, { skipPermissionCheck: true });
  const kind = recogniseContent(bytes);
  const isEncrypted = kind === "encrypted with a passphrase";
  try {
    const text = isEncrypted
      ? await decryptIdentities(bytes, path, askPassphrase)
      : decodeSecret(bytes, path);
    const { usable, skipped } = parseIdentities(text);
    if (skipped.length > 0) {
      currentInteraction().notice?.(`${path}: skipped ${skipped.join(", ")}`);
    }
    return usable.join("\n");
  } catch (error) {
    if (!isKind(error, "usage", "refused")) throw error;
    const message = error.message.includes(path) ? error.message : `${path}: ${error.message}`;
    const withPath = new StoreError("usage", message, { hint: error.hint });
    throw withFileKind(withPath, kind, describedKinds);
  }
}

async function decryptIdentities(
  bytes: Uint8Array,
  path: string,
  askPassphrase: (() => Promise<string>) | undefined,
): Promise<string> {
  if (askPassphrase === undefined) {
    throw new StoreError("usage", `the recovery key ${path} is encrypted with a passphrase`, {
      hint: "Give its passphrase with --identity-passphrase-file FILE.",
    });
  }
  const text = Buffer.from(bytes).toString("latin1");
  const decrypter = new Decrypter();
  decrypter.addPassphrase(await askPassphrase());
  try {
    const isArmored = text.trimStart().startsWith("-----BEGIN");
    return await decrypter.decrypt(isArmored ? armor.decode(text) : bytes, "text");
  } catch (error) {
    const isWrong = error instanceof Error && error.message.startsWith("no identity matched");
    throw isWrong
      ? new StoreError("wrongPassphrase", `the passphrase does not decrypt ${path}`, {
          hint: "Give the passphrase with which the recovery key was encrypted.",
        })
      : new StoreError("corrupted", `${path} is truncated or altered`, { cause: error });
  }
}
