/** Opening the store for a command: what an interrupted operation left is settled first. */
import type { ClientStore } from "../store/client-store.js";
import type { Context } from "./context.js";

/**
 * @throws StoreError `notFound` without a store there, `passphraseUnavailable` or `wrongPassphrase` without a passphrase
 *   that opens it, `newerVersion` for a schema this program does not know.
 */
export async function openStore(context: Context): Promise<ClientStore> {
  const { settleIfNeeded } = await import("../lifecycle/settle.js");
  const { unlockStore } = await import("../keys/unlock.js");
  for (const sentence of await settleIfNeeded(context.storePath)) context.output.notice(sentence);
  // Also for reading: SQLite leaves sidecars behind a store in WAL mode that it may only read.
  return await unlockStore(context.storePath, context.source, { mode: "readwrite" });
}
