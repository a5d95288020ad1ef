/**
 * The derived-key cache: the key that a passphrase gave for a file's salt, kept in the keyring beside the passphrase, so
 * that opening the store does not take the 200 ms of deriving it again.
 *
 * What is kept names the format, the salt and the key, and carries an HMAC of these and of the passphrase under that key.
 * So it counts only together with the passphrase that it came from: once that is replaced or removed in the keyring,
 * what is left here opens nothing, and an entry that was garbled is told from a whole one.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { StoreError } from "../errors.js";
import { type CipherCompatibility, keyIdOf, StoreKey } from "../store/cipher.js";
import { deleteEntry, getEntry, getTwoEntries, setEntry } from "./keyring.js";

/** Version, format, salt, key, check: all but the first two in hexadecimal digits. */
const form = /^1:([34]):([0-9a-f]{32}):([0-9a-f]{64}):([0-9a-f]{64})$/;

/** The text that keeps a key. As secret as the passphrase. */
export function formatDerivedKey(key: StoreKey, passphrase: string): string {
  const salt = key.salt.toString("hex");
  const check = checkOf(key, passphrase).toString("hex");
  return `1:${key.cipherCompatibility}:${salt}:${key.key.toString("hex")}:${check}`;
}

/** The key in such a text; nothing if it is garbled, or came from another passphrase. */
export function parseDerivedKey(text: string, passphrase: string): StoreKey | undefined {
  const [, format, salt = "", key = "", check = ""] = form.exec(text) ?? [];
  if (format === undefined) return undefined;
  const compatibility = Number(format) as CipherCompatibility;
  const parsed = new StoreKey(Buffer.from(salt, "hex"), Buffer.from(key, "hex"), compatibility);
  const holds = timingSafeEqual(checkOf(parsed, passphrase), Buffer.from(check, "hex"));
  return holds ? parsed : undefined;
}

function checkOf(key: StoreKey, passphrase: string): Buffer {
  return createHmac("sha256", key.key)
    .update(`hivemind-sqlcipher derived key ${key.cipherCompatibility}\0`)
    .update(key.salt)
    .update(passphrase)
    .digest();
}

/**
 * The key kept for a file whose salt begins so, if the current passphrase gave it; nothing from a locked keyring.
 *
 * @param keyId is found out while the keyring is asked for the passphrase.
 * @throws StoreError `passphraseUnavailable` if the keyring cannot be asked; what `keyId` throws.
 */
export async function keptKey(
  storePath: string,
  keyId: Promise<string>,
): Promise<StoreKey | undefined> {
  const slot = keyId.then((id) => `derived:${id}` as const);
  // Whoever gave it hears of its failure; here it may be that nobody waits for it any more.
  slot.catch(() => undefined);
  const { first: passphrase, second: text } = await getTwoEntries(storePath, "current", slot);
  if (passphrase === undefined || text === undefined) return undefined;
  return parseDerivedKey(text, passphrase);
}

/**
 * Keeps the key that the current passphrase gave. A keyring that refuses is no error: the next command derives it again.
 */
export async function keepKey(storePath: string, key: StoreKey, passphrase: string): Promise<void> {
  const slot = `derived:${keyIdOf(key.salt)}` as const;
  try {
    await setEntry(storePath, slot, formatDerivedKey(key, passphrase));
    // A rotation may have ended meanwhile, and have found nothing to forget.
    if ((await getEntry(storePath, "current")) !== passphrase) await deleteEntry(storePath, slot);
  } catch (error) {
    if (!(error instanceof StoreError && error.kind === "passphraseUnavailable")) throw error;
  }
}
