/**
 * From one database file to another under another key, or under none: `sqlcipher_export`, and the proof that all of it
 * arrived.
 */
import { setTimeout as delay } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import { openEncrypted, type StoreKey } from "./cipher.js";
import { type Attached, compareDatabases } from "./compare.js";
import { Connection } from "./connection.js";

/** What opens a database: its key, or nothing if it is not encrypted. */
export type Secret = StoreKey | undefined;

/** A command that has just opened the store lets go of it when it sees that it has to wait: tried 20 times, 50 ms apart. */
const holdTries = 20;
const holdPauseMs = 50;

/** As many comparing connections as make two cores decrypt at once. */
const comparers = 2;

/**
 * A store that is about to be replaced: brought into one file, and held so that nobody writes to it any more, until it
 * is released. Others may still read it.
 */
export class LockedStore {
  readonly path: string;
  readonly secret: Secret;
  /** The journal mode that it was found in, "wal" or "delete" mostly: the file that replaces it gets the same. */
  readonly journalMode: string;
  readonly #connection: Connection;

  private constructor(path: string, secret: Secret, journalMode: string, connection: Connection) {
    this.path = path;
    this.secret = secret;
    this.journalMode = journalMode;
    this.#connection = connection;
  }

  /**
   * Recovers what a crash left, takes the log into the file, and takes the lock that keeps writers out. Without a log of
   * its own the file can be renamed over: a stale `-wal` or `-journal` would damage what takes its place.
   *
   * @throws StoreError `inUse` if anybody else is using it.
   */
  static async lock(path: string, secret: Secret): Promise<LockedStore> {
    for (let tries = 1; ; tries++) {
      try {
        return await LockedStore.#holdNow(path, secret);
      } catch (error) {
        const isInUse = error instanceof StoreError && error.kind === "inUse";
        if (!isInUse || tries === holdTries) throw error;
        await delay(holdPauseMs);
      }
    }
  }

  static async #holdNow(path: string, secret: Secret): Promise<LockedStore> {
    const connection = await openDatabase(path, secret);
    let found = "";
    try {
      found = await journalModeOf(connection);
      await bringIntoOneFile(connection);
      await connection.run("BEGIN IMMEDIATE");
      // Whoever opened it between those two statements may have switched it back.
      if ((await journalModeOf(connection)) !== "delete") throw inUse(path);
      await assertNoSidecars(path);
      return new LockedStore(path, secret, found, connection);
    } catch (error) {
      if (found !== "") await setJournalMode(connection, found).catch(() => undefined);
      await connection.close();
      throw error;
    }
  }

  /** Lets go of a store that was replaced meanwhile. */
  async release(): Promise<void> {
    await this.#connection.close();
  }

  /** Lets go of a store that stays, in the journal mode that it was found in. */
  async unlock(): Promise<void> {
    try {
      await this.#connection.run("ROLLBACK");
      await setJournalMode(this.#connection, this.journalMode);
    } finally {
      await this.release();
    }
  }
}

/**
 * Says beforehand what `exportStore` could not carry. No hub writes either; an operator's own additions may.
 *
 * @throws StoreError `refused` for a text encoding other than UTF-8, or a virtual table.
 */
export async function assertExportable(connection: Connection): Promise<void> {
  const encoding = await connection.get<{ encoding: string }>("PRAGMA encoding");
  if (encoding?.encoding !== "UTF-8") {
    throw new StoreError("refused", `${connection.path} holds its texts as ${encoding?.encoding}`, {
      hint: "only UTF-8, which is what HiveMind writes, can be converted",
    });
  }
  const virtual = await connection.get<{ name: string }>(
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0",
  );
  if (virtual) {
    throw new StoreError(
      "refused",
      `${connection.path} has a virtual table, ${virtual.name}, which an export does not carry`,
      { hint: "drop it first and make it again afterwards" },
    );
  }
}

/**
 * Copies everything in a held store into a file made for it (empty, or holding nothing but its first page).
 *
 * @throws StoreError `io`, `corrupted`.
 */
export async function exportStore(
  held: LockedStore,
  staged: string,
  secret: Secret,
): Promise<void> {
  await using connection = await openDatabase(held.path, held.secret);
  await exportTo(connection, staged, secret);
}

