/** Opens a store with the passphrase, of those in its source, that fits. */
import { StoreError } from "../errors.js";
import { currentInteraction, withInteraction } from "../process/interaction.js";
import { identify, type OpenedStore, openEncrypted } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { Connection, type ConnectionOptions } from "../store/connection.js";
import { knownSchemaVersion } from "../store/schema.js";
import { cacheKey, findCachedKey } from "./derived-key.js";
import { deleteDerivedKeys } from "./keyring.js";
import { checkPassphrase } from "./passphrase.js";
import {
  describeSource,
  type Generation,
  type KeptPassphrase,
  type PassphraseSource,
  readPassphrases,
} from "./source.js";

/** An open store with the passphrase that opened it. */
export interface UnlockedStore extends OpenedStore {
  readonly passphrase: string;
  readonly generation: Generation;
}

/**
 * Opens a store with the first passphrase of its source that fits: the current one, a pending one
 * (after an interrupted rotation), previous ones (after an older file was put back).
 *
 * Checks that the file exists and is encrypted before it reads any passphrase. Always derives the
 * key from the passphrase, so a returned passphrase is known to open the store.
 *
 * @throws {@link StoreError} `passphraseUnavailable` - if the source has no passphrase
 * @throws {@link StoreError} `wrongPassphrase` - if no passphrase of the source opens the store
 * @throws {@link StoreError} what `openEncrypted` throws
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
      if (source.kind === "keyring" && source.withoutKeyCache) await deleteCachedKeys(path, opened);
      return { ...opened, ...kept };
    }
    // A rotation may have ended between reading the keyring and reading the file, so this retries
    // as long as the keyring or the file has changed.
    if (tried.length === before || source.kind !== "keyring") {
      const bundle = `clients.${keyId}.bundle.age`;
      throw noneOpens(path, source, tried, {
        keyring: `Take the passphrase from its bundle: hivemind-sqlcipher bundle import ${bundle} --identity FILE`,
        elsewhere: `Take the passphrase from its bundle: hivemind-sqlcipher bundle show ${bundle} --identity FILE --show-passphrase`,
      });
    }
  }
}

interface Tried extends KeptPassphrase {
  /** The file's key_id when the passphrase was tried. */
  readonly keyId: string | undefined;
}

/** Returns the file's key_id. @throws {@link StoreError} for a missing or unencrypted file. */
async function encryptedKeyId(path: string): Promise<string | undefined> {
  const { format, keyId } = await identify(path);
  if (format === "absent") {
    throw new StoreError("notFound", `there is no store at ${path}`, {
      hint: "Create a store: hivemind-sqlcipher init; or name another: --db PATH",
    });
  }
  if (format === "plaintext") {
    // For a schema of a newer version, encrypt would be wrong advice.
    await using connection = await Connection.open(path, { mode: "readonly", immutable: true });
    await knownSchemaVersion(connection);
    throw new StoreError("refused", `${path} is not encrypted`, {
      hint: "Encrypt it: hivemind-sqlcipher encrypt",
    });
  }
  if (format === "unknown") {
    throw new StoreError("wrongPassphrase", `${path} is not a database`, {
      hint: "Name the store: --db PATH",
    });
  }
  return keyId;
}

/**
 * Opens a client store like `unlock`, or with the derived key that the keyring caches for it. Writes
 * a missing or outdated cache entry. Leaves the schema unchanged.
 *
 * @throws {@link StoreError} `newerVersion` - for a schema that this version does not know
 * @throws {@link StoreError} what `unlock` throws
 */
export async function unlockStore(
  path: string,
  source: PassphraseSource,
  options: ConnectionOptions,
): Promise<ClientStore> {
  const cached = source.kind === "keyring" && !source.withoutKeyCache;
  let opened = cached ? await openWithCachedKey(path, options) : undefined;
  if (opened === undefined) {
    const unlocked = await unlock(path, source, options);
    const { generation, key, passphrase } = unlocked;
    if (cached && generation === "current") await cacheKey(path, key, passphrase);
    opened = unlocked;
  }
  return ClientStore.from(opened);
}

/**
 * Returns undefined without a cached key, or if it does not open the file. Loading SQLCipher and
 * reading the keyring take about the same time, so they run in parallel. A locked keyring is not
 * unlocked for this.
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
  // For a file that is not encrypted, a failure of the keyring does not matter.
  cachedKey.catch(() => undefined);
  if ((await identity).format !== "sqlcipher") {
    unneeded.abort();
    return undefined;
  }
  const key = await cachedKey;
  if (key === undefined) return undefined;
  try {
    return await openEncrypted(path, key, options);
  } catch (error) {
    if (error instanceof StoreError && error.kind === "wrongPassphrase") return undefined;
    throw error;
  }
}

async function deleteCachedKeys(path: string, { connection }: OpenedStore): Promise<void> {
  try {
    await deleteDerivedKeys(path);
  } catch (error) {
    await connection.close();
    throw error;
  }
}

/**
 * Returns the error for an encrypted file that no passphrase of its source opens.
 *
 * @param hints - for the keyring, and for any other source
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
    { hint: hints.elsewhere },
  );
}
