/**
 * The child process for the copy of a store's files. warm-copy.ts explains the strategy.
 *
 * A separate process is required because closing a file drops every POSIX lock of its process on
 * that file: the parent has the store open through SQLite, so it must never open and close the
 * store's files by other means. This process has no connection, and no key unless it re-encrypts
 * the pages. It serves one copy, step by step over the IPC channel, and ends with its parent.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { StoreError } from "../errors.js";
import { openIfExists, readChunks } from "../fs/read.js";
import { hardenProcess } from "../process/privacy.js";
import { isCurrent, readWal, type WalPosition } from "../store/wal.js";
import {
  type CopierReply,
  type CopierRequest,
  type CopyProgress,
  type FinishedCopy,
  type PlainKeys,
  toFailure,
} from "./copier-message.js";
import { type PageTransfer, PlainTransfer, ReencryptingTransfer } from "./page-transfer.js";

const nothingNew: CopyProgress = { written: 0, pages: 0, lost: false, restarted: false };

/**
 * The copy of a store's main file and log. The store's files are closed between two steps, so that
 * this process does not count as a user of the store.
 */
class StagedCopy {
  readonly #store: string;
  readonly #staged: FileHandle;
  readonly #transfer: PageTransfer;
  #mainId: string | undefined;
  #walId: string | undefined;
  #position: WalPosition | undefined;
  /** Pages copied from the log since its start. They are copied again if the log restarts. */
  #logPages = new Set<number>();
  /** The size of the copied main file in bytes: the database's size if the log has no commit. */
  #mainSize = 0;
  #pageSize = 0;
  /** The size of the truncated copy in bytes. */
  #size = 0;

  private constructor(store: string, staged: FileHandle, transfer: PageTransfer) {
    this.#store = store;
    this.#staged = staged;
    this.#transfer = transfer;
  }

  static async open(store: string, staged: string, keys?: PlainKeys): Promise<StagedCopy> {
    const { O_RDWR, O_NOFOLLOW, O_CREAT, O_EXCL } = constants;
    const flags = O_RDWR | O_NOFOLLOW | (keys ? 0 : O_CREAT | O_EXCL);
    const transfer = keys ? new ReencryptingTransfer(keys) : new PlainTransfer();
    return new StagedCopy(store, await open(staged, flags, 0o600), transfer);
  }

  /** Copies the whole main file. It may change during the copy. */
  async copyMain(): Promise<CopyProgress> {
    const main = await open(this.#store, constants.O_RDONLY);
    try {
      this.#mainId = await readFileId(main);
      this.#walId = undefined;
      this.#position = undefined;
      this.#logPages = new Set();
      await this.#staged.truncate(0);
      this.#mainSize = await this.#transfer.copyFile(main, this.#staged);
      return { ...nothingNew, written: this.#mainSize };
    } finally {
      await main.close();
    }
  }

  /** Copies the pages committed to the log since the last step. */
  async catchUp(): Promise<CopyProgress> {
    const main = await openIfExists(this.#store);
    const wal = await openIfExists(`${this.#store}-wal`);
    try {
      const lost = { ...nothingNew, lost: true };
      if (!main || (await readFileId(main)) !== this.#mainId) return lost;
      // A log created after the copy of the main file is new, so no page of it was missed. If
      // the log was removed or replaced, pages may be lost.
      const walId = wal && (await readFileId(wal));
      if (this.#walId !== undefined && walId !== this.#walId) return lost;
      this.#walId = walId;
      const progress = wal ? await this.#copyLog(wal, main) : nothingNew;
      this.#assertUndamaged();
      return progress;
    } finally {
      await main?.close();
      await wal?.close();
    }
  }

  async #copyLog(wal: FileHandle, main: FileHandle): Promise<CopyProgress> {
    const progress = { ...nothingNew };
    for (;;) {
      const update = await readWal(wal, this.#position);
      if (update === "empty") return progress;
      if (update === "restarted") {
        for (const page of [...this.#logPages].sort((a, b) => a - b)) {
          progress.written += await this.#copyPage(main, (page - 1) * this.#pageSize, page);
        }
        this.#logPages = new Set();
        this.#position = undefined;
        progress.restarted = true;
        continue;
      }
      this.#pageSize = update.position.pageSize;
      for (const [page, offset] of sortByPage(update.pages)) {
        progress.written += await this.#copyPage(wal, offset, page);
        this.#logPages.add(page);
        progress.pages += 1;
      }
      this.#position = update.position;
      // A restart of the log changes its header. If the header is the same, the pages are
      // consistent.
      if (await isCurrent(wal, update.position)) return progress;
    }
  }

  async sync(): Promise<CopyProgress> {
    await this.#staged.datasync();
    return nothingNew;
  }

  /** Completes the copy by truncating it to the database's size. */
  async truncate(): Promise<CopyProgress> {
    const pages = this.#position?.databasePages;
    this.#size = pages === undefined ? this.#mainSize : pages * this.#pageSize;
    await this.#staged.truncate(this.#size);
    return nothingNew;
  }

  /** Syncs and hashes the truncated copy, both at the same time. */
  async finish(): Promise<FinishedCopy> {
    await this.truncate();
    const [sha256] = await Promise.all([this.#sha256(), this.#staged.sync()]);
    return { size: this.#size, sha256 };
  }

  async #sha256(): Promise<string> {
    const hash = createHash("sha256");
    let size = 0;
    for await (const bytes of readChunks(this.#staged)) {
      hash.update(bytes);
      size += bytes.length;
    }
    if (size !== this.#size) throw new Error("the copy was changed while it was read");
    return hash.digest("hex");
  }

  #copyPage(file: FileHandle, offset: number, page: number): Promise<number> {
    return this.#transfer.copyPage({ file, offset, page, pageSize: this.#pageSize }, this.#staged);
  }

  /**
   * Throws if a page is damaged. A page that was copied half written during a checkpoint has been
   * overwritten from the log by now.
   */
  #assertUndamaged(): void {
    const [page] = this.#transfer.damaged;
    if (page === undefined) return;
    throw new StoreError("corrupted", `page ${page} of ${this.#store} is damaged`, {
      hint: "Restore the newest backup that verifies: hivemind-sqlcipher restore FILE",
    });
  }
}

function sortByPage(pages: ReadonlyMap<number, number>): [page: number, offset: number][] {
  return [...pages].sort(([a], [b]) => a - b);
}

async function readFileId(file: FileHandle): Promise<string> {
  const { dev, ino } = await file.stat({ bigint: true });
  return `${dev}:${ino}`;
}

let copy: StagedCopy | undefined;

async function serve(request: CopierRequest): Promise<CopyProgress | FinishedCopy> {
  if (request.do === "copy") {
    copy ??= await StagedCopy.open(request.store, request.staged, request.keys);
    return copy.copyMain();
  }
  if (!copy) throw new Error(`request "${request.do}" before the copy`);
  return await copy[request.do]();
}

hardenProcess();

process.on("message", async (request: CopierRequest) => {
  let reply: CopierReply;
  try {
    reply = { ok: true, result: await serve(request) };
  } catch (error) {
    reply = { ok: false, error: toFailure(error) };
  }
  process.send?.(reply);
});

// Without its parent this process must not write any more: a recovery may be removing the copy.
process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
