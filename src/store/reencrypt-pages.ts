/**
 * Re-encrypts pages from one file into another file, and verifies what was written.
 *
 * The content of each page stays the same, and so does its number: the new file is the old
 * database, page for page.
 */
import { randomBytes } from "node:crypto";
import { readSync, writeSync } from "node:fs";
import { StoreError } from "../errors.js";
import type { StoreKey } from "./cipher.js";
import { isLockPage, PageCipher } from "./page-cipher.js";

/** Consecutive pages. */
export interface PageRange {
  /** File descriptors, which threads may share. */
  readonly source: number;
  readonly target: number;
  /** The offset of the first page in the source, in bytes: the source may be a log. */
  readonly sourceOffset: number;
  /** The number of the first page, counted from 1. */
  readonly firstPage: number;
  readonly pages: number;
}

export class PageReencryption {
  readonly pageBytes: number;
  readonly #from: PageCipher;
  readonly #to: PageCipher;
  /** Reused in later calls, because allocating them takes as long as filling them. */
  #buffers = { before: Buffer.alloc(0), after: Buffer.alloc(0) };

  /** Both keys must be of the same format. */
  constructor(from: StoreKey, to: StoreKey) {
    this.#from = new PageCipher(from);
    this.#to = new PageCipher(to);
    this.pageBytes = this.#from.layout.pageBytes;
  }

  /**
   * Re-encrypts pages, reads them back from the target, and compares their content with the source.
   *
   * @returns the numbers of the source's pages that are not authentic. The target has zeros there.
   * @throws {@link StoreError} corrupted - if the target does not contain what was written
   * @throws NodeJS.ErrnoException if the system fails
   */
  copy({ source, sourceOffset, target, firstPage, pages }: PageRange): number[] {
    const { before, after } = this.#buffersFor(pages * this.pageBytes);
    const targetOffset = (firstPage - 1) * this.pageBytes;
    readFully(source, before, sourceOffset);
    const damaged: number[] = [];
    const contents = this.#split(before).map((page, index) => {
      const number = firstPage + index;
      if (this.#from.isAuthentic(page, number)) return this.#from.decrypt(page, number);
      if (!isLockPage(page, number)) damaged.push(number);
      return undefined;
    });
    this.#encrypt(contents, firstPage, after);
    writeFully(target, after, targetOffset);
    // Reuse the buffer of the source: its contents are not needed any more.
    readFully(target, before, targetOffset);
    for (const [index, page] of this.#split(before).entries()) {
      this.#assertWritten(page, firstPage + index, contents[index]);
    }
    return damaged;
  }

  #encrypt(contents: readonly (Buffer | undefined)[], firstPage: number, buffer: Buffer): void {
    // Get random bytes for all pages at once: a call takes longer than the bytes for a page.
    const { reserveBytes } = this.#to.layout;
    const random = randomBytes(contents.length * reserveBytes);
    for (const [index, page] of this.#split(buffer).entries()) {
      const content = contents[index];
      const reserve = random.subarray(index * reserveBytes, (index + 1) * reserveBytes);
      if (content) this.#to.encrypt(content, firstPage + index, reserve, page);
      else page.fill(0);
    }
  }

  #assertWritten(page: Buffer, number: number, content: Buffer | undefined): void {
    const isEqual = content
      ? this.#to.isAuthentic(page, number) && this.#to.decrypt(page, number).equals(content)
      : page.every((byte) => byte === 0);
    if (isEqual) return;
    throw new StoreError("corrupted", `page ${number} was not written correctly`, {
      hint: "Test the disk and the memory of this machine.",
    });
  }

  #split(buffer: Buffer): Buffer[] {
    return Array.from({ length: buffer.length / this.pageBytes }, (_, index) =>
      buffer.subarray(index * this.pageBytes, (index + 1) * this.pageBytes),
    );
  }

  #buffersFor(size: number): { before: Buffer; after: Buffer } {
    if (this.#buffers.before.length < size) {
      this.#buffers = { before: Buffer.alloc(size), after: Buffer.alloc(size) };
    }
    const { before, after } = this.#buffers;
    return { before: before.subarray(0, size), after: after.subarray(0, size) };
  }
}

/** Fills the buffer from an offset, and with zeros beyond the end of the file. */
function readFully(file: number, buffer: Buffer, offset: number): void {
  for (let done = 0; done < buffer.length; ) {
    const bytes = readSync(file, buffer, done, buffer.length - done, offset + done);
    if (bytes === 0) return void buffer.fill(0, done);
    done += bytes;
  }
}

function writeFully(file: number, buffer: Buffer, offset: number): void {
  for (let done = 0; done < buffer.length; ) {
    done += writeSync(file, buffer, done, buffer.length - done, offset + done);
  }
}
