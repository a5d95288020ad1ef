/** Opening the store for a command: what an interrupted operation left is settled first. */
import { StoreError } from "../errors.js";
import { unlockStore } from "../keys/unlock.js";
import { journalExists } from "../operation/journal.js";
import { waitForOperation } from "../recovery/wait.js";
import type { ClientStore } from "../store/client-store.js";
import type { Context } from "./context.js";
import { isStoreNamed, otherModule } from "./hub-store.js";

/**
 * @throws StoreError `notFound` without a store there, `passphraseUnavailable` or `wrongPassphrase` without a passphrase
 *   that opens it, `newerVersion` for a schema this program does not know.
 */
export async function openStore(context: Context): Promise<ClientStore> {
  const { storePath, source } = context;
  await recoverFirst(context);
  try {
    // Also for reading: SQLite leaves sidecars behind a store in WAL mode that it may only read.
    return await waitForOperation(storePath, () =>
      unlockStore(storePath, source, { mode: "readwrite" }),
    );
  } catch (error) {
    if (!(error instanceof StoreError && error.kind === "notFound")) throw error;
    throw await withModule(error, context);
  }
}

/** Settles what an interrupted operation left of the store, and says so. What that takes is loaded only then. */
export async function recoverFirst({ storePath, output }: Context): Promise<void> {
  if (!(await journalExists(storePath))) return;
  const { recoverIfNeeded } = await import("../recovery/recover.js");
  for (const sentence of await recoverIfNeeded(storePath)) output.notice(sentence);
}

/** Where there is no store, the hub may keep its clients in another kind of database. */
async function withModule(error: StoreError, { settings }: Context): Promise<StoreError> {
  const module = isStoreNamed(settings) ? undefined : await otherModule();
  if (module === undefined) return error;
  return new StoreError(
    "notFound",
    `${error.message}; the hub's server.json names ${module}, which this command does not serve`,
    {
      hint: `hivemind-sqlcipher init, then hivemind-sqlcipher migrate --from ${module} --to hivemind-sqlcipher-db-plugin --switch`,
    },
  );
}
