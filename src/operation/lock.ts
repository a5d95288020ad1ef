/**
 * The operation lock: one operation on a store at a time.
 *
 * It is SQLite's exclusive lock on an empty file, `clients.db.lock`, in the directory of the store.
 * The system releases it when the process ends, however it ends, so a lock is never stale. The file
 * is never deleted: another process may have locked it just before the deletion. Commands that only
 * read or write clients do not take the lock.
 */
import { constants } from "node:fs";
import { lstat, open, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { hasCode, isKind, StoreError, systemError } from "../errors.js";
import { isRoot } from "../fs/user.js";
import { missingStoreError } from "../keys/moved-store.js";
import { findHolders, formatHolders } from "../process/holders.js";
import { Connection } from "../store/connection.js";
import { readJournalEntry } from "./journal.js";

/**
 * The stores locked by this process. POSIX locks belong to the process: a second attempt would
 * release the first lock by closing the file.
 */
const heldHere = new Set<string>();

/** Returns the path of a lock file: `clients.db.lock` next to `clients.db`. */
export function lockPath(path: string): string {
  return `${path}.lock`;
}

/** The operation lock of a store, until it is released or the process ends. */
export class OperationLock implements AsyncDisposable {
  readonly storePath: string;
  readonly #connection: Connection;

  /** @internal Use `acquireLock`. */
  constructor(storePath: string, connection: Connection) {
    this.storePath = storePath;
    this.#connection = connection;
  }

  async release(): Promise<void> {
    await this.#connection.close();
    heldHere.delete(this.storePath);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }
}

/**
 * Takes the operation lock of a store. Does not wait for it.
 *
 * @param storePath - the store's resolved path
 * @throws {@link StoreError} inUse - if another operation holds the lock
 * @throws {@link StoreError} notFound - if the store's directory does not exist
 * @throws {@link StoreError} io - if the lock file cannot be created or locked
 * @throws {@link StoreError} refused - if the lock file is not a regular file
 */
export async function acquireLock(storePath: string): Promise<OperationLock> {
  if (heldHere.has(storePath)) throw await heldLockError(storePath);
  heldHere.add(storePath);
  try {
    return new OperationLock(storePath, await lockFile(storePath));
  } catch (error) {
    heldHere.delete(storePath);
    if (isKind(error, "inUse")) throw await heldLockError(storePath);
    throw error;
  }
}

/**
 * Locks a store or the settings file against other processes of this program, until the connection
 * is closed or the process ends.
 *
 * @throws {@link StoreError} inUse - if another process still holds the lock after `busyTimeoutMs`
 */
export async function lockFile(lockedPath: string, busyTimeoutMs = 0): Promise<Connection> {
  const path = lockPath(lockedPath);
  await ensureLockFile(path, lockedPath);
  const connection = await Connection.open(path, { mode: "readwrite", busyTimeoutMs });
  try {
    // Nothing is written to this database. A journal on disk would survive a kill.
    await connection.all("PRAGMA journal_mode = MEMORY");
    await connection.exec("BEGIN EXCLUSIVE");
    return connection;
  } catch (error) {
    await connection.close();
    throw error;
  }
}

async function ensureLockFile(path: string, lockedPath: string): Promise<void> {
  try {
    await using file = await open(
      path,
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
      0o600,
    );
    // The file is never deleted, so a lock file of root would lock out the owner for good.
    if (isRoot()) {
      const { uid, gid } = await stat(lockedPath).catch(() => stat(dirname(lockedPath)));
      if (uid !== 0) await file.chown(uid, gid);
    }
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) {
      throw await missingStoreError(lockedPath);
    }
    if (!hasCode(error, "EEXIST")) throw systemError(error, `cannot create ${path}`);
    if (!(await lstat(path)).isFile()) {
      throw new StoreError("refused", `${path} is not a regular file`);
    }
  }
}

async function heldLockError(storePath: string): Promise<StoreError> {
  const entry = await readJournalEntry(storePath).catch(() => undefined);
  const message = `another operation is running on ${storePath}`;
  const hint = "Try again when it has finished.";
  if (entry) {
    const { operation, pid, started_at: since } = entry;
    const which = `${operation}, process ${pid}, since ${since}`;
    return new StoreError("inUse", `${message} (${which})`, { hint });
  }
  // A backup that copies to its targets has removed its journal. An upload may last hours.
  const { holders } = await findHolders(lockPath(storePath));
  const which = holders.length > 0 ? ` (${formatHolders(holders)})` : "";
  const kill = ["kill", ...holders.map(({ pid }) => pid)].join(" ");
  return new StoreError("inUse", `${message}${which}`, {
    hint: `${hint} A backup that only copies to its targets may be ended with ${kill}: the backup is kept, and the next run copies it.`,
  });
}
