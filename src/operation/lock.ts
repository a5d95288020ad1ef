/**
 * One operation on a store at a time.
 *
 * The lock is SQLite's own exclusive lock on a file of its own beside the store, `clients.db.lock`: the system frees
 * it when its holder ends, however it ends, so there is no stale lock to tell from a living one. The file stays
 * empty and is never deleted: whoever deletes a lock file may delete the one that another has just locked.
 * Ordinary reads and writes of clients do not take it.
 */
import { constants } from "node:fs";
import { lstat, open, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { hasCode, StoreError, systemError } from "../errors.js";
import { missingStoreError } from "../keys/moved-store.js";
import { Connection } from "../store/connection.js";
import { Journal } from "./journal.js";

/**
 * What this process holds or is about to. POSIX locks belong to the process: a second attempt here that merely
 * closed the lock's file would free the first one's lock.
 */
const heldHere = new Set<string>();

/** `clients.db.lock`, beside the store. */
export function lockPath(storePath: string): string {
  return `${storePath}.lock`;
}

/** The right to run an operation on a store, until it is released or the process ends. */
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
 * Takes the operation lock of a store, given by its resolved path; does not wait for it.
 *
 * @throws StoreError `inUse` if another operation holds it, naming that one if its journal does; `io` if the lock's
 *   file cannot be made or locked; `refused` if something that is no file has its name.
 */
export async function acquireLock(storePath: string): Promise<OperationLock> {
  if (heldHere.has(storePath)) throw await heldByAnother(storePath);
  heldHere.add(storePath);
  try {
    return new OperationLock(storePath, await lockFile(storePath));
  } catch (error) {
    heldHere.delete(storePath);
    if (error instanceof StoreError && error.kind === "inUse") throw await heldByAnother(storePath);
    throw error;
  }
}

async function lockFile(storePath: string): Promise<Connection> {
  const path = lockPath(storePath);
  await ensureLockFile(path, storePath);
  const connection = await Connection.open(path, { mode: "readwrite", busyTimeoutMs: 0 });
  try {
    // Nothing is ever written: a journal on the disk would be all that a kill leaves of it.
    await connection.all("PRAGMA journal_mode = MEMORY");
    await connection.exec("BEGIN EXCLUSIVE");
    return connection;
  } catch (error) {
    await connection.close();
    throw error;
  }
}

async function ensureLockFile(path: string, storePath: string): Promise<void> {
  try {
    await using file = await open(
      path,
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
      0o600,
    );
    // It stays: one of root's would keep the store's owner out for good.
    if (process.geteuid?.() === 0) {
      const { uid, gid } = await stat(storePath).catch(() => stat(dirname(storePath)));
      if (uid !== 0) await file.chown(uid, gid);
    }
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) {
      throw await missingStoreError(storePath);
    }
    if (!hasCode(error, "EEXIST")) throw systemError(error, `cannot create ${path}`);
    if (!(await lstat(path)).isFile()) {
      throw new StoreError("refused", `${path} is not a regular file`);
    }
  }
}

async function heldByAnother(storePath: string): Promise<StoreError> {
  const journal = await Journal.read(storePath).catch(() => undefined);
  const who = journal
    ? `${journal.entry.operation}, process ${journal.entry.pid}, since ${journal.entry.started_at}`
    : "it has not said which";
  return new StoreError("inUse", `another operation is at work on ${storePath} (${who})`, {
    hint: "wait until it has finished, then try again",
  });
}
