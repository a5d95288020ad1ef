/**
 * Reads the committed pages of an SQLite write-ahead log, without SQLite.
 *
 * The format is https://www.sqlite.org/fileformat2.html#walformat: a header of 32 bytes, then
 * frames of a 24-byte header and a page. Integers are big-endian. The checksums run over 32-bit
 * words in the byte order of the header's magic number, each continuing the checksum of the
 * previous frame. SQLCipher encrypts only the pages, so this needs no key.
 *
 * A frame is valid if it has the header's salts and its checksum matches. Anything after the last
 * valid frame is left from before the log restarted, or unfinished. Frames become part of the
 * database with the commit frame that ends their transaction.
 */
import type { FileHandle } from "node:fs/promises";
import { readUpTo } from "../fs/read.js";

const headerBytes = 32;
const frameHeaderBytes = 24;
/** The magic number for little-endian checksums; the next number is for big-endian checksums. */
const magic = 0x377f0682;
const formatVersion = 3007000;
/** The size of a read. With this size, the calls take little time compared with the checksums. */
const chunkBytes = 1 << 20;

/** A running checksum: two 32-bit words. */
type Checksum = readonly [number, number];

/** How far a log has been read: up to and including a commit frame. */
export interface WalPosition {
  /** Header of the log. It changes whenever the log restarts. */
  readonly header: Buffer;
  readonly pageSize: number;
  /** Number of frames read. */
  readonly frames: number;
  /** Header of the last frame. Its running checksum covers all frames before. */
  readonly lastFrame: Buffer | undefined;
  /** Size of the database in pages after the last commit; undefined before the first. */
  readonly databasePages: number | undefined;
}

/** The contents of a log beyond a position. */
export interface WalChanges {
  readonly position: WalPosition;
  /** Offset in the log of the newest content of each page. */
  readonly pages: ReadonlyMap<number, number>;
}

/**
 * Reads a log from a position, or from its beginning.
 *
 * @returns "empty" if the log has no valid header; "restarted" if the position is no longer part of
 *   this log, because the log restarted or its frames were overwritten
 */
export async function readWal(
  file: FileHandle,
  from?: WalPosition,
): Promise<WalChanges | "empty" | "restarted"> {
  const header = await readExactly(file, headerBytes, 0);
  const start = header && parseHeader(header);
  if (!header || !start) return from ? "restarted" : "empty";
  if (from && !(await hasPosition(file, header, from))) return "restarted";

  const frameSize = frameHeaderBytes + start.pageSize;
  let checksum = from?.lastFrame ? readChecksum(from.lastFrame) : start.checksum;
  let position: WalPosition = from ?? {
    header,
    pageSize: start.pageSize,
    frames: 0,
    lastFrame: undefined,
    databasePages: undefined,
  };
  const committed = new Map<number, number>();
  let uncommitted: [page: number, offset: number][] = [];
  let frames = position.frames;

  for await (const frame of readFrames(file, headerBytes + frames * frameSize, frameSize)) {
    const next = checkFrame(frame, start.salts, checksum, start.isLittleEndian);
    if (!next) break;
    checksum = next;
    const offset = headerBytes + frames * frameSize + frameHeaderBytes;
    uncommitted.push([frame.readUInt32BE(0), offset]);
    frames += 1;
    const databasePages = frame.readUInt32BE(4);
    if (databasePages === 0) continue;
    for (const [page, at] of uncommitted) committed.set(page, at);
    uncommitted = [];
    const lastFrame = Buffer.from(frame.subarray(0, frameHeaderBytes));
    position = { ...position, frames, lastFrame, databasePages };
  }
  return { position, pages: committed };
}

/** Returns whether `position` is still part of the log. */
export async function isCurrent(file: FileHandle, position: WalPosition): Promise<boolean> {
  const header = await readExactly(file, headerBytes, 0);
  return header !== undefined && (await hasPosition(file, header, position));
}

async function hasPosition(file: FileHandle, header: Buffer, position: WalPosition) {
  if (!header.equals(position.header)) return false;
  if (!position.lastFrame) return true;
  const at = headerBytes + (position.frames - 1) * (frameHeaderBytes + position.pageSize);
  const lastFrame = await readExactly(file, frameHeaderBytes, at);
  return lastFrame?.equals(position.lastFrame) ?? false;
}

function parseHeader(header: Buffer) {
  const kind = header.readUInt32BE(0);
  if (kind !== magic && kind !== magic + 1) return undefined;
  if (header.readUInt32BE(4) !== formatVersion) return undefined;
  const pageSize = header.readUInt32BE(8);
  if (pageSize < 512 || pageSize > 65536 || (pageSize & (pageSize - 1)) !== 0) return undefined;
  const isLittleEndian = kind === magic;
  const checksum = addToChecksum([0, 0], header.subarray(0, 24), isLittleEndian);
  if (!isSameChecksum(checksum, [header.readUInt32BE(24), header.readUInt32BE(28)]))
    return undefined;
  return { pageSize, isLittleEndian, salts: header.subarray(16, 24), checksum };
}

/** Returns the running checksum after a frame, or undefined if the frame is not part of the log. */
function checkFrame(
  frame: Buffer,
  salts: Buffer,
  before: Checksum,
  isLittleEndian: boolean,
): Checksum | undefined {
  if (frame.readUInt32BE(0) === 0 || !frame.subarray(8, 16).equals(salts)) return undefined;
  const head = addToChecksum(before, frame.subarray(0, 8), isLittleEndian);
  const after = addToChecksum(head, frame.subarray(frameHeaderBytes), isLittleEndian);
  return isSameChecksum(after, readChecksum(frame)) ? after : undefined;
}

function readChecksum(frame: Buffer): Checksum {
  return [frame.readUInt32BE(16), frame.readUInt32BE(20)];
}

function isSameChecksum(a: Checksum, b: Checksum): boolean {
  return a[0] === b[0] && a[1] === b[1];
}

function addToChecksum(before: Checksum, bytes: Buffer, isLittleEndian: boolean): Checksum {
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let [first, second] = before;
  for (let at = 0; at < bytes.byteLength; at += 8) {
    first = (first + words.getUint32(at, isLittleEndian) + second) >>> 0;
    second = (second + words.getUint32(at + 4, isLittleEndian) + first) >>> 0;
  }
  return [first, second];
}

/**
 * Yields the whole frames from an offset to the end. Each buffer is valid until the next iteration.
 */
async function* readFrames(file: FileHandle, offset: number, frameSize: number) {
  const buffer = Buffer.alloc(frameSize * Math.max(1, Math.floor(chunkBytes / frameSize)));
  for (let at = offset; ; ) {
    const bytes = await readUpTo(file, buffer, at);
    const whole = bytes - (bytes % frameSize);
    for (let start = 0; start < whole; start += frameSize) {
      yield buffer.subarray(start, start + frameSize);
    }
    if (whole < buffer.byteLength) return;
    at += whole;
  }
}

async function readExactly(file: FileHandle, size: number, offset: number) {
  const buffer = Buffer.alloc(size);
  return (await readUpTo(file, buffer, offset)) === size ? buffer : undefined;
}
