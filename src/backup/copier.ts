/**
 * The child process that copies a store's files.
 *
 * It is a process of its own because closing a file drops every POSIX lock that its process has on it: the parent
 * holds the store open through SQLite and so must never open, and close, the store's files by other means. This
 * one has no connection and no secret: what it copies is encrypted. It serves one copy, asked for step by step
 * over the IPC channel (warm-copy.ts has the strategy), and ends at once when its parent does.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { openIfExists, readUpTo } from "../fs/read.js";
import { isCurrent, readWal, type WalPosition } from "../store/wal.js";

/** How much is copied or hashed at a time, in bytes. */
const chunkSize = 4 << 20;

export type CopierRequest =
  | { do: "copy"; store: string; staged: string }
  | { do: "catchUp" }
  | { do: "sync" }
  | { do: "cut" }
  | { do: "finish" };

export interface CopyProgress {
  /** Bytes written to the copy by this step. */
  written: number;
  /** Pages taken from the log by this step; 0: nothing was committed since the last. */
  pages: number;
  /** The copy cannot be brought up to date by the log: it must be made again from the whole file. */
  lost: boolean;
}

export interface FinishedCopy {
  size: number;
  sha256: string;
}

export type CopierReply =
  | { ok: true; result: CopyProgress | FinishedCopy }
  | { ok: false; error: { code: string | undefined; message: string } };

/**
 * One copy of one store, from its main file and its log. Between two steps it has neither open, so that it is not
 * taken for somebody who uses the store.
 */
class StagedCopy {
  readonly #store: string;
  readonly #staged: FileHandle;
  #mainIdentity: string | undefined;
  #walIdentity: string | undefined;
  #position: WalPosition | undefined;
  /** Pages taken from the log since it began: what must come from the main file again if it begins anew. */
  #taken = new Set<number>();
  /** The main file's size as copied; it is the database's as long as the log has no commit. */
  #mainSize = 0;
  #pageSize = 0;
  /** Of the copy, in bytes, once it is cut. */
  #size = 0;

  private constructor(store: string, staged: FileHandle) {
    this.#store = store;
    this.#staged = staged;
  }

  static async create(store: string, staged: string): Promise<StagedCopy> {
    const newFile = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    return new StagedCopy(store, await open(staged, newFile, 0o600));
  }

