/**
 * Copies a store in WAL mode, with a downtime of its service that does not depend on its size.
 *
 * A store in WAL mode is a main file and a log of whole pages (`-wal`). Writers append to the log
 * only. A checkpoint moves pages from the log to the main file. When all pages have been moved and
 * no reader uses the log, the next writer restarts it from the beginning. The strategy:
 *
 * 1. Pin the store: begin a read transaction, and read something.
 * 2. Copy the main file as it is, then overwrite the copy with every page committed to the log.
 * 3. Repeat the second half of step 2 while writers continue, until few pages are new.
 * 4. With the service stopped, repeat it once more. Only this happens during the downtime. The last
 *    commit determines the length of the copy.
 *
 * The copy is correct although a checkpoint may write to the main file during step 2. A read
 * transaction reads from the log up to a mark; or, if all pages had been checkpointed when it
 * began, from the main file only.
 *
 * - In the first case, a checkpoint moves no page from beyond the mark, and the log cannot restart.
 *   So every page of the main file that changes during the copy is in the log before the mark, and
 *   stays there. Its copy, even if it was half written, is overwritten from the log. A page that is
 *   not in the log has not changed.
 * - In the second case, no checkpoint may write to the main file, but the log may restart once. Its
 *   previous contents are in the main file by then. So after a restart of the log, the pages that
 *   the copy took from it are taken from the main file again: the log may have been overwritten
 *   while it was read, and an older version of a page may have been the last one seen. Then the
 *   pages of the new log follow.
 *
 * Nothing here depends on SQLite's shared memory, and the same steps give a correct copy without
 * any downtime, as of the last commit seen (`--online`).
 *
 * With a new key, each page is re-encrypted on its way into the copy, read back, and compared
 * (store/reencrypt-pages). A page does not depend on the others, so the same argument holds. A page
 * that was copied half written is not authentic; it must be overwritten when the log is copied.
 *
 * A swap needs more than a correct copy: from the copy's last page until the rename, nothing may
 * write to the store. `lock` takes a lock before it reads the log for the last time.
 *
 * If the store's path or its log refers to another file than before, the store was replaced, and
 * the copy starts again. A store that is not in WAL mode cannot be copied in use: a reader blocks
 * writers, and writers change the main file. Such a store is copied completely, under a read
 * transaction, while the service is stopped. When it is opened, SQLite rolls back a transaction
 * that a crash has interrupted.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { StoreError, systemError } from "../errors.js";
import { throwIfAborted } from "../process/abort.js";
import { openEncrypted, type StoreKey } from "../store/cipher.js";
import type { Connection } from "../store/connection.js";
import { LockedStore } from "../store/locked-store.js";
import {
  type CopierReply,
  type CopierRequest,
  type CopyProgress,
  type FinishedCopy,
  toError,
  toPlainKeys,
} from "./copier-message.js";

/**
 * A copy has caught up if at most this many pages are new: writing them takes less than a
 * millisecond, and re-encrypting them a few milliseconds.
 */
const fewPages = 64;
/** The maximum number of rounds if a writer commits faster than the copy can catch up. */
const maxRounds = 50;
/** The number of attempts if the store is replaced during the copy. */
const maxReplacements = 3;

export class WarmCopy implements AsyncDisposable {
  readonly storePath: string;
  readonly stagedPath: string;
  readonly #key: StoreKey;
  readonly #newKey: StoreKey | undefined;
  readonly #copier: ChildProcess;
  #connection: Connection | undefined;
  #isCopied = false;
  #isDisposed = false;
  #written = 0;

  /**
   * Starts the copier process, which reads and creates nothing yet. The dispose method ends the
   * process and the pin. The caller removes the staged file.
   *
   * @param stagedPath - the path of the copy: a new file, or with `newKey` an existing file, which
   *   is overwritten
   * @param newKey - the key of the copy, of the same format. Without it, pages are copied
   *   unchanged.
   */
  constructor(storePath: string, key: StoreKey, stagedPath: string, newKey?: StoreKey) {
    this.storePath = storePath;
    this.stagedPath = stagedPath;
    this.#key = key;
    this.#newKey = newKey;
    this.#copier = startCopier();
  }

