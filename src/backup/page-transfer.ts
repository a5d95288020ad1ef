/** Writes the pages of a store to its copy: unchanged, or re-encrypted. */
import { once } from "node:events";
import type { FileHandle } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { writeAll } from "../fs/copy.js";
import { readChunks, readUpTo } from "../fs/read.js";
import { type PageRange, PageReencryption } from "../store/reencrypt-pages.js";
import { type PlainKeys, toError, toStoreKeys } from "./copier-message.js";
import type { WorkerReply } from "./page-worker.js";

/** Pages that a thread re-encrypts at a time: 256 KiB in format 4. */
const pagesAtOnce = 64;
/** Each thread needs about 35 MB of memory, and the hub needs the other processors. */
const maxThreads = 2;
/**
 * A thread's buffers are garbage after each range. With the default limit, V8 collects them late:
 * each thread needs about 20 MB more, without being faster.
 */
const threadLimits = { maxYoungGenerationSizeMb: 4 };

export interface PageTransfer {
  /**
   * Copies a store's main file, which may change during the copy.
   *
   * @returns the size of the copy in bytes
   */
  copyFile(from: FileHandle, to: FileHandle): Promise<number>;
  /** @returns bytes written */
  copyPage(page: SourcePage, to: FileHandle): Promise<number>;
  /** Pages that were damaged, or half written, when they were last read. */
  readonly damaged: ReadonlySet<number>;
}

/** A page of the store, in its log or in its main file. */
export interface SourcePage {
  readonly file: FileHandle;
  readonly offset: number;
  readonly page: number;
  readonly pageSize: number;
}

/** Copies pages unchanged, without a key. */
export class PlainTransfer implements PageTransfer {
  readonly damaged: ReadonlySet<number> = new Set();

  async copyFile(from: FileHandle, to: FileHandle): Promise<number> {
    let size = 0;
    for await (const bytes of readChunks(from)) {
      await writeAll(to, bytes, size);
      size += bytes.length;
    }
    return size;
  }

  async copyPage({ file, offset, page, pageSize }: SourcePage, to: FileHandle): Promise<number> {
    const buffer = Buffer.allocUnsafe(pageSize);
    const bytes = await readUpTo(file, buffer, offset);
    await writeAll(to, buffer.subarray(0, bytes), (page - 1) * pageSize);
    return bytes;
  }
}

/** Re-encrypts pages: a whole file in several threads, a single page in this thread. */
export class ReencryptingTransfer implements PageTransfer {
  readonly #keys: PlainKeys;
  readonly #reencryption: PageReencryption;
  readonly #damaged = new Set<number>();

  constructor(keys: PlainKeys) {
    const { from, to } = toStoreKeys(keys);
    this.#keys = keys;
    this.#reencryption = new PageReencryption(from, to);
  }

  get damaged(): ReadonlySet<number> {
    return this.#damaged;
  }

  async copyFile(from: FileHandle, to: FileHandle): Promise<number> {
    const { pageBytes } = this.#reencryption;
    // Pages that a checkpoint appends from now on are in the log, too.
    const { size } = await from.stat();
    const total = Math.ceil(size / pageBytes);
    this.#damaged.clear();
    let firstPage = 1;
    const nextRange = (): PageRange | undefined => {
      const pages = Math.min(pagesAtOnce, total - firstPage + 1);
      if (pages <= 0) return undefined;
      const sourceOffset = (firstPage - 1) * pageBytes;
      const range = { source: from.fd, sourceOffset, target: to.fd, firstPage, pages };
      firstPage += pages;
      return range;
    };
    const threads = Math.min(maxThreads, availableParallelism(), Math.ceil(total / pagesAtOnce));
    await Promise.all(Array.from({ length: threads }, () => this.#runThread(nextRange)));
    return total * pageBytes;
  }

  async copyPage({ file, offset, page }: SourcePage, to: FileHandle): Promise<number> {
    const range = {
      source: file.fd,
      sourceOffset: offset,
      target: to.fd,
      firstPage: page,
      pages: 1,
    };
    this.#recordDamage(range, this.#reencryption.copy(range));
    return this.#reencryption.pageBytes;
  }

  async #runThread(nextRange: () => PageRange | undefined): Promise<void> {
    const worker = new Worker(fileURLToPath(new URL("./page-worker.js", import.meta.url)), {
      workerData: this.#keys,
      resourceLimits: threadLimits,
    });
    try {
      for (let range = nextRange(); range; range = nextRange()) {
        worker.postMessage(range);
        // `once` rejects if an error ends the thread.
        const [reply] = (await once(worker, "message")) as [WorkerReply];
        if (!reply.ok) throw toError(reply.error);
        this.#recordDamage(range, reply.damaged);
      }
    } finally {
      await worker.terminate();
    }
  }

  #recordDamage({ firstPage, pages }: PageRange, damaged: readonly number[]): void {
    for (let page = firstPage; page < firstPage + pages; page++) this.#damaged.delete(page);
    for (const page of damaged) this.#damaged.add(page);
  }
}