  /** Copies the whole main file as it is at each moment of the copying. */
  async copyMain(): Promise<CopyProgress> {
    const main = await open(this.#store, constants.O_RDONLY);
    try {
      this.#mainIdentity = await identityOf(main);
      this.#walIdentity = undefined;
      this.#position = undefined;
      this.#taken = new Set();
      await this.#staged.truncate(0);
      const buffer = Buffer.allocUnsafe(chunkSize);
      for (let at = 0; ; at += buffer.byteLength) {
        const bytes = await readUpTo(main, buffer, at);
        await writeAll(this.#staged, buffer.subarray(0, bytes), at);
        if (bytes === buffer.byteLength) continue;
        this.#mainSize = at + bytes;
        return { written: this.#mainSize, pages: 0, lost: false };
      }
    } finally {
      await main.close();
    }
  }

  /** Takes over what has been committed to the log since the last time. */
  async catchUp(): Promise<CopyProgress> {
    const main = await openIfExists(this.#store);
    const wal = await openIfExists(`${this.#store}-wal`);
    try {
      const lost = { written: 0, pages: 0, lost: true };
      if (!main || (await identityOf(main)) !== this.#mainIdentity) return lost;
      // A log that appears after the copying is one that begins; one that was read and is gone took its pages along.
      const identity = wal && (await identityOf(wal));
      if (this.#walIdentity !== undefined && identity !== this.#walIdentity) return lost;
      this.#walIdentity = identity;
      return wal ? await this.#takeFrom(wal, main) : { written: 0, pages: 0, lost: false };
    } finally {
      await main?.close();
      await wal?.close();
    }
  }

  async #takeFrom(wal: FileHandle, main: FileHandle): Promise<CopyProgress> {
    const progress: CopyProgress = { written: 0, pages: 0, lost: false };
    for (;;) {
      const news = await readWal(wal, this.#position);
      if (news === "empty") return progress;
      if (news === "restarted") {
        for (const page of [...this.#taken].sort((a, b) => a - b)) {
          progress.written += await this.#copyPage(main, (page - 1) * this.#pageSize, page);
        }
        this.#taken = new Set();
        this.#position = undefined;
        continue;
      }
      this.#pageSize = news.position.pageSize;
      for (const [page, offset] of inOrder(news.pages)) {
        progress.written += await this.#copyPage(wal, offset, page);
        this.#taken.add(page);
        progress.pages += 1;
      }
      this.#position = news.position;
      // The log begins anew by its header: as long as that has not changed, what was read was of one piece.
      if (await isCurrent(wal, news.position)) return progress;
    }
  }

  /** Has on the disk what was copied so far. */
  async sync(): Promise<CopyProgress> {
    await this.#staged.datasync();
    return { written: 0, pages: 0, lost: false };
  }

  /** Cuts the copy to the database's size: from then on it is what it will be. */
  async cut(): Promise<CopyProgress> {
    const pages = this.#position?.databasePages;
    this.#size = pages === undefined ? this.#mainSize : pages * this.#pageSize;
    await this.#staged.truncate(this.#size);
    return { written: 0, pages: 0, lost: false };
  }

  /** Puts the copy on the disk, cut, and says what it is; the one while the other. */
  async finish(): Promise<FinishedCopy> {
    await this.cut();
    const [sha256] = await Promise.all([this.#sha256(), this.#staged.sync()]);
    return { size: this.#size, sha256 };
  }

  async #sha256(): Promise<string> {
    const size = this.#size;
    const hash = createHash("sha256");
    const buffer = Buffer.allocUnsafe(chunkSize);
    for (let at = 0; at < size; ) {
      const bytes = await readUpTo(this.#staged, buffer, at);
      if (bytes === 0) throw new Error("the copy became shorter while it was read");
      hash.update(buffer.subarray(0, bytes));
      at += bytes;
    }
    return hash.digest("hex");
  }

  async #copyPage(from: FileHandle, offset: number, page: number): Promise<number> {
    const buffer = Buffer.allocUnsafe(this.#pageSize);
    const bytes = await readUpTo(from, buffer, offset);
    await writeAll(this.#staged, buffer.subarray(0, bytes), (page - 1) * this.#pageSize);
    return bytes;
  }
}

function inOrder(pages: ReadonlyMap<number, number>): [page: number, offset: number][] {
  return [...pages].sort(([a], [b]) => a - b);
}

async function identityOf(file: FileHandle): Promise<string> {
  const { dev, ino } = await file.stat({ bigint: true });
  return `${dev}:${ino}`;
}

async function writeAll(file: FileHandle, bytes: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < bytes.byteLength; ) {
    done += (await file.write(bytes, done, bytes.byteLength - done, offset + done)).bytesWritten;
  }
}

let copy: StagedCopy | undefined;

async function serve(request: CopierRequest): Promise<CopyProgress | FinishedCopy> {
  if (request.do === "copy") {
    copy ??= await StagedCopy.create(request.store, request.staged);
    return copy.copyMain();
  }
  if (!copy) throw new Error(`asked to ${request.do} before anything was copied`);
  if (request.do === "sync") return copy.sync();
  if (request.do === "cut") return copy.cut();
  return request.do === "catchUp" ? copy.catchUp() : copy.finish();
}

process.on("message", async (request: CopierRequest) => {
  let reply: CopierReply;
  try {
    reply = { ok: true, result: await serve(request) };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    reply = { ok: false, error: { code, message } };
  }
  process.send?.(reply);
});

// The parent has ended, perhaps by a kill, and somebody may be tidying up already: not one more byte is written.
process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