  /** The copier's process, which temporarily has the store's files open. */
  get pids(): number[] {
    return this.#copier.pid === undefined ? [] : [this.#copier.pid];
  }

  /** Bytes written to the copy so far. */
  get written(): number {
    return this.#written;
  }

  /**
   * Copies the store while it is in use, and keeps it pinned. Requires WAL mode.
   *
   * @returns 0 if the copy has caught up. Otherwise the duration of the last round in milliseconds:
   *   writers commit faster than the copy catches up.
   * @throws {@link StoreError} io - if the copy cannot be written
   * @throws {@link StoreError} - what opening a store throws
   */
  async warm(signal?: AbortSignal): Promise<number> {
    await this.#copyWhole();
    // Without this sync, a sync of the service during its stop or start would wait until the whole
    // copy is written to the disk.
    await this.#request({ do: "sync" });
    return await this.#catchUp(signal);
  }

  /**
   * Does before a stop of the service what would otherwise take time during it: moves the pages of
   * the log into the store's file, copies the new pages, and syncs the copy.
   *
   * The pin of a long copy keeps its whole log out of the store's file. A new pin begins before the
   * former ends, and the copy has every page of the log up to the former pin. So between two steps
   * of the copier the log restarts at most once, as with a single pin.
   *
   * @returns as `warm`
   */
  async refresh(signal?: AbortSignal): Promise<number> {
    const former = this.#connection;
    if (!former) throw new Error("the store is not pinned");
    await this.#pin();
    try {
      await former.run("COMMIT");
      await former.all("PRAGMA main.wal_checkpoint(PASSIVE)");
    } finally {
      await former.close();
    }
    const behindMs = await this.#catchUp(signal);
    await this.#request({ do: "sync" });
    return behindMs;
  }

  /**
   * Makes the copy equal to the store as of a commit not older than this call. Writes only new
   * pages if `warm` has copied the store.
   *
   * @returns the number of new pages
   * @throws {@link StoreError} inUse - if the store is replaced repeatedly
   */
  async complete(): Promise<number> {
    for (let replaced = 0; replaced < maxReplacements; replaced++) {
      if (!this.#isCopied) await this.#copyWhole();
      const { pages, lost } = await this.#request({ do: "catchUp" });
      if (!lost) return pages;
      this.#isCopied = false;
    }
    throw replacedError(this.storePath);
  }

  /**
   * Completes the copy of a pinned store, and locks the store.
   *
   * @returns the locked store, which is equal to the copy, as a single file
   * @throws {@link StoreError} inUse - if another connection uses the store
   */
  async lock(): Promise<LockedStore> {
    await this.complete();
    const connection = this.#connection;
    if (!connection) throw new Error("the store is not pinned");
    await connection.run("COMMIT");
    this.#connection = undefined;
    return LockedStore.lockOpened(connection, this.#key, () => this.completeLocked());
  }

  /**
   * Completes the copy of a store that the caller has locked, or copies it completely.
   *
   * @throws {@link StoreError} inUse - if the store was replaced
   */
  async completeLocked(): Promise<void> {
    if (this.#isCopied) {
      const { lost, restarted } = await this.#request({ do: "catchUp" });
      // A writer may have restarted the log more than once before the lock.
      if (!lost && !restarted) return;
    }
    await this.#copyMain();
    const { lost } = await this.#request({ do: "catchUp" });
    if (lost) throw replacedError(this.storePath);
  }

  /** Ends the read transaction. After this only `truncate` and `finish` are possible. */
  async unpin(): Promise<void> {
    const connection = this.#connection;
    this.#connection = undefined;
    await connection?.close();
  }

  /** Truncates the copy to the database's size. It can be opened from then on. */
  async truncate(): Promise<void> {
    await this.#request({ do: "truncate" });
  }

  /** Syncs and hashes the copy, which takes time proportional to its size. */
  async finish(): Promise<FinishedCopy> {
    return this.#request({ do: "finish" });
  }

  /**
   * Releases the store. Kills the copier without waiting for its exit: a process that hangs on a
   * disk does not exit, and must not keep the service down.
   */
  async release(): Promise<void> {
    this.#isDisposed = true;
    this.#copier.kill("SIGKILL");
    await this.unpin();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
    const { pid, exitCode, signalCode } = this.#copier;
    if (pid !== undefined && exitCode === null && signalCode === null) {
      await once(this.#copier, "exit");
    }
  }

  /** @returns as `warm` */
  async #catchUp(signal: AbortSignal | undefined): Promise<number> {
    let began = 0;
    for (let round = 0; round < maxRounds; round++) {
      throwIfAborted(signal);
      began = performance.now();
      const { pages, lost } = await this.#request({ do: "catchUp" });
      if (lost) await this.#copyWhole();
      else if (pages <= fewPages) return 0;
    }
    return performance.now() - began;
  }

  async #copyWhole(): Promise<void> {
    await this.unpin();
    await this.#pin();
    await this.#copyMain();
  }

  async #pin(): Promise<void> {
    const connection = await pin(this.storePath, this.#key);
    if (this.#isDisposed) return connection.close();
    this.#connection = connection;
  }

  async #copyMain(): Promise<void> {
    const keys = this.#newKey && toPlainKeys(this.#key, this.#newKey);
    await this.#request({ do: "copy", store: this.storePath, staged: this.stagedPath, keys });
    this.#isCopied = true;
  }

  #request(request: { do: "finish" }): Promise<FinishedCopy>;
  #request(request: CopierRequest): Promise<CopyProgress>;
  async #request(request: CopierRequest): Promise<CopyProgress | FinishedCopy> {
    const reply = await this.#send(request);
    if (!reply.ok) {
      const doing = `cannot copy ${this.storePath} to ${this.stagedPath}`;
      throw systemError(toError(reply.error), doing);
    }
    if ("written" in reply.result) this.#written += reply.result.written;
    return reply.result;
  }

