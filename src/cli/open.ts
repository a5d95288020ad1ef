/** Opens the store for a command, after recovering from an interrupted operation. */
import { isStoreNamed } from "../config/settings.js";
import { isKind, type StoreError, withLine, wrap } from "../errors.js";
import { unlockStore } from "../keys/unlock.js";
import { journalExists } from "../operation/journal.js";
import { waitForOperation } from "../recovery/wait.js";
import type { ClientStore } from "../store/client-store.js";
import type { ClientTable } from "../store/client-table.js";
import type { Context } from "./context.js";
import { otherModule } from "./hub-store.js";

/**
 * Opens the store for reading and writing, also for commands that only read: SQLite leaves sidecar
 * files behind if it opens a store in WAL mode read-only.
 *
 * @throws {@link StoreError} notFound - if there is no store
 * @throws {@link StoreError} passphraseUnavailable - if there is no passphrase
 * @throws {@link StoreError} wrongPassphrase - if no passphrase opens the store
 * @throws {@link StoreError} newerVersion - for a schema that this version does not know
 */
export async function openStore(context: Context): Promise<ClientStore> {
  const { storePath, source } = context;
  await recoverFirst(context);
  try {
    return await waitForOperation(storePath, () =>
      unlockStore(storePath, source, { mode: "readwrite" }),
    );
  } catch (error) {
    throw isKind(error, "notFound") ? await withModule(error, context) : error;
  }
}

/**
 * Opens the store for a command that only reads. A store that is not encrypted is opened too, with a
 * warning: whatever the hub uses can be looked at.
 *
 * @throws {@link StoreError} as `openStore`
 */
export async function openStoreToRead(context: Context): Promise<ClientTable> {
  const { storePath, output } = context;
  try {
    return await openStore(context);
  } catch (error) {
    const { identify } = await import("../store/cipher.js");
    if (!isKind(error, "refused") || (await identify(storePath)).format !== "plaintext")
      throw error;
    const { openPlaintext } = await import("../store/plain-store.js");
    output.warning(`${storePath} is not encrypted: encrypt it with hivemind-sqlcipher encrypt`);
    return waitForOperation(storePath, () => openPlaintext(storePath));
  }
}

/**
 * Recovers from an interrupted operation and prints what was done; loads that code only if needed.
 */
export async function recoverFirst({ storePath, output }: Context): Promise<void> {
  if (!(await journalExists(storePath))) return;
  const { recoverIfNeeded } = await import("../recovery/recover.js");
  for (const message of await recoverIfNeeded(storePath)) output.notice(message);
}

/**
 * Names the hub's database where there is no store because the hub uses another kind of database.
 */
async function withModule(error: StoreError, { settings }: Context): Promise<StoreError> {
  const module = isStoreNamed(settings.store) ? undefined : await otherModule();
  if (module === undefined) return error;
  return wrap(error, {
    message: `${error.message}; the hub's server.json names the database ${module}`,
    hint: withLine(
      error.hint,
      `Then move the hub's clients to it: hivemind-sqlcipher migrate --from ${module} --to hivemind-sqlcipher-db-plugin --switch`,
    ),
  });
}
