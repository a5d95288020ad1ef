/**
 * Copying a store so that the service is away for a moment however large the store is.
 *
 * A store in WAL mode is a main file and a log of whole pages (`-wal`). Writers append to the log alone; a checkpoint
 * moves pages from the log to the main file; when all has been moved and nobody reads from the log, the next writer
 * begins it anew. So:
 *
 * 1. Pin: a read transaction that has read something.
 * 2. Copy the main file as it is, and then write over the copy every page committed to the log.
 * 3. Do the latter again while writers go on, until little is new.
 * 4. With the service stopped, once more: that is all that happens in the window. The copy's length follows from
 *    the last commit.
 *
 * Why the copy is right although a checkpoint may be writing to the main file while it is read. A read transaction
 * either reads from the log up to a mark, or, if everything had been checkpointed when it began, from the main file
 * alone.
 *
 * - In the first case a checkpoint moves no page from beyond the mark, and the log cannot begin anew. Every page of the main
 *   file that changes during the copying is thus in the log before the mark, and stays there: whatever was copied of
 *   it, half a page even, is written over from the log. A page that is not in the log has not changed.
 * - In the second case no checkpoint may write to the main file at all, but the log may begin anew, once. What it held
 *   before was in the main file already. So when the log has begun anew, the pages that the copy took from it
 *   are taken from the main file again (the log may have been written over while it was read, and an older
 *   content of a page been the last one seen), and then the new log's pages follow.
 *
 * Nothing in this depends on the state of SQLite's shared memory, and the same steps give a right copy with nobody
 * stopped: as of the last commit that was seen. That is `--online`.
 *
 * If the store's path or its log names another file than before, somebody has replaced it, and the whole is copied
 * anew. A store that is not in WAL mode cannot be copied warm: a reader there keeps writers out, and a writer changes the
 * main file itself. It is copied whole, under a read transaction, while the service is stopped; opening it for that
 * has SQLite roll back what a crash left half done.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { StoreError, systemError } from "../errors.js";
import { openEncrypted, type StoreKey } from "../store/cipher.js";
import type { Connection } from "../store/connection.js";
import type { CopierReply, CopierRequest, CopyProgress, FinishedCopy } from "./copier.js";

/** What is left for the window once the copy is warm: writing as many pages takes under a millisecond. */
const fewPages = 64;
/** A writer that commits faster than this copies is not caught up with by trying longer. */
const maxRounds = 50;
/** How often a store that is being replaced under us is begun anew before giving up. */
const maxReplacements = 3;

export class WarmCopy implements AsyncDisposable {
  readonly storePath: string;
  readonly stagedPath: string;
  readonly #key: StoreKey;
  readonly #copier: ChildProcess;
  #connection: Connection | undefined;
  #isCopied = false;
  #isDisposed = false;
  #written = 0;

