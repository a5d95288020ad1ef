/** A store about to be replaced: in a single file, under a lock that keeps writers out. */
import { setTimeout as delay } from "node:timers/promises";
import { isKind, StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import { openDatabase, type Secret } from "./cipher.js";
import type { Connection } from "./connection.js";

/**
 * Retry for a second: a command that has just opened the store sees the journal and closes the
 * store in this time.
 */
const lockAttempts = 20;
const lockRetryMs = 50;

export class LockedStore {
  readonly path: string;
  readonly secret: Secret;
  /**
   * The journal mode before the lock, mostly "wal" or "delete". The replacement gets the same mode.
   */
  readonly journalMode: string;
  /** Holds the lock in its open transaction. */
  readonly connection: Connection;

  private constructor(path: string, secret: Secret, journalMode: string, connection: Connection) {
    this.path = path;
    this.secret = secret;
    this.journalMode = journalMode;
    this.connection = connection;
  }

  /**
   * Recovers from a crash, checkpoints the log, and takes the lock that keeps writers out. Does not
   * block readers.
   *
   * Without a log, another file can be renamed over the store's: a stale `-wal` or `-journal` would
   * damage the replacement.
   *
   * @throws {@link StoreError} inUse - if another connection uses the store
   */
  static async lock(path: string, secret: Secret): Promise<LockedStore> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await LockedStore.#tryLock(path, secret);
      } catch (error) {
        if (!isKind(error, "inUse") || attempt === lockAttempts) throw error;
        await delay(lockRetryMs);
      }
    }
  }

  static async #tryLock(path: string, secret: Secret): Promise<LockedStore> {
    const connection = await openDatabase(path, secret);
    let mode = "";
    try {
      mode = await readJournalMode(connection);
      await mergeSidecars(connection);
      await connection.run("BEGIN IMMEDIATE");
      // Another connection may have changed the mode back between these two statements.
      if ((await readJournalMode(connection)) !== "delete") throw inUseError(path);
      await assertNoSidecars(path);
      return new LockedStore(path, secret, mode, connection);
    } catch (error) {
      if (mode !== "") await setJournalMode(connection, mode).catch(() => undefined);
      await connection.close();
      throw error;
    }
  }

  /**
   * Locks a store through an open connection without a transaction. In WAL mode, also blocks
   * readers until the lock is released.
   *
   * From `underLock` on, no other connection can write, not even between two statements. Closes the
   * connection if it fails.
   *
   * @param underLock - called under the lock, before the log is written into the file
   * @throws {@link StoreError} inUse - if another connection uses the store
   */
  static async lockOpened(
    connection: Connection,
    secret: Secret,
    underLock: () => Promise<void>,
  ): Promise<LockedStore> {
    let mode = "";
    try {
      mode = await readJournalMode(connection);
      if (mode === "wal") await mergeLogLocked(connection, underLock);
      await connection.run("BEGIN IMMEDIATE");
      if (mode !== "wal") await underLock();
      if ((await readJournalMode(connection)) !== "delete") throw inUseError(connection.path);
      await assertNoSidecars(connection.path);
      return new LockedStore(connection.path, secret, mode, connection);
    } catch (error) {
      await connection.run("ROLLBACK").catch(() => undefined);
      if (mode === "wal") await setJournalMode(connection, mode).catch(() => undefined);
      await connection.close();
      throw error;
    }
  }

  /** Releases a replaced store. */
  async release(): Promise<void> {
    await this.connection.close();
  }

  /** Releases a store that was not replaced, and restores its journal mode. */
  async unlock(): Promise<void> {
    try {
      await this.connection.run("ROLLBACK");
      await setJournalMode(this.connection, this.journalMode);
    } finally {
      await this.release();
    }
  }
}

async function readJournalMode(connection: Connection): Promise<string> {
  const row = await connection.get<{ journal_mode: string }>("PRAGMA main.journal_mode");
  return row?.journal_mode ?? "";
}

/** @throws {@link StoreError} inUse - if another connection prevents the change */
export async function setJournalMode(connection: Connection, mode: string): Promise<void> {
  const row = await connection.get<{ journal_mode: string }>(`PRAGMA main.journal_mode = ${mode}`);
  if (row?.journal_mode !== mode) throw inUseError(connection.path);
}

/** Writes the log into the file and removes all sidecars. */
async function mergeSidecars(connection: Connection): Promise<void> {
  // A kill can leave an empty log or journal next to a store in another mode than WAL. SQLite
  // ignores this file, but removes it when the mode changes to WAL and back.
  if (await hasSidecars(connection.path)) await setJournalMode(connection, "wal");
  if ((await readJournalMode(connection)) === "wal") {
    const checkpoint = await connection.get<{ busy: number }>("PRAGMA wal_checkpoint(TRUNCATE)");
    if (checkpoint?.busy !== 0) throw inUseError(connection.path);
  }
  await setJournalMode(connection, "delete");
}

/**
 * Writes the log of a store in WAL mode into the file without a gap in the lock: in SQLite's
 * exclusive locking mode a lock outlasts its transaction.
 *
 * In this locking mode, DELETE would leave a journal: TRUNCATE empties it, and the change to DELETE
 * removes it. In the mode NORMAL, the lock is reduced only when the next transaction ends.
 */
async function mergeLogLocked(
  connection: Connection,
  underLock: () => Promise<void>,
): Promise<void> {
  await connection.all("PRAGMA main.locking_mode = EXCLUSIVE");
  await connection.run("BEGIN IMMEDIATE");
  await underLock();
  await connection.run("ROLLBACK");
  await setJournalMode(connection, "truncate");
  await connection.all("PRAGMA main.locking_mode = NORMAL");
  await setJournalMode(connection, "delete");
}

/** @throws {@link StoreError} inUse - if a sidecar shows an open connection */
export async function assertNoSidecars(path: string): Promise<void> {
  if (await hasSidecars(path)) throw inUseError(path);
}

async function hasSidecars(path: string): Promise<boolean> {
  for (const suffix of sidecars) if (await lstatIfExists(path + suffix)) return true;
  return false;
}

function inUseError(path: string): StoreError {
  return new StoreError("inUse", `${path} is open in another process, so it cannot be replaced`, {
    hint: "Stop the program that uses it, or name its service: --unit NAME",
  });
}
