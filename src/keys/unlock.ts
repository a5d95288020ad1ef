/** Opens a store with the first passphrase of its source that decrypts it. */
import { ignoreKind, StoreError } from "../errors.js";
import { currentInteraction, withInteraction } from "../process/interaction.js";
import {
  identify,
  type OpenedStore,
  openEncrypted,
  plaintextHeaderError,
  unknownFormatError,
} from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { Connection, type ConnectionOptions } from "../store/connection.js";
import { readKnownSchemaVersion } from "../store/schema.js";
import { bundleName } from "./bundle-name.js";
import { cacheDerivedKey, findCachedKey } from "./derived-key.js";
import { deleteDerivedKeys } from "./keyring.js";
import { missingStoreError, openMovedStore, takeOverEntries } from "./moved-store.js";
import { checkPassphrase } from "./passphrase.js";
import {
  describeSource,
  type Generation,
  isNoEntryError,
  type KeptPassphrase,
  type PassphraseSource,
  readPassphrases,
} from "./source.js";

const notOpened = ignoreKind("wrongPassphrase", undefined);

export interface UnlockedStore extends OpenedStore {
  readonly passphrase: string;
  readonly generation: Generation;
}

/**
 * Opens a store with the first passphrase of its source that decrypts it: the current passphrase,
 * the pending one (after an interrupted rotation), or a previous one (after an older file was
 * restored).
 *
 * Checks that the file exists and is encrypted before it reads any passphrase. Always derives the
 * key from the passphrase, so a returned passphrase is known to open the store.
 *
 * @throws {@link StoreError} passphraseUnavailable - if the source has no passphrase
 * @throws {@link StoreError} wrongPassphrase - if no passphrase of the source opens the store
 */
export async function unlock(
  path: string,
  source: PassphraseSource,
  options: ConnectionOptions,
): Promise<UnlockedStore> {
  const tried: Tried[] = [];
  for (;;) {
    const before = tried.length;
    const keyId = await readKeyId(path);
    try {
      for await (const kept of readPassphrases(source, path, keyId)) {
        const isTried = tried.some(
          (each) => each.keyId === keyId && each.passphrase === kept.passphrase,
        );
        if (isTried) continue;
        const opened = await openEncrypted(path, kept.passphrase, options).catch(notOpened);
        if (opened !== undefined) return await finishUnlock(path, source, opened, kept, tried);
        tried.push({ ...kept, keyId });
      }
    } catch (error) {
      if (!isNoEntryError(error)) throw error;
      return await unlockMoved(path, keyId, options, error);
    }
    // A rotation may have ended between the reads of the keyring and of the file, so this retries
    // while a new passphrase or key_id appears.
    if (tried.length > before && source.kind === "keyring") continue;
    const bundle = bundleName(keyId);
    const error = noneOpensError(path, source, tried, {
      keyring: `Take the passphrase from its bundle: hivemind-sqlcipher bundle import ${bundle} --identity FILE`,
      elsewhere: `Take the passphrase from its bundle: hivemind-sqlcipher bundle show ${bundle} --identity FILE --show-passphrase`,
    });
    if (source.kind !== "keyring") throw error;
    return await unlockMoved(path, keyId, options, error);
  }
}

/**
 * Returns the opened store. Deletes its cached keys if the source does not allow them. Prints a
 * notice if the keyring has a wrong entry for the same slot.
 */
async function finishUnlock(
  path: string,
  source: PassphraseSource,
  opened: OpenedStore,
  kept: KeptPassphrase,
  tried: readonly Tried[],
): Promise<UnlockedStore> {
  if (source.kind === "keyring" && source.withoutKeyCache) await deleteCachedKeys(path, opened);
  const wrong = tried.filter(({ collection }) => collection !== undefined);
  if (kept.collection !== undefined && wrong.length > 0) {
    currentInteraction().notice?.(
      `the keyring has several entries for ${path}: the entry in the collection "${kept.collection}" opens it, ${wrong.map(({ collection }) => `the entry in "${collection}"`).join(" and ")} does not; delete the wrong entry, unless a backup needs it`,
    );
  }
  return { ...opened, ...kept };
}

/**
 * Opens the store with a passphrase of another path, and stores the passphrase for this path.
 *
 * @throws `reason`, if there is no such passphrase, or if the user does not agree
 */
async function unlockMoved(
  path: string,
  keyId: string | undefined,
  options: ConnectionOptions,
  reason: StoreError,
): Promise<UnlockedStore> {
  const moved = await openMovedStore(path, keyId, options);
  if (moved === undefined) throw reason;
  const { opened, passphrase } = moved;
  try {
    await takeOverEntries(path, moved, reason);
  } catch (error) {
    await opened.connection.close();
    throw error;
  }
  return { ...opened, passphrase, generation: "current" };
}

interface Tried extends KeptPassphrase {
  /** The file's key_id when the passphrase was tried. */
  readonly keyId: string | undefined;
}

/**
 * Returns the file's key_id.
 *
 * @throws {@link StoreError} notFound - if there is no file
 * @throws {@link StoreError} refused - if the file is not encrypted or has a plaintext header
 * @throws {@link StoreError} newerVersion - if the schema of an unencrypted file is unknown
 */
