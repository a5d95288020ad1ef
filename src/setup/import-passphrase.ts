/** `bundle import`: stores the passphrase of a bundle in the keyring, or seals it. */
import { type BundleOpener, readBundle } from "../bundle/bundle.js";
import { isKind, StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { bundleName } from "../keys/bundle-name.js";
import { sealInFront } from "../keys/reseal.js";
import { adoptPendingIfEqual, planRotation } from "../keys/rotation-plan.js";
import { describeSource, fillSourceHint, isKept, type PassphraseSource } from "../keys/source.js";
import type { OperationLock } from "../operation/lock.js";
import { identify, openEncrypted } from "../store/cipher.js";
import { adoptPassphrase } from "../swap/adopt-passphrase.js";
import { shellQuote } from "../text/escape.js";

export interface ImportOptions {
  readonly lock: OperationLock;
  readonly source: PassphraseSource;
  readonly bundle: string;
  readonly opener: BundleOpener;
}

export interface ImportResult {
  readonly imported: {
    readonly path: string;
    readonly keyId: string;
    readonly bundle: string;
    /** Whether the keyring already had the passphrase. */
    readonly known: boolean;
  };
}

/**
 * Checks for a store before its lock is taken: without the store's directory, the lock fails with a
 * hint to create a store.
 *
 * @throws {@link StoreError} notFound - if the store does not exist
 */
export async function assertStoreExists(storePath: string, bundle: string): Promise<void> {
  if (await lstatIfExists(storePath)) return;
  throw new StoreError("notFound", `there is no store at ${storePath}`, {
    hint: `Restore a backup with its bundle: hivemind-sqlcipher restore BACKUP --bundle ${shellQuote(bundle)} --identity FILE`,
  });
}

/**
 * Stores the passphrase of a bundle in the keyring, or seals it, after opening the store with it.
 *
 * @throws {@link StoreError} refused - if the source is neither the keyring nor a sealed file, or
 *   the bundle is another store's
 * @throws {@link StoreError} notFound - if the store does not exist
 * @throws {@link StoreError} wrongPassphrase - if the bundle is this store's, but does not open it
 * @throws {@link StoreError} what `readBundle` and the keyring throw
 */
export async function importPassphrase(options: ImportOptions): Promise<ImportResult> {
  const { lock, source, bundle, opener } = options;
  const { storePath } = lock;
  if (source.kind !== "keyring" && source.kind !== "sealed") {
    throw new StoreError("refused", `the passphrase comes from ${describeSource(source)}`, {
      hint: fillSourceHint,
    });
  }
  const { passphrase, key_id: keyId } = await readBundle(bundle, opener);
  const identity = await identify(storePath);
  const opened = await openEncrypted(storePath, passphrase, { mode: "readwrite" }).catch(
    (error: unknown) => {
      if (!isKind(error, "wrongPassphrase")) throw error;
      if (identity.keyId === undefined || identity.keyId === keyId) throw error;
      throw new StoreError(
        "refused",
        `${bundle} belongs to another store: its key_id is ${keyId}, that of ${storePath} is ${identity.keyId}`,
        { hint: `Use the bundle ${bundleName(identity.keyId)}.` },
      );
    },
  );
  await opened.connection.close();
  if (source.kind === "sealed") {
    const known = await isKept(source, storePath, passphrase);
    if (!known) await sealInFront(source.path, passphrase);
    return { imported: { path: storePath, keyId: opened.keyId, bundle, known } };
  }
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
    imported: { path: storePath, keyId: opened.keyId, bundle, known: keyring === undefined },
  };
}
