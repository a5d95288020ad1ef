/**
 * The passphrases of stores in the OS keyring.
 *
 * An entry has the service `hivemind-sqlcipher`. Its account is the store's resolved path, followed
 * by `#` and the slot, except for the current passphrase. Users can read an entry without this
 * software: `secret-tool lookup service hivemind-sqlcipher account PATH`.
 *
 * Every function throws `passphraseUnavailable` if the keyring cannot be reached or stays locked.
 */
import { StoreError } from "../errors.js";
import { isBrokenSession, keyringError, toKeyringError } from "./keyring-error.js";
import {
  callInNewWorker,
  callInProcess,
  callInWorker,
  type KeytarCall,
  type KeytarResult,
} from "./keytar.js";
import { type Provider, unknownProvider } from "./provider.js";
import { collectionOf, type Items, isSessionCollection, SecretService } from "./secret-service.js";

export const keyringService = "hivemind-sqlcipher";

/**
 * The role of an entry. `derived`, and usually `previous`, contain the key_id of a file; otherwise
 * `previous` has a random name.
 */
export type Slot = "current" | "pending" | `previous:${string}` | `derived:${string}`;

export function isSlotOf<Kind extends "previous" | "derived">(
  slot: Slot,
  kind: Kind,
): slot is `${Kind}:${string}` {
  return slot.startsWith(`${kind}:`);
}

/** Returns the key_id or random name in a slot; undefined for a slot of another kind. */
export function nameInSlot(slot: Slot, kind: "previous" | "derived"): string | undefined {
  return isSlotOf(slot, kind) ? slot.slice(kind.length + 1) : undefined;
}

export interface KeyringEntry {
  readonly slot: Slot;
  readonly secret: string;
}

/** An entry for a slot. Only another program can have created several entries for a slot. */
export interface MatchingEntry {
  readonly secret: string;
  /** The collection's label, if several entries match. */
  readonly collection?: string;
}

/** Matches the text after `#` in an account, for every slot but `current`. */
const slotPattern = /^(?:pending|(?:previous|derived):[0-9a-f]+)$/;

/** The maximum number of attempts to open a new session with the provider. */
const maxSessionAttempts = 3;

/** Providers that show no dialog when an unlocked entry is replaced or deleted. */
const quietProviders: readonly Provider["kind"][] = ["gnome-keyring", "oo7"];

/** Returns the secret of a slot, or undefined if there is none. */
export async function getEntry(storePath: string, slot: Slot): Promise<string | undefined> {
  for await (const { secret } of readEntries(storePath, slot)) return secret;
  return undefined;
}

/**
 * Yields the secrets of all entries for a slot. The default collection comes first, and locked
 * collections come last.
 */
export async function* readEntries(storePath: string, slot: Slot): AsyncGenerator<MatchingEntry> {
  await using keyring = await Keyring.open();
  yield* keyring.read(formatAccount(storePath, slot), { unlock: true });
}

/**
 * Returns the secrets of slots over one connection, up to the first slot that is empty or that
 * would show a dialog.
 *
 * @param slots - a slot can be a promise, which is awaited when the secrets before it are read
 */
export async function getEntriesIfUnlocked(
  storePath: string,
  slots: Iterable<Slot | Promise<Slot>>,
): Promise<string[]> {
  await using keyring = await Keyring.open();
  const secrets: string[] = [];
  for await (const slot of slots) {
    const account = formatAccount(storePath, slot);
    const { value } = await keyring.read(account, { unlock: false }).next();
    if (value === undefined) break;
    secrets.push(value.secret);
  }
  return secrets;
}

/**
 * Stores a secret in the default collection and reads it back.
 *
 * @throws {@link StoreError} passphraseUnavailable - also if there is no default collection, if it
 *   is deleted at logout, or if the keyring returns another secret
 */
export async function setEntry(storePath: string, slot: Slot, secret: string): Promise<void> {
  await using keyring = await Keyring.open();
  await keyring.store(formatAccount(storePath, slot), secret);
}

/** Checks that the keyring can store a passphrase. May show a dialog. */
export async function assertKeyringUsable(): Promise<void> {
  await using keyring = await Keyring.open();
  await keyring.assertWritable();
}

/** Deletes all entries of a slot. Returns false if there were none. */
export async function deleteEntry(storePath: string, slot: Slot): Promise<boolean> {
  await using keyring = await Keyring.open();
  return await keyring.delete(formatAccount(storePath, slot));
}

/** Returns the passphrase in each slot of a store, without derived keys. */
export async function listEntries(storePath: string): Promise<KeyringEntry[]> {
  const entries: KeyringEntry[] = [];
  for (const slot of await listSlots(storePath)) {
    const secret = isSlotOf(slot, "derived") ? undefined : await getEntry(storePath, slot);
    if (secret !== undefined) entries.push({ slot, secret });
  }
  return entries;
}