  #send(request: CopierRequest): Promise<CopierReply> {
    return new Promise((resolve, reject) => {
      const onExit = () => {
        this.#copier.off("message", onReply);
        reject(new StoreError("io", "the process that copies the store ended unexpectedly"));
      };
      const onReply = (reply: CopierReply) => {
        this.#copier.off("exit", onExit);
        resolve(reply);
      };
      this.#copier.once("exit", onExit).once("message", onReply);
      if (this.#copier.connected) this.#copier.send(request);
      else onExit();
    });
  }
}

/**
 * Starts the copier. Throws some failures to start; the first request reports the others.
 *
 * @throws {@link StoreError} io - if the system cannot start a process
 */
function startCopier(): ChildProcess {
  try {
    const copier = fork(fileURLToPath(new URL("./copier.js", import.meta.url)), [], {
      execArgv: [],
      // Sends keys as bytes.
      serialization: "advanced",
      stdio: ["ignore", "ignore", "inherit", "ipc"],
      // In its own process group: Ctrl-C at a terminal reaches only the parent, which ends the
      // copier.
      detached: true,
    });
    return copier.on("error", () => {});
  } catch (error) {
    throw systemError(error, "cannot start the process that copies the store");
  }
}

function replacedError(storePath: string): StoreError {
  return new StoreError("inUse", `${storePath} was replaced during the copy`, {
    hint: "Find the program that replaces it, and stop it.",
  });
}

export async function isWal(connection: Connection): Promise<boolean> {
  const row = await connection.get<{ journal_mode: string }>("PRAGMA journal_mode");
  return row?.journal_mode === "wal";
}

/**
 * Opens a connection with a read transaction. The connection is writable, so that SQLite can roll
 * back a transaction that a crash has interrupted, and remove its sidecars when the last connection
 * closes.
 */
export async function pin(storePath: string, key: StoreKey): Promise<Connection> {
  const { connection } = await openEncrypted(storePath, key, { mode: "readwrite" });
  try {
    await connection.exec("BEGIN");
    await connection.get("SELECT count(*) FROM sqlite_schema");
    return connection;
  } catch (error) {
    await connection.close();
    throw error;
  }
}
