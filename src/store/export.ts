/** Exports a database into a file under another key or without a key, and verifies the result. */
import { pathToFileURL } from "node:url";
import { StoreError } from "../errors.js";
import { openDatabase, openEncrypted, type Secret, type StoreKey } from "./cipher.js";
import { defaultCipherPragmas, formatParameters } from "./cipher-settings.js";
import { type Attached, compareDatabases } from "./compare.js";
import type { Connection } from "./connection.js";
import { type LockedStore, setJournalMode } from "./locked-store.js";

/** The number of comparing connections: decrypting two databases uses two cores. */
const comparers = 2;

/**
 * Throws if an export would lose something. No hub writes such a database, but an operator may have
 * changed it.
 *
 * @throws {@link StoreError} refused - for a text encoding other than UTF-8, or a virtual table
 */
export async function assertExportable(connection: Connection): Promise<void> {
  const encoding = await connection.get<{ encoding: string }>("PRAGMA encoding");
  if (encoding?.encoding !== "UTF-8") {
    throw new StoreError("refused", `${connection.path} has the encoding ${encoding?.encoding}`, {
      hint: "Convert it to UTF-8 first, the encoding of HiveMind and the only one that is exported.",
    });
  }
  const virtual = await connection.get<{ name: string }>(
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0",
  );
  if (virtual) {
    throw new StoreError(
      "refused",
      `${connection.path} has a virtual table, ${virtual.name}, which cannot be exported`,
      { hint: "Drop the table first, and create it again afterwards." },
    );
  }
}

/**
 * Copies a locked store into a new file, which is empty or has only its first page.
 *
 * @throws {@link StoreError} corrupted - if the store is damaged
 * @throws {@link StoreError} io - if the system fails
 */
export async function exportStore(
  store: LockedStore,
  staged: string,
  secret: Secret,
): Promise<void> {
  await using connection = await openDatabase(store.path, store.secret);
  await exportTo(connection, staged, secret);
}

/**
 * Copies a plaintext database into an encrypted file and compares the two, even while a hub writes
 * to the database. Both steps share a read transaction, so the copy has the state of a single
 * moment.
 *
 * @param staged - encrypted under `key`, empty or with only its first page
 * @throws {@link StoreError} refused - if an export would lose something
 * @throws {@link StoreError} corrupted - if the two differ
 * @throws {@link StoreError} io - if the system fails
 */
export async function copyPlaintext(options: {
  readonly from: string;
  readonly to: string;
  readonly key: StoreKey;
  readonly signal: AbortSignal;
}): Promise<void> {
  await using source = await openDatabase(options.from, undefined);
  await assertExportable(source);
  await attachStaged(source, options.to, options.key);
  await source.exec("BEGIN");
  await source.get("SELECT count(*) FROM main.sqlite_schema");
  await exportAttached(source);
  await compareDatabases([source], "staged", options.signal);
  await source.exec("COMMIT");
}

async function exportTo(connection: Connection, staged: string, secret: Secret): Promise<void> {
  await attachStaged(connection, staged, secret);
  await exportAttached(connection);
}

async function attachStaged(connection: Connection, staged: string, secret: Secret): Promise<void> {
  await attach(connection, staged, "staged", secret);
  // The file is worthless until it is complete, synced and renamed, so it needs no journal.
  await connection.all("PRAGMA staged.journal_mode = OFF");
  await connection.all("PRAGMA staged.synchronous = OFF");
}

async function exportAttached(connection: Connection): Promise<void> {
  await connection.all("SELECT sqlcipher_export('staged')");
  for (const pragma of ["user_version", "application_id"]) {
    const row = await connection.get<Record<string, number>>(`PRAGMA main.${pragma}`);
    await connection.run(`PRAGMA staged.${pragma} = ${row?.[pragma] ?? 0}`);
  }
}

/**
 * Copies a finished backup into an empty file under another key and compares the two. Does not
 * change the backup.
 *
 * @throws {@link StoreError} corrupted - if they differ
 * @throws {@link StoreError} io - if the system fails
 * @throws the reason of `signal` if it is aborted
 */
export async function copyEncrypted(options: {
  readonly from: string;
  readonly secret: StoreKey;
  readonly to: string;
  readonly key: StoreKey;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { from, secret, to, key, signal } = options;
  // Mode readwrite, because an attached database has the mode of its connection.
  const source = await openEncrypted(from, secret, { mode: "readwrite", immutable: true });
  try {
    await exportTo(source.connection, to, key);
  } finally {
    await source.connection.close();
  }
  await using copy = await openDatabase(to, key);
  await attach(copy, `${pathToFileURL(from)}?immutable=1`, "replaced", secret);
  await compareDatabases([copy], "replaced", signal);
}

/**
 * Compares a staged file with the locked store, and sets the store's journal mode on it.
 *
 * @throws {@link StoreError} wrongPassphrase - if the file is not under this key
 * @throws {@link StoreError} corrupted - if anything differs
 */
export async function verifyExport(
  store: LockedStore,
  staged: string,
  secret: Secret,
  signal: AbortSignal,
): Promise<void> {
  const first = await openDatabase(staged, secret);
  const all: [Connection, ...Connection[]] = [first];
  try {
    while (all.length < comparers) all.push(await openDatabase(staged, secret));
    for (const connection of all) await attach(connection, store.path, "replaced", store.secret);
    await compareDatabases(all, "replaced", signal);
  } finally {
    for (const connection of all) await connection.close();
  }
  await using connection = await openDatabase(staged, secret);
  await setJournalMode(connection, store.journalMode);
}

/**
 * Compares a locked store with a file under another key that nothing changes. The connection with
 * the lock reads both, because no other connection can read the store.
 *
 * @throws {@link StoreError} corrupted - if anything differs
 * @throws {@link StoreError} interrupted - if the signal is aborted
 */
export async function compareWithLocked(
  { connection }: LockedStore,
  staged: string,
  key: StoreKey,
  signal: AbortSignal,
): Promise<void> {
  // The file stays attached, since the lock is a transaction. An immutable file has no sidecars.
  await attach(connection, `${pathToFileURL(staged)}?immutable=1`, "staged", key);
  await compareDatabases([connection], "staged", signal);
}

/**
 * Attaches a database under its raw key.
 *
 * SQLCipher reads the parameters of an attached file from defaults of the process. For a file with
 * other parameters, these defaults change for a single statement, during which no other database is
 * opened.
 */
async function attach(
  connection: Connection,
  path: string,
  name: Attached,
  secret: Secret,
): Promise<void> {
  const key = secret ? `x'${secret.key.toString("hex")}${secret.salt.toString("hex")}'` : "";
  const parameters =
    secret?.parameters ??
    (secret?.cipherCompatibility === 3 ? formatParameters[3] : formatParameters[4]);
  const isDefault = parameters === formatParameters[4];
  if (!isDefault) await runAll(connection, defaultCipherPragmas(parameters));
  try {
    await connection.run(`ATTACH ? AS ${name} KEY ?`, [path, key]);
  } finally {
    if (!isDefault) await runAll(connection, defaultCipherPragmas(formatParameters[4]));
  }
}

async function runAll(connection: Connection, pragmas: readonly string[]): Promise<void> {
  for (const pragma of pragmas) await connection.all(pragma);
}
