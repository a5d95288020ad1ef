/**
 * Opening a store with whichever of its passphrases opens it.
 */
import { StoreError } from "../errors.js";
import { identify, type OpenedStore, openEncrypted } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { Connection, type ConnectionOptions } from "../store/connection.js";
import { knownSchemaVersion } from "../store/schema.js";
import { checkPassphrase } from "./passphrase.js";
import {
  formatSource,
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
 * passphrase is asked for.
 *
 * @throws StoreError `passphraseUnavailable` if there is no passphrase to be had, `wrongPassphrase` if none that is
 *   kept opens it, and all that `openEncrypted` throws.
 */
export async function unlock(
  path: string,
  source: PassphraseSource,
  options: ConnectionOptions,
): Promise<UnlockedStore> {
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
  const tried: KeptPassphrase[] = [];
  for await (const kept of readPassphrases(source, path, keyId)) {
    try {
      return { ...(await openEncrypted(path, kept.passphrase, options)), ...kept };
    } catch (error) {
      if (!(error instanceof StoreError && error.kind === "wrongPassphrase")) throw error;
      tried.push(kept);
    }
  }
  throw noneOpens(path, source, keyId, tried);
}

/**
 * `unlock`, as a store of clients. Its schema is left as it is, whatever the hub on this machine understands.
 *
 * @throws StoreError as `unlock`; `newerVersion` for a schema that this version does not know.
 */
export async function unlockStore(
  path: string,
  source: PassphraseSource,
  options: ConnectionOptions,
): Promise<ClientStore> {
  return ClientStore.from(await unlock(path, source, options), { migrate: false });
}

function noneOpens(
  path: string,
  source: PassphraseSource,
  keyId: string | undefined,
  tried: KeptPassphrase[],
): StoreError {
  const bundle = keyId === undefined ? "a bundle" : `clients.${keyId}.bundle.age`;
  const otherwise = `its passphrase is in ${bundle}: hivemind-sqlcipher bundle import`;
  if (source.kind === "keyring") {
    const generations = tried.map(({ generation }) => generation).join(", ");
    return new StoreError(
      "wrongPassphrase",
      `no passphrase in the keyring opens ${path} (tried: ${generations}), or it is no database`,
      { hint: otherwise },
    );
  }
  for (const { passphrase } of tried) {
    const checked = checkPassphrase(passphrase);
    if (checked.kind !== "mistyped") continue;
    return new StoreError(
      "wrongPassphrase",
      `the passphrase from ${describe(source)} does not open ${path}: it has a mistake in group ${checked.group}`,
      { hint: `compare group ${checked.group}, counted from the left, with what was written down` },
    );
  }
  return new StoreError(
    "wrongPassphrase",
    `the passphrase from ${describe(source)} does not open ${path}, or it is no database`,
    { hint: otherwise },
  );
}

/** Without a command's text, which may be long. */
function describe(source: PassphraseSource): string {
  return source.kind === "command" ? "the passphrase command" : formatSource(source);
}