  /**
   * Starts the copier; nothing is read or made yet. The copy will be made at `stagedPath`, which must not exist.
   * Disposing of the `WarmCopy` ends the copier and the pin and leaves the staged file to the caller.
   */
  constructor(storePath: string, key: StoreKey, stagedPath: string) {
    this.storePath = storePath;
    this.stagedPath = stagedPath;
    this.#key = key;
    this.#copier = fork(fileURLToPath(new URL("./copier.js", import.meta.url)), [], {
      execArgv: [],
      stdio: ["ignore", "ignore", "inherit", "ipc"],
      // A process group of its own: Ctrl-C at a terminal is for the job, which ends the copier when it is time.
      detached: true,
    });
    // A copier that could not be started is found out by the first thing asked of it.
    this.#copier.on("error", () => {});
  }

  /** The copier's own process, which has the store's files open now and then. */
  get pids(): number[] {
    return this.#copier.pid === undefined ? [] : [this.#copier.pid];
  }

  /** Bytes written to the copy so far; what is written while the service is stopped is the difference. */
  get written(): number {
    return this.#written;
  }

  /**
   * Copies the store while it is in use, and keeps it pinned. For a store in WAL mode alone.
   *
   * @throws StoreError what opening a store throws; `io` if the copy cannot be written.
   */
  async warm(signal?: AbortSignal): Promise<void> {
    await this.#copyWhole();
    // A service that syncs at its stop, or right after its start, would wait for all of the copy to reach the disk.
    await this.#ask({ do: "sync" });
    for (let round = 0; round < maxRounds; round++) {
      signal?.throwIfAborted();
      const { pages, lost } = await this.#ask({ do: "catchUp" });
      if (lost) await this.#copyWhole();
      else if (pages <= fewPages) return;
    }
  }

  /**
   * Makes the copy equal to the store as of a commit that is not older than this call. If it was warm, only what is
   * new since is written.
   *
   * @returns how many pages were new: 0 if the copy was equal already.
   */
  async complete(): Promise<number> {
    for (let replaced = 0; replaced < maxReplacements; replaced++) {
      if (!this.#isCopied) await this.#copyWhole();
      const { pages, lost } = await this.#ask({ do: "catchUp" });
      if (!lost) return pages;
      this.#isCopied = false;
    }
    throw new StoreError("inUse", `${this.storePath} is being replaced again and again`, {
      hint: "see which program writes that file",
    });
  }

  /** Ends the pin. Nothing may be asked of the store afterwards; the copy can be finished. */
  async unpin(): Promise<void> {
    const connection = this.#connection;
    this.#connection = undefined;
    await connection?.close();
  }

  /** Cuts the copy to its length: from then on it can be opened, while it is finished. */
  async cut(): Promise<void> {
    await this.#ask({ do: "cut" });
  }

  /** Has the copy on the disk, cut, and says what it is. Takes time that grows with the store. */
  async finish(): Promise<FinishedCopy> {
    return this.#ask({ do: "finish" });
  }

  /**
   * Lets go of the store. The copying process is told to end, and not waited for: one that hangs on a disk cannot, and must
   * keep no service from being started.
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

  async #copyWhole(): Promise<void> {
    await this.unpin();
    const connection = await pin(this.storePath, this.#key);
    if (this.#isDisposed) return connection.close();
    this.#connection = connection;
    await this.#ask({ do: "copy", store: this.storePath, staged: this.stagedPath });
    this.#isCopied = true;
  }

  #ask(request: { do: "finish" }): Promise<FinishedCopy>;
  #ask(request: CopierRequest): Promise<CopyProgress>;
  async #ask(request: CopierRequest): Promise<CopyProgress | FinishedCopy> {
    const reply = await this.#exchange(request);
    if (!reply.ok) {
      const doing = `cannot copy ${this.storePath} to ${this.stagedPath}`;
      throw systemError(Object.assign(new Error(reply.error.message), reply.error), doing);
    }
    if ("written" in reply.result) this.#written += reply.result.written;
    return reply.result;
  }

  #exchange(request: CopierRequest): Promise<CopierReply> {
    return new Promise((resolve, reject) => {
      const ended = () => {
        this.#copier.off("message", answered);
        reject(new StoreError("io", "the process that copies the store ended before it was done"));
      };
      const answered = (reply: CopierReply) => {
        this.#copier.off("exit", ended);
        resolve(reply);
      };
      this.#copier.once("exit", ended).once("message", answered);
      if (this.#copier.connected) this.#copier.send(request);
      else ended();
    });
  }
}

/** Whether a store is in WAL mode: whether it can be copied warm. */
export async function isWal(connection: Connection): Promise<boolean> {
  const row = await connection.get<{ journal_mode: string }>("PRAGMA journal_mode");
  return row?.journal_mode === "wal";
}

/**
 * A connection that holds a read transaction. It may write, though it does not: only so can SQLite roll back what a
 * crash left, and leave nothing beside the store when it is the last to close.
 */
async function pin(storePath: string, key: StoreKey): Promise<Connection> {
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