async function exportTo(connection: Connection, staged: string, secret: Secret): Promise<void> {
  await attach(connection, staged, "staged", secret);
  // Until it is synced and renamed nobody relies on this file, so it needs no journal of its own.
  await connection.all("PRAGMA staged.journal_mode = OFF");
  await connection.all("PRAGMA staged.synchronous = OFF");
  await connection.all("SELECT sqlcipher_export('staged')");
  for (const pragma of ["user_version", "application_id"]) {
    const row = await connection.get<Record<string, number>>(`PRAGMA main.${pragma}`);
    await connection.run(`PRAGMA staged.${pragma} = ${row?.[pragma] ?? 0}`);
  }
}

/**
 * Copies a finished backup into an empty file, under another key, and compares the two. The backup is not touched.
 *
 * @throws StoreError `corrupted` if anything differs, `io`, what `signal` was aborted with.
 */
export async function copyUnder(options: {
  readonly from: string;
  readonly secret: StoreKey;
  readonly to: string;
  readonly key: StoreKey;
  readonly signal: AbortSignal;
}): Promise<void> {
  const { from, secret, to, key, signal } = options;
  // Opened for writing only because what is attached to a connection can do no more than it.
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
 * Proves that a staged file holds what the held store holds, and gives it the journal mode of the store it replaces.
 *
 * @throws StoreError `wrongPassphrase` if the file is not under this key, `corrupted` if anything differs.
 */
export async function verifyExport(
  held: LockedStore,
  staged: string,
  secret: Secret,
  signal: AbortSignal,
): Promise<void> {
  const first = await openDatabase(staged, secret);
  const all: [Connection, ...Connection[]] = [first];
  try {
    while (all.length < comparers) all.push(await openDatabase(staged, secret));
    for (const connection of all) await attach(connection, held.path, "replaced", held.secret);
    await compareDatabases(all, "replaced", signal);
  } finally {
    for (const connection of all) await connection.close();
  }
  await using connection = await openDatabase(staged, secret);
  await setJournalMode(connection, held.journalMode);
}

/** Opens a database that is nobody's but ours, or that its owner has let go of. */
export async function openDatabase(path: string, secret: Secret): Promise<Connection> {
  if (secret) return (await openEncrypted(path, secret, { mode: "readwrite" })).connection;
  return Connection.open(path, { mode: "readwrite" });
}

/**
 * Attaches a database under its raw key. SQLCipher takes the format of an attached file from defaults of the whole
 * process, so for a format 3 file these are changed for the length of one statement; nothing else is opened meanwhile.
 */
async function attach(
  connection: Connection,
  path: string,
  name: Attached,
  secret: Secret,
): Promise<void> {
  const key = secret ? `x'${secret.key.toString("hex")}${secret.salt.toString("hex")}'` : "";
  const older = secret?.cipherCompatibility === 3;
  if (older) await connection.all("PRAGMA cipher_default_compatibility = 3");
  try {
    await connection.run(`ATTACH ? AS ${name} KEY ?`, [path, key]);
  } finally {
    if (older) await connection.all("PRAGMA cipher_default_compatibility = 4");
  }
}

async function journalModeOf(connection: Connection): Promise<string> {
  const row = await connection.get<{ journal_mode: string }>("PRAGMA main.journal_mode");
  return row?.journal_mode ?? "";
}

export async function setJournalMode(connection: Connection, mode: string): Promise<void> {
  const row = await connection.get<{ journal_mode: string }>(`PRAGMA main.journal_mode = ${mode}`);
  if (row?.journal_mode !== mode) throw inUse(connection.path);
}

/** Takes the log into the file, and removes the log and whatever else SQLite has beside it. */
async function bringIntoOneFile(connection: Connection): Promise<void> {
  // A kill can leave an empty log or journal beside a store that is not in WAL mode. SQLite does not mind it, and leaves it
  // there; switched to WAL and back, it removes it.
  if (await hasSidecars(connection.path)) await setJournalMode(connection, "wal");
  if ((await journalModeOf(connection)) === "wal") {
    const checkpoint = await connection.get<{ busy: number }>("PRAGMA wal_checkpoint(TRUNCATE)");
    if (checkpoint?.busy !== 0) throw inUse(connection.path);
  }
  await setJournalMode(connection, "delete");
}

/** @throws StoreError `inUse` if anything that belongs to a connection still lies beside the database. */
export async function assertNoSidecars(path: string): Promise<void> {
  if (await hasSidecars(path)) throw inUse(path);
}

async function hasSidecars(path: string): Promise<boolean> {
  for (const suffix of sidecars) if (await lstatIfExists(path + suffix)) return true;
  return false;
}

function inUse(path: string): StoreError {
  return new StoreError("inUse", `${path} is open elsewhere, so it cannot be replaced`, {
    hint: "stop what uses it; --unit names the service that this program is to stop and start",
  });
}
