/** Recovers from an interrupted operation, then opens the store for a command. */
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
 * Opens the store for reading and writing.
 *
 * Commands that only read open it for writing too: SQLite leaves sidecar files behind after opening
 * a store in WAL mode read-only.
 *
 * @throws {@link StoreError} notFound - if there is no store
 * @throws {@link StoreError} passphraseUnavailable - if there is no passphrase
 * @throws {@link StoreError} wrongPassphrase - if no passphrase opens the store
 * @throws {@link StoreError} newerVersion - if this version does not know the schema
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
 * Opens the store for a command that only reads. Opens an unencrypted store too and prints a
 * warning, so that the clients of any hub can be inspected.
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
 * Recovers from an interrupted operation and prints each step. Loads the recovery code only if
 * needed.
 */
export async function recoverFirst({ storePath, output }: Context): Promise<void> {
  if (!(await journalExists(storePath))) return;
  const { recoverIfNeeded } = await import("../recovery/recover.js");
  for (const message of await recoverIfNeeded(storePath)) output.notice(message);
}

/**
 * Adds the hub's database to the error if there is no store because the hub uses another database.
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
