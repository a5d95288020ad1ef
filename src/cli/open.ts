/** Recovers from an interrupted operation, then opens the store for a command. */
import { resolveStorePath } from "../config/paths.js";
import { isStoreNamed } from "../config/settings.js";
import type { LocatedDatabase } from "../databases/copy-clients.js";
import { ignoreKind, isKind, type StoreError, withLine, wrap } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { formatSource } from "../keys/source.js";
import { openWithSource } from "../keys/unlock.js";
import { journalExists } from "../operation/journal.js";
import { waitForOperation } from "../recovery/wait.js";
import type { ClientStore } from "../store/client-store.js";
import type { ClientTable } from "../store/client-table.js";
import type { Context } from "./context.js";
import { findOtherDatabase } from "./hub-store.js";

/**
 * Opens the store for reading and writing.
 *
 * Commands that only read open it for writing too: SQLite leaves sidecar files behind after opening
 * a store in WAL mode read-only.
 *
 * @throws {@link StoreError} notFound - if there is no store
 * @throws {@link StoreError} refused - if the store is not encrypted
 * @throws {@link StoreError} passphraseUnavailable - if there is no passphrase
 * @throws {@link StoreError} wrongPassphrase - if no passphrase opens the store
 * @throws {@link StoreError} newerVersion - if this version does not know the schema
 */
export async function openStore(context: Context): Promise<ClientStore> {
  const { storePath } = context;
  await recoverFirst(context);
  try {
    return await waitForOperation(storePath, () => unlockWithNewestSource(context));
  } catch (error) {
    throw isKind(error, "notFound") ? await addHubDatabase(error, context) : error;
  }
}

/**
 * Opens the store. If the passphrase is wrong or missing, reads the settings again: a rotation that
 * this command has waited for may have changed the source.
 */
async function unlockWithNewestSource(context: Context): Promise<ClientStore> {
  const { storePath, source } = context;
  const open = () => openWithSource(storePath, context.source, { mode: "readwrite" });
  try {
    return await open();
  } catch (error) {
    if (!isKind(error, "wrongPassphrase", "passphraseUnavailable")) throw error;
    await context.refreshSettings();
    if (formatSource(context.source) === formatSource(source)) throw error;
    return await open();
  }
}

/**
 * Opens the store for a command that only reads. Opens an unencrypted store too, and any other
 * database that the hub uses, and prints a warning: the clients of any hub can be inspected.
 *
 * @throws {@link StoreError} as `openStore`, except for an unencrypted store
 */
export async function openStoreToRead(context: Context): Promise<ClientTable> {
  const { storePath, output } = context;
  try {
    return await openStore(context);
  } catch (error) {
    if (isKind(error, "refused")) {
      const { identify } = await import("../store/cipher.js");
      if ((await identify(storePath)).format !== "plaintext") throw error;
      const { openPlaintext } = await import("../store/plain-store.js");
      output.warning(`${storePath} is not encrypted: encrypt it with hivemind-sqlcipher encrypt`);
      return waitForOperation(storePath, () => openPlaintext(storePath));
    }
    const database = isKind(error, "notFound") ? await findHubDatabase(context) : undefined;
    if (database === undefined) throw error;
    const { readIntoMemory } = await import("../databases/copy-clients.js");
    output.warning(
      `${database.location} (${database.name}) is not encrypted: move it to an encrypted store with hivemind-sqlcipher migrate --from ${database.name} --to hivemind-sqlcipher-db-plugin --switch`,
    );
    return readIntoMemory(database);
  }
}

/**
 * Returns the hub's database if it is not a `clients.db`. Returns undefined if the user named
 * another store, if a file exists at the store's path, or if server.json names no other database.
 */
export async function findHubDatabase(context: Context): Promise<LocatedDatabase | undefined> {
  if (!(await isDefaultStore(context)) || (await lstatIfExists(context.storePath)))
    return undefined;
  const database = await findOtherDatabase();
  if (database === undefined) return undefined;
  const { resolveLocation } = await import("../databases/registry.js");
  return { ...database, location: await resolveLocation(database.name, database.config) };
}

/**
 * Returns whether the context's store is the default store. The backup timer names this store by
 * its path, so a named store counts, too, if it has the default path.
 */
async function isDefaultStore({ settings, storePath }: Context): Promise<boolean> {
  return !isStoreNamed(settings.store) || storePath === (await resolveStorePath({}));
}

/**
 * Prints a warning if the hub's server.json names another database, because the default store stays
 * on disk when the hub leaves it. Prints none without a server.json, or if the user named another
 * store than the default.
 *
 * @param advise - returns what to do, given the plugin of the hub's database
 * @returns whether the hub uses another database
 */
export async function warnIfUnused(
  context: Context,
  advise?: (plugin: string) => string,
): Promise<boolean> {
  if (!(await isDefaultStore(context))) return false;
  const other = await findOtherDatabase().catch(ignoreKind("refused", undefined));
  if (other === undefined) return false;
  const { storePath, output } = context;
  const problem = `the hub does not use ${storePath}: its server.json names ${other.name}`;
  output.warning(advise === undefined ? problem : `${problem}. ${advise(other.name)}`);
  return true;
}

export interface PlainDatabase {
  /** Undefined for the SQLite store at the context's path. */
  readonly database: LocatedDatabase | undefined;
}

/**
 * Returns the unencrypted database to back up, or undefined for the encrypted store. First recovers
 * from an interrupted operation, because recovery may replace the store.
 */
export async function findPlainDatabase(context: Context): Promise<PlainDatabase | undefined> {
  await recoverFirst(context);
  const { identify } = await import("../store/cipher.js");
  const { format } = await identify(context.storePath);
  if (format === "plaintext") return { database: undefined };
  const database = format === "absent" ? await findHubDatabase(context) : undefined;
  return database && { database };
}

/**
 * Recovers from an interrupted operation and prints each step. Loads the recovery code only if
 * needed.
 */
export async function recoverFirst({ storePath, output, refreshSettings }: Context): Promise<void> {
  if (!(await journalExists(storePath))) return;
  const { recoverIfNeeded } = await import("../recovery/recover.js");
  for (const message of await recoverIfNeeded(storePath)) output.notice(message);
  await refreshSettings();
}

/** Adds the database that the hub uses instead of a store. */
async function addHubDatabase(error: StoreError, context: Context): Promise<StoreError> {
  const module = (await isDefaultStore(context)) ? (await findOtherDatabase())?.name : undefined;
  if (module === undefined) return error;
  return wrap(error, {
    message: `${error.message}; the hub's server.json names the database ${module}`,
    hint: withLine(
      error.hint,
      `Then move the hub's clients to it: hivemind-sqlcipher migrate --from ${module} --to hivemind-sqlcipher-db-plugin --switch`,
    ),
  });
}
