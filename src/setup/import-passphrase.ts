/**
 * `bundle import`: the passphrase out of a bundle into the keyring, once it is seen to open the store.
 *
 *   importPassphrase(options: ImportOptions): Promise<ImportResult>
 */
import { type BundleOpener, readBundle } from "../bundle/bundle.js";
import { StoreError } from "../errors.js";
import { adoptPendingIfEqual, planRotation } from "../keys/rotation-plan.js";
import { describeSource, type PassphraseSource } from "../keys/source.js";
import type { OperationLock } from "../operation/lock.js";
import { identify, openEncrypted } from "../store/cipher.js";
import { adoptPassphrase } from "../swap/adopt-passphrase.js";

export interface ImportOptions {
  readonly lock: OperationLock;
  readonly source: PassphraseSource;
  readonly bundle: string;
  readonly opener: BundleOpener;
}

export interface ImportResult {
  readonly imported: {
    readonly path: string;
    readonly key_id: string;
    readonly bundle: string;
    /** Whether the keyring had it already. */
    readonly known: boolean;
  };
}

/**
 * Imports the passphrase.
 *
 * @throws StoreError `refused` if the passphrase does not come from the keyring, or the bundle is another store's;
 *   `wrongPassphrase` if it is this store's and does not open it; what `readBundle` and the keyring throw.
 */
export async function importPassphrase(options: ImportOptions): Promise<ImportResult> {
  const { lock, source, bundle, opener } = options;
  const { storePath } = lock;
  if (source.kind !== "keyring") {
    throw new StoreError("refused", `the passphrase comes from ${describeSource(source)}`, {
      hint: "bundle show --show-passphrase shows it, to be put there; or use --passphrase-source keyring",
    });
  }
  const { passphrase, key_id: keyId } = await readBundle(bundle, opener);
  const identity = await identify(storePath);
  if (identity.format === "absent") {
    throw new StoreError("notFound", `there is no store at ${storePath}`, {
      hint: "restore puts a backup there, with the passphrase out of its bundle",
    });
  }
  const opened = await openEncrypted(storePath, passphrase, { mode: "readwrite" }).catch(
    (error: unknown) => {
      if (!(error instanceof StoreError) || error.kind !== "wrongPassphrase") throw error;
      if (identity.keyId === keyId) throw error;
      throw new StoreError(
        "refused",
        `${bundle} is another store's: it is for key_id ${keyId}, and ${storePath} has ${identity.keyId}`,
        { hint: `the bundle that is needed is clients.${identity.keyId}.bundle.age` },
      );
    },
  );
  await opened.connection.close();
  await adoptPendingIfEqual(storePath, passphrase);
  const keyring = await planRotation(storePath, source, passphrase, { keyId: opened.keyId }, true);
  if (keyring) {
    await adoptPassphrase({
      operation: "import-passphrase",
      storePath,
      passphrase,
      key: opened.key,
      keyring,
    });
  }
  return {
    imported: { path: storePath, key_id: opened.keyId, bundle, known: keyring === undefined },
  };
}