/** Deletes every cached derived key of a store. */
export async function deleteDerivedKeys(storePath: string): Promise<void> {
  for (const slot of await listSlots(storePath)) {
    if (isSlotOf(slot, "derived")) await deleteEntry(storePath, slot);
  }
}

export interface StoreInKeyring {
  readonly storePath: string;
  readonly slots: readonly Slot[];
}

/**
 * Returns every store in the keyring, without reading a secret.
 *
 * @param options.unlock - false to show no dialog; the entries of a locked KeePassXC are then
 *   missing
 */
export async function listStoresInKeyring(options: { unlock: boolean }): Promise<StoreInKeyring[]> {
  await using keyring = await Keyring.open();
  const stores = new Map<string, Slot[]>();
  for (const account of await keyring.listAccounts(options)) {
    const { storePath, slot } = parseAccount(account);
    stores.set(storePath, [...(stores.get(storePath) ?? []), slot]);
  }
  return [...stores].map(([storePath, slots]) => ({ storePath, slots }));
}

async function listSlots(storePath: string): Promise<readonly Slot[]> {
  const stores = await listStoresInKeyring({ unlock: true });
  return stores.find((store) => store.storePath === storePath)?.slots ?? [];
}

/**
 * Returns the account of a slot.
 *
 * @throws {@link StoreError} refused - if the store's path is the account of another store's slot
 */
function formatAccount(storePath: string, slot: Slot): string {
  if (parseAccount(storePath).slot !== "current") {
    throw new StoreError(
      "refused",
      `in the keyring, the passphrase of ${storePath} would replace the passphrase of another store`,
      { hint: "Rename the store to a name without #." },
    );
  }
  return slot === "current" ? storePath : `${storePath}#${slot}`;
}

function parseAccount(account: string): { storePath: string; slot: Slot } {
  const mark = account.lastIndexOf("#");
  const slot = account.slice(mark + 1);
  if (mark === -1 || !slotPattern.test(slot)) return { storePath: account, slot: "current" };
  return { storePath: account.slice(0, mark), slot: slot as Slot };
}

/** A connection to the keyring. Its methods throw `passphraseUnavailable`. */
class Keyring implements AsyncDisposable {
  readonly #service: SecretService;

  private constructor(service: SecretService) {
    this.#service = service;
  }

