/**
 * The derived-key cache: the key derived from a passphrase and a file's salt, kept in the keyring
 * next to the passphrase. It saves the 200 ms of key derivation when the store is opened.
 *
 * An entry contains the format, the salt, the key, and an HMAC with this key over format, salt and
 * passphrase. The entry is therefore valid only with its own passphrase: `parseDerivedKey` returns
 * nothing for a garbled entry or an entry of a replaced passphrase.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { isKind } from "../errors.js";
import { type CipherCompatibility, keyIdOf, StoreKey } from "../store/cipher.js";
import { deleteEntry, getEntriesIfUnlocked, setEntry } from "./keyring.js";

/** Version, format, salt, key, HMAC: all but the first two in hexadecimal. */
const entryPattern = /^1:([34]):([0-9a-f]{32}):([0-9a-f]{64}):([0-9a-f]{64})$/;

/** Returns the entry's text, which is as secret as the passphrase. */
export function formatDerivedKey(key: StoreKey, passphrase: string): string {
  const salt = key.salt.toString("hex");
  const mac = computeMac(key, passphrase).toString("hex");
  return `1:${key.cipherCompatibility}:${salt}:${key.key.toString("hex")}:${mac}`;
}

/** Returns the key, or undefined for a garbled entry or an entry of another passphrase. */
export function parseDerivedKey(text: string, passphrase: string): StoreKey | undefined {
  const [, format, salt = "", key = "", mac = ""] = entryPattern.exec(text) ?? [];
  if (format === undefined) return undefined;
  const compatibility = Number(format) as CipherCompatibility;
  const parsed = new StoreKey(Buffer.from(salt, "hex"), Buffer.from(key, "hex"), compatibility);
  const isValid = timingSafeEqual(computeMac(parsed, passphrase), Buffer.from(mac, "hex"));
  return isValid ? parsed : undefined;
}

function computeMac(key: StoreKey, passphrase: string): Buffer {
  return createHmac("sha256", key.key)
    .update(`hivemind-sqlcipher derived key ${key.cipherCompatibility}\0`)
    .update(key.salt)
    .update(passphrase)
    .digest();
}

/**
 * Returns the cached key of a file's salt and the current passphrase, if there is one. Treats a
 * locked keyring as empty.
 *
 * @param keyId - the file's key_id; a promise, so that file and keyring are read at the same time
 */
export async function findCachedKey(
  storePath: string,
  keyId: Promise<string>,
): Promise<StoreKey | undefined> {
  const slot = keyId.then((id) => `derived:${id}` as const);
  // The caller handles a failure of `keyId`. It may occur when nothing awaits `slot` any more.
  slot.catch(() => undefined);
  const [passphrase, text] = await getEntriesIfUnlocked(storePath, ["current", slot]);
  if (passphrase === undefined || text === undefined) return undefined;
  return parseDerivedKey(text, passphrase);
}

/**
 * Caches the key of the current passphrase.
 *
 * Ignores errors of the keyring: the next command derives the key again. Writes nothing to a
 * keyring that shows a dialog before each access, because the cache would add a dialog to each
 * command.
 */
export async function cacheDerivedKey(
  storePath: string,
  key: StoreKey,
  passphrase: string,
): Promise<void> {
  const slot = `derived:${keyIdOf(key.salt)}` as const;
  try {
    if (!(await isCurrent(storePath, passphrase))) return;
    await setEntry(storePath, slot, formatDerivedKey(key, passphrase));
    // A rotation that ended before this write found no entry to delete.
    if (!(await isCurrent(storePath, passphrase))) await deleteEntry(storePath, slot);
  } catch (error) {
    if (!isKind(error, "passphraseUnavailable")) throw error;
  }
}

/** Returns false also if reading the current passphrase would show a dialog. */
async function isCurrent(storePath: string, passphrase: string): Promise<boolean> {
  const [current] = await getEntriesIfUnlocked(storePath, ["current"]);
  return current === passphrase;
}
