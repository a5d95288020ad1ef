/**
 * The OS keyring, through keytar. One entry a slot: service `hivemind-sqlcipher`, account the store's resolved path,
 * followed for all but the current passphrase by `#` and the slot.
 */
import { StoreError } from "../errors.js";

export const keyringService = "hivemind-sqlcipher";

/** What is kept for a store. `previous` and `derived` name the file they belong to by its key_id. */
export type Slot = "current" | "pending" | `previous:${string}` | `derived:${string}`;

export interface KeyringEntry {
  readonly slot: Slot;
  readonly secret: string;
}

export function accountOf(storePath: string, slot: Slot): string {
  return slot === "current" ? storePath : `${storePath}#${slot}`;
}

/**
 * The secret kept in a slot; nothing if there is none.
 *
 * @throws StoreError `passphraseUnavailable` if the keyring cannot be asked or stays locked.
 */
export async function getEntry(_storePath: string, _slot: Slot): Promise<string | undefined> {
  throw new StoreError("failed", "not there yet");
}

/**
 * Keeps a secret, and reads it back: it is there when this returns.
 *
 * @throws StoreError `passphraseUnavailable` if the keyring cannot be asked, stays locked, or answers wrong.
 */
export async function setEntry(_storePath: string, _slot: Slot, _secret: string): Promise<void> {
  throw new StoreError("failed", "not there yet");
}

/** Forgets a slot; false if there was nothing. @throws StoreError `passphraseUnavailable` as above. */
export async function deleteEntry(_storePath: string, _slot: Slot): Promise<boolean> {
  throw new StoreError("failed", "not there yet");
}

/** Every entry kept for this store. @throws StoreError `passphraseUnavailable` as above. */
export async function listEntries(_storePath: string): Promise<KeyringEntry[]> {
  throw new StoreError("failed", "not there yet");
}
