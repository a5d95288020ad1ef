/**
 * Opening a store with whichever of its passphrases opens it.
 */
import { StoreError } from "../errors.js";
import { identify, type OpenedStore, openEncrypted } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { Connection, type ConnectionOptions } from "../store/connection.js";
import { knownSchemaVersion } from "../store/schema.js";
import { keepKey, keptKey } from "./derived-key.js";
import { deleteDerivedKeys } from "./keyring.js";
import { checkPassphrase } from "./passphrase.js";
import {
  describeSource,
  type Generation,
  type KeptPassphrase,
  type PassphraseSource,
  readPassphrases,
} from "./source.js";

/** An open store, and the passphrase that opened it. */
export interface UnlockedStore extends OpenedStore {
  readonly passphrase: string;
  readonly generation: Generation;
}

/**
 * Opens a store with the first passphrase of its source that fits: the current one, a pending one (a rotation was
 * interrupted), previous ones (an older file was put back). Whether it is there and encrypted is known before any
 * passphrase is asked for. The key is always derived from the passphrase, which is thereby proven.
 *
 * @throws StoreError `passphraseUnavailable` if there is no passphrase to be had, `wrongPassphrase` if none that is
 *   kept opens it, and all that `openEncrypted` throws.
 */
export async function unlock(
  path: string,
  source: PassphraseSource,
  options: ConnectionOptions,
): Promise<UnlockedStore> {
  const tried: Tried[] = [];
  for (;;) {
    const before = tried.length;
    const keyId = await encryptedKeyId(path);
    for await (const kept of readPassphrases(source, path, keyId)) {
      if (tried.some((one) => one.keyId === keyId && one.passphrase === kept.passphrase)) continue;
      let opened: OpenedStore;
      try {
        opened = await openEncrypted(path, kept.passphrase, options);
      } catch (error) {
        if (!(error instanceof StoreError && error.kind === "wrongPassphrase")) throw error;
        tried.push({ ...kept, keyId });
        continue;
      }
      if (source.kind === "keyring" && source.withoutKeyCache) await forgetKeys(path, opened);
      return { ...opened, ...kept };
    }
    // A rotation may have ended between what was read of the keyring and of the file: as long as either says something
    // new, it is tried.
    if (tried.length === before || source.kind !== "keyring") {
      const bundle = `clients.${keyId}.bundle.age`;
      throw noneOpens(path, source, tried, {
        keyring: `its passphrase is in its bundle: hivemind-sqlcipher bundle import ${bundle} --identity FILE`,
        elsewhere: `its passphrase is in its bundle: hivemind-sqlcipher bundle show ${bundle} --identity FILE --show-passphrase`,
      });
    }
  }
}

interface Tried extends KeptPassphrase {
  /** Of the file at that time. */
  readonly keyId: string | undefined;
}

/** @throws StoreError for what is not there, or not encrypted. */
async function encryptedKeyId(path: string): Promise<string | undefined> {
  const { format, keyId } = await identify(path);
  if (format === "absent") {
    throw new StoreError("notFound", `there is no store at ${path}`, {
      hint: "a new store: hivemind-sqlcipher init; another one: --db PATH",
    });
  }
  if (format === "plaintext") {
    // Encrypting one from the future would not help.
    await using connection = await Connection.open(path, { mode: "readonly", immutable: true });
    await knownSchemaVersion(connection);
    throw new StoreError("refused", `${path} is not encrypted`, {
      hint: "hivemind-sqlcipher encrypt",
    });
  }
  if (format === "unknown") {
    throw new StoreError("wrongPassphrase", `${path} is no database`, {
      hint: "another store: --db PATH",
    });
  }
  return keyId;
}

/**
 * A store of clients, opened as by `unlock`, or, where the passphrase is in the keyring, with the key that the keyring
 * keeps beside it, which spares deriving it. One that is not there, or no longer right, is kept anew. The schema is left
 * as it is, whatever the hub on this machine understands.
 *
 * @throws StoreError as `unlock`; `newerVersion` for a schema that this version does not know.
 */
export async function unlockStore(
  path: string,
  source: PassphraseSource,
  options: ConnectionOptions,
): Promise<ClientStore> {
  const cached = source.kind === "keyring" && !source.withoutKeyCache;
  let opened = cached ? await openWithKeptKey(path, options) : undefined;
  if (opened === undefined) {
    const unlocked = await unlock(path, source, options);
    const { generation, key, passphrase } = unlocked;
    if (cached && generation === "current") await keepKey(path, key, passphrase);
    opened = unlocked;
  }
  return ClientStore.from(opened);
}

/**
 * Nothing without such a key, or if it does not open the file: then the passphrase itself has to. Loading SQLCipher and
 * asking the keyring take the same time, so they are done at once; only an open keyring is asked, and if the file turns
 * out to be no encrypted store, what it answers is of no interest.
 */
async function openWithKeptKey(
  path: string,
  options: ConnectionOptions,
): Promise<OpenedStore | undefined> {
  const identity = identify(path);
  const answer = keptKey(
    path,
    identity.then(({ keyId = "" }) => keyId),
  );
  answer.catch(() => undefined);
  if ((await identity).format !== "sqlcipher") return undefined;
  const key = await answer;
  if (key === undefined) return undefined;
  try {
    return await openEncrypted(path, key, options);
  } catch (error) {
    if (error instanceof StoreError && error.kind === "wrongPassphrase") return undefined;
    throw error;
  }
}

async function forgetKeys(path: string, { connection }: OpenedStore): Promise<void> {
  try {
    await deleteDerivedKeys(path);
  } catch (error) {
    await connection.close();
    throw error;
  }
}

/**
 * None of the passphrases that were tried opens an encrypted file.
 *
 * @param hints what to do, where the source is the keyring, and where it is another.
 */
export function noneOpens(
  path: string,
  source: PassphraseSource,
  tried: readonly KeptPassphrase[],
  hints: { readonly keyring: string; readonly elsewhere: string },
): StoreError {
  if (source.kind === "keyring") {
    const generations = tried.map(({ generation }) => generation).join(", ");
    return new StoreError(
      "wrongPassphrase",
      `no passphrase in the keyring opens ${path} (tried: ${generations}), or it is no database`,
      { hint: hints.keyring },
    );
  }
  for (const { passphrase } of tried) {
    const checked = checkPassphrase(passphrase);
    if (checked.kind !== "mistyped") continue;
    return new StoreError(
      "wrongPassphrase",
      `the passphrase from ${describeSource(source)} does not open ${path}: it has a mistake in group ${checked.group}`,
      { hint: `compare group ${checked.group}, counted from the left, with what was written down` },
    );
  }
  return new StoreError(
    "wrongPassphrase",
    `the passphrase from ${describeSource(source)} does not open ${path}, or it is no database`,
    { hint: hints.elsewhere },
  );
}