  static async open(): Promise<Keyring> {
    try {
      return new Keyring(await SecretService.connect(process.env));
    } catch (error) {
      throw toKeyringError(error, unknownProvider);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#service[Symbol.asyncDispose]();
  }

  /** Yields the secrets of an account. Omits locked entries if `unlock` is false. */
  async *read(
    account: string,
    { unlock }: { readonly unlock: boolean },
  ): AsyncGenerator<MatchingEntry> {
    const { unlocked, locked } = await this.#try(() => this.#find(account, unlock));
    const items = { unlocked, locked: unlock ? locked : [] };
    const [first, ...others] = [...items.unlocked, ...items.locked];
    if (first === undefined) return;
    if (others.length > 0) return yield* this.#readSeveral(items);
    const secret = await this.#try(() => this.#readItem(account, first, items));
    if (secret !== undefined) yield { secret };
  }

  async store(account: string, secret: string): Promise<void> {
    await this.assertWritable();
    await this.#try(async () => {
      const { locked } = await this.#service.search({ service: keyringService, account });
      await this.#change(["setPassword", keyringService, account, secret], locked);
    });
    const { value } = await this.read(account, { unlock: true }).next();
    if (value?.secret === secret) return;
    const provider = await this.#service.findProvider();
    throw keyringError("not-kept", { provider, detail: account });
  }

  async delete(account: string): Promise<boolean> {
    return await this.#try(async () => {
      const { unlocked, locked } = await this.#find(account, true);
      if (unlocked.length + locked.length === 0) return false;
      for (const item of locked) await this.#unlockCollection(collectionOf(item));
      await this.#change(["deletePassword", keyringService, account], locked);
      const left = await this.#service.search({ service: keyringService, account });
      if (left.unlocked.length + left.locked.length === 0) return true;
      const provider = await this.#service.findProvider();
      throw keyringError("refused", { provider, detail: `${account} was not deleted` });
    });
  }

  async listAccounts({ unlock }: { readonly unlock: boolean }): Promise<string[]> {
    return await this.#try(async () => {
      const { unlocked, locked } = await this.#find(undefined, unlock);
      const accounts = await Promise.all(
        [...unlocked, ...locked].map((item) => this.#service.readAttribute(item, "account")),
      );
      return [...new Set(accounts.filter((account) => account !== undefined))];
    });
  }

  /** Checks that a new entry would be kept. Unlocks the default collection if necessary. */
  async assertWritable(): Promise<void> {
    await this.#try(async () => {
      const collection = await this.#service.findDefaultCollection();
      const provider = await this.#service.findProvider();
      if (collection === undefined) throw keyringError("no-collection", { provider });
      if (isSessionCollection(collection)) throw keyringError("session-collection", { provider });
      await this.#unlockCollection(collection);
    });
  }

  /**
   * Finds the items of an account, or of all accounts. If there are none, unlocks a locked default
   * collection first: a locked database of KeePassXC shows no items.
   */
  async #find(account: string | undefined, unlock: boolean): Promise<Items> {
    const service = this.#service;
    const attributes = { service: keyringService, ...(account !== undefined && { account }) };
    const items = await service.search(attributes);
    if (!unlock || items.unlocked.length + items.locked.length > 0) return items;
    const collection = await service.findDefaultCollection();
    if (collection === undefined || !(await service.isLocked(collection))) return items;
    await this.#unlockCollection(collection);
    return await service.search(attributes);
  }

  /**
   * Reads the only item of an account. Returns undefined if the item was deleted after the search.
   */
  async #readItem(account: string, item: string, { locked }: Items): Promise<string | undefined> {
    const call = ["getPassword", keyringService, account] as const;
    const attributes = { service: keyringService, account };
    let mayPrompt = false;
    if (locked.includes(item)) {
      await this.#unlockCollection(collectionOf(item));
      // KeePassXC can ask its user before each access, also in an unlocked collection.
      mayPrompt = (await this.#service.search(attributes)).locked.length > 0;
    }
    const secret = await this.#call(call, mayPrompt);
    if (typeof secret === "string") return secret;
    const left = await this.#service.search(attributes);
    if (left.unlocked.length + left.locked.length === 0) return undefined;
    // KWallet and libsecret sometimes fail to agree on a session key. keytar then returns no entry.
    const provider = await this.#service.findProvider();
    const second = await this.#callWithNewSession(call, provider.name);
    if (typeof second === "string") return second;
    throw keyringError("no-secret", { provider, detail: account });
  }

  /**
   * Reads several items of an account. keytar would return only one of them, and not a chosen one.
   */
  async *#readSeveral({ unlocked, locked }: Items): AsyncGenerator<MatchingEntry> {
    const service = this.#service;
    const defaultCollection = await this.#try(() => service.findDefaultCollection());
    const rank = (item: string) => {
      if (collectionOf(item) === defaultCollection) return 0;
      return isSessionCollection(collectionOf(item)) ? 2 : 1;
    };
    const byRank = (a: string, b: string) => rank(a) - rank(b);
    let refused: StoreError | undefined;
    let count = 0;
    for (const item of [...unlocked.toSorted(byRank), ...locked.toSorted(byRank)]) {
      const collection = await this.#try(() => service.readLabel(collectionOf(item)));
      if (locked.includes(item) && !(await this.#try(() => service.unlock(item)))) {
        refused ??= await this.#try(() => this.#lockedError(collectionOf(item)));
        continue;
      }
      count++;
      yield { secret: await this.#try(() => service.readSecret(item)), collection };
    }
    if (count === 0 && refused !== undefined) throw refused;
  }

  async #unlockCollection(collection: string): Promise<void> {
    const service = this.#service;
    if (!(await service.isLocked(collection))) return;
    if ((await service.unlock(collection)) && !(await service.isLocked(collection))) return;
    throw await this.#lockedError(collection);
  }

  async #lockedError(collection: string): Promise<StoreError> {
    return keyringError("locked", {
      provider: await this.#service.findProvider(),
      collection: await this.#service.readLabel(collection),
      isOther: collection !== (await this.#service.findDefaultCollection()),
    });
  }

  /**
   * Replaces or deletes an entry.
   *
   * @param locked - the account's locked items
   */
  async #change(call: KeytarCall, locked: readonly string[]): Promise<void> {
    const { kind, name } = await this.#service.findProvider();
    // libsecret ignores a locked item when deleting, but unlocks it for reading.
    if (locked.length > 0) await callInWorker(["getPassword", call[1], call[2]], name);
    await this.#call(call, locked.length > 0 || !quietProviders.includes(kind));
  }

  /** @param mayPrompt - whether the provider may show a dialog */
  async #call(call: KeytarCall, mayPrompt: boolean): Promise<KeytarResult> {
    const name = async () => (await this.#service.findProvider()).name;
    try {
      return mayPrompt ? await callInWorker(call, await name()) : await callInProcess(call);
    } catch (error) {
      if (!isBrokenSession(error)) throw error;
      return await this.#callWithNewSession(call, await name());
    }
  }

  /** Calls keytar in a new process. KWallet may refuse the new session as well. */
  async #callWithNewSession(call: KeytarCall, provider: string): Promise<KeytarResult> {
    for (let count = 1; ; count++) {
      try {
        return await callInNewWorker(call, provider);
      } catch (error) {
        if (!isBrokenSession(error) || count === maxSessionAttempts) throw error;
      }
    }
  }

  async #try<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof StoreError) throw error;
      throw toKeyringError(error, await this.#service.findProvider());
    }
  }
}
