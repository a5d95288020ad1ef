/** The `unlockStore` of the library. */
import { realPath } from "../config/paths.js";
import type { PassphraseSource } from "../keys/source.js";
import { openWithSource } from "../keys/unlock.js";
import type { ClientStore } from "../store/client-store.js";
import type { ConnectionOptions } from "../store/connection.js";
import { recoverIfNeeded } from "./recover.js";
import { waitForOperation } from "./wait.js";

/**
 * Opens a client store with the passphrase of a source, or with its derived key in the keyring.
 * Leaves the schema unchanged.
 *
 * Recovers the store from an interrupted operation first, and waits up to a minute while a running
 * operation has the hub stopped or replaces the file: a write to the replaced file would be lost.
 * Resolves symbolic links in the path: the keyring has the passphrase under the path of the file.
 *
 * @throws {@link StoreError} notFound - if there is no store
 * @throws {@link StoreError} refused - if the store is not encrypted
 * @throws {@link StoreError} passphraseUnavailable - if the source has no passphrase
 * @throws {@link StoreError} wrongPassphrase - if no passphrase of the source opens the store
 * @throws {@link StoreError} newerVersion - if this version does not know the schema
 * @throws {@link StoreError} inUse - if an operation blocks the store for longer
 * @throws {@link StoreError} what the recovery throws, if the store must not be opened before it
 *
 * @example
 * ```ts
 * await using store = await unlockStore(path, { kind: "keyring" }, { mode: "readwrite" });
 * await store.updateClient(3, { can_escalate: false });
 * ```
 */
export async function unlockStore(
  path: string,
  source: PassphraseSource,
  options: ConnectionOptions,
): Promise<ClientStore> {
  const storePath = await realPath(path);
  await recoverOnce(storePath);
  return await waitForOperation(storePath, () => openWithSource(storePath, source, options));
}

/** The recoveries of this process that are running. */
const recoveries = new Map<string, Promise<unknown>>();

/**
 * Recovers a store. A second call waits for the first: a recovery does not see that its own process
 * has the file open that it replaces.
 */
async function recoverOnce(storePath: string): Promise<void> {
  const running = recoveries.get(storePath) ?? recoverIfNeeded(storePath);
  recoveries.set(storePath, running);
  await running.finally(() => recoveries.delete(storePath));
}