async function readKeyId(path: string): Promise<string> {
  const { format, keyId } = await identify(path);
  if (format === "absent") throw await missingStoreError(path);
  if (format === "plaintext") {
    // If the schema is of a newer version, `encrypt` would be wrong advice.
    await using connection = await Connection.open(path, { mode: "readonly", immutable: true });
    await readKnownSchemaVersion(connection);
    throw new StoreError("refused", `${path} is not encrypted`, {
      hint: "Encrypt it: hivemind-sqlcipher encrypt",
    });
  }
  if (format === "unknown") throw await unknownFormatError(path);
  // A plaintext header has no salt, and without it no passphrase opens the file.
  if (keyId === undefined) throw await plaintextHeaderError(path);
  return keyId;
}

/**
 * Opens a client store like `unlock`, or with its derived key in the keyring. Writes a missing or
 * outdated derived key. Leaves the schema unchanged. Neither recovers the store nor waits for an
 * operation: `recovery/unlock-store` does both.
 *
 * @throws {@link StoreError} newerVersion - if this version does not know the schema
 * @throws {@link StoreError} what `unlock` throws
 */
export async function openWithSource(
  path: string,
  source: PassphraseSource,
  options: ConnectionOptions,
): Promise<ClientStore> {
  const usesCache = source.kind === "keyring" && !source.withoutKeyCache;
  let opened = usesCache ? await openWithCachedKey(path, options) : undefined;
  if (opened === undefined) {
    const unlocked = await unlock(path, source, options);
    const { generation, key, passphrase } = unlocked;
    if (usesCache && generation === "current") await cacheDerivedKey(path, key, passphrase);
    opened = unlocked;
  }
  return ClientStore.from(opened);
}

/**
 * Opens the store with its derived key in the keyring. Returns undefined if there is no such key,
 * or if it does not open the file. Does not unlock a locked keyring.
 *
 * Loading SQLCipher and reading the keyring take about the same time, so they run in parallel.
 */
async function openWithCachedKey(
  path: string,
  options: ConnectionOptions,
): Promise<OpenedStore | undefined> {
  const identity = identify(path);
  const unneeded = new AbortController();
  const { signal } = currentInteraction();
  const signals = signal === undefined ? [unneeded.signal] : [signal, unneeded.signal];
  const cachedKey = withInteraction({ signal: AbortSignal.any(signals) }, () =>
    findCachedKey(
      path,
      identity.then(({ keyId = "" }) => keyId),
    ),
  );
  // If the file is not encrypted, nothing awaits `cachedKey`: its failure must not end the process.
  cachedKey.catch(() => undefined);
  if ((await identity).format !== "sqlcipher") {
    unneeded.abort();
    return undefined;
  }
  const key = await cachedKey;
  if (key === undefined) return undefined;
  return await openEncrypted(path, key, options).catch(notOpened);
}

async function deleteCachedKeys(path: string, { connection }: OpenedStore): Promise<void> {
  try {
    await deleteDerivedKeys(path);
  } catch (error) {
    await connection.close();
    throw error;
  }
}

function describeTried({ generation, collection }: KeptPassphrase): string {
  return collection === undefined ? generation : `${generation} in the collection "${collection}"`;
}

/**
 * Returns the error for an encrypted file that no passphrase of its source opens.
 *
 * @param hints - for a source that `bundle import` writes (the keyring or a sealed file), and for
 *   any other source
 */
export function noneOpensError(
  path: string,
  source: PassphraseSource,
  tried: readonly KeptPassphrase[],
  hints: { readonly keyring: string; readonly elsewhere: string },
): StoreError {
  if (source.kind === "keyring") {
    const generations = tried.map(describeTried).join(", ");
    return new StoreError(
      "wrongPassphrase",
      `no passphrase in the keyring opens ${path} (tried: ${generations}), or it is not a database`,
      { hint: hints.keyring },
    );
  }
  for (const { passphrase } of tried) {
    const checked = checkPassphrase(passphrase);
    if (checked.kind !== "mistyped") continue;
    return new StoreError(
      "wrongPassphrase",
      `the passphrase from ${describeSource(source)} does not open ${path}: it has a typing mistake in group ${checked.group}`,
      {
        hint: `Compare group ${checked.group}, counted from the left, with the written passphrase.`,
      },
    );
  }
  return new StoreError(
    "wrongPassphrase",
    `the passphrase from ${describeSource(source)} does not open ${path}, or it is not a database`,
    { hint: source.kind === "sealed" ? hints.keyring : hints.elsewhere },
  );
}

/**
 * Returns the passphrase of a source that opens the store, and the key.
 *
 * @throws {@link StoreError} what `unlock` throws
 */
export async function unlockSecret(
  path: string,
  source: PassphraseSource,
): Promise<Pick<UnlockedStore, "passphrase" | "key">> {
  const { connection, passphrase, key } = await unlock(path, source, { mode: "readwrite" });
  await connection.close();
  return { passphrase, key };
}

/**
 * Checks whether an entry of the keyring for the store opens it.
 *
 * @throws {@link StoreError} wrongPassphrase - if none opens it, or if there is none
 * @throws {@link StoreError} passphraseUnavailable - if the keyring cannot be read
 */
export async function assertKeyringOpens(storePath: string): Promise<void> {
  const source = { kind: "keyring" } as const;
  try {
    for await (const { passphrase } of readPassphrases(source, storePath)) {
      const opened = await openEncrypted(storePath, passphrase, { mode: "readwrite" }).catch(
        notOpened,
      );
      if (opened !== undefined) return await opened.connection.close();
    }
  } catch (error) {
    if (!isNoEntryError(error)) throw error;
  }
  throw new StoreError("wrongPassphrase", `the keyring has lost the passphrase of ${storePath}`);
}
