/** Reads passphrase files, and determines which part of a file is the passphrase. */
import { StoreError, wrap } from "../errors.js";
import { type FileKind, recogniseContent, withFileKind } from "../fs/file-kind.js";
import { decodeSecret, readSecretBytes, type SecretFileOptions } from "../fs/private.js";
import { currentInteraction } from "../process/interaction.js";
import { checkPassphrase } from "./passphrase.js";

/** Kinds of content that may be a passphrase. */
const possibleKinds: readonly FileKind[] = ["passphrase", "recipients", "raw key", "empty"];

/**
 * Returns the possible passphrases of a file, the likeliest first: the first line without a byte
 * order mark, then the whole text without its final newline. Versions up to 0.1.0 used the whole
 * text, and their stores must open.
 *
 * @throws {@link StoreError} refused - if the file is of another kind, or has no usable passphrase
 */
export async function readPassphrasesInFile(
  path: string,
  options: SecretFileOptions = {},
): Promise<[string, ...string[]]> {
  const bytes = await readSecretBytes(path, options);
  const kind = recogniseContent(bytes);
  if (kind !== undefined && !possibleKinds.includes(kind)) {
    throw withFileKind(new StoreError("refused", `${path} is not a passphrase file`), kind, []);
  }
  return parsePassphrases(decodeSecret(bytes, path), path);
}

/**
 * Returns the possible passphrases of a text, see {@link readPassphrasesInFile}.
 *
 * @param what - the origin of the text, for messages
 */
export function parsePassphrases(text: string, what: string): [string, ...string[]] {
  const whole = canonicalize(text, what);
  // A generated passphrase may be written on several lines.
  if (checkPassphrase(whole).kind === "generated") return [whole];
  const withoutMark = text.replace(/^\ufeff/, "");
  const [first = ""] = withoutMark.split(/\r\n|[\r\n]/);
  if (first === "" || first === text) return [whole];
  const ignored = [
    ...(withoutMark === text ? [] : ["the byte order mark"]),
    ...(first === withoutMark ? [] : ["the lines after the first"]),
  ];
  currentInteraction().notice?.(
    `${what}: the first line is the passphrase; ignored: ${ignored.join(" and ")}`,
  );
  return [canonicalize(first, what), whole];
}

/**
 * Returns the passphrases in a sealed text or a credential, one per line, the newest first. There
 * are several while the store's passphrase changes.
 *
 * @param what - the origin of the text, for messages
 */
export function parsePassphraseLines(text: string, what: string): [string, ...string[]] {
  const whole = canonicalize(text, what);
  const lines = text
    .replace(/^\ufeff/, "")
    .split(/\r\n|[\r\n]/)
    .filter((line) => line !== "");
  const [first, ...others] = lines.map((line) => canonicalize(line, what));
  if (checkPassphrase(whole).kind === "generated" || first === undefined) return [whole];
  return [first, ...others];
}

/**
 * Returns the passphrase as SQLCipher receives it: a generated passphrase in its canonical form.
 */
function canonicalize(text: string, what: string): string {
  try {
    return checkPassphrase(text).passphrase;
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    throw wrap(error, { message: `${what}: ${error.message}` });
  }
}
