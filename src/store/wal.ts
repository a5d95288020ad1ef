/**
 * Reading an SQLite write-ahead log from outside SQLite: which pages have been committed to it.
 *
 * The format is https://www.sqlite.org/fileformat2.html#walformat. A log has a 32-byte header and then frames of a
 * 24-byte header and one page. Integers are big-endian; the checksums run over 32-bit words in the byte order that
 * the header's magic number names, and each frame's continues the one before it. SQLCipher encrypts the pages alone,
 * so no key is needed here.
 *
 * A frame counts while its salts are the header's and the chain of checksums holds; what follows is left over from
 * an earlier round of the log or not finished. Frames become part of the database with the commit frame that ends
 * their transaction, and not before.
 */
import type { FileHandle } from "node:fs/promises";
import { readUpTo } from "../fs/read.js";

const headerSize = 32;
const frameHeaderSize = 24;
/** Checksums over little-endian words; one more says big-endian words. */
const magic = 0x377f0682;
const formatVersion = 3007000;
/** How much of a log is read at a time, in bytes: enough that the calls cost nothing beside the checksums. */
const readAhead = 1 << 20;

/** A running checksum: two 32-bit words. */
type Checksum = readonly [number, number];

/** How far a log has been read: up to and with a commit frame. */
export interface WalPosition {
  /** The log's header: it changes whenever the log begins anew. */
  readonly header: Buffer;
  readonly pageSize: number;
  /** Frames up to here. */
  readonly frames: number;
  /** The header of the last of them; with its running checksum it stands for all before it. */
  readonly lastFrame: Buffer | undefined;
  /** The database's size in pages as of the last commit; undefined while there is none. */
  readonly databasePages: number | undefined;
}

/** What a log has beyond a position. */
export interface WalNews {
  readonly position: WalPosition;
  /** For each page committed since, where in the log its newest content begins. */
  readonly pages: ReadonlyMap<number, number>;
}

/**
 * Reads a log on from a position, or from its beginning.
 *
 * @returns "empty" if the log has no valid header (nothing was written to it), "restarted" if the position is not
 *   one of this log any more: it was begun anew, or what was read as committed was written over.
 */
export async function readWal(
  file: FileHandle,
  from?: WalPosition,
): Promise<WalNews | "empty" | "restarted"> {
  const header = await readExactly(file, headerSize, 0);
  const start = header && parseHeader(header);
  if (!header || !start) return from ? "restarted" : "empty";
  if (from && !(await stillHolds(file, header, from))) return "restarted";

  const frameSize = frameHeaderSize + start.pageSize;
  let checksum = from?.lastFrame ? storedChecksum(from.lastFrame) : start.checksum;
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

  for await (const frame of frameBytes(file, headerSize + frames * frameSize, frameSize)) {
    const next = checkFrame(frame, start.salts, checksum, start.littleEndian);
    if (!next) break;
    checksum = next;
    const offset = headerSize + frames * frameSize + frameHeaderSize;
    uncommitted.push([frame.readUInt32BE(0), offset]);
    frames += 1;
    const databasePages = frame.readUInt32BE(4);
    if (databasePages === 0) continue;
    for (const [page, at] of uncommitted) committed.set(page, at);
    uncommitted = [];
    const lastFrame = Buffer.from(frame.subarray(0, frameHeaderSize));
    position = { ...position, frames, lastFrame, databasePages };
  }
  return { position, pages: committed };
}

/** Whether the log is still the one that `position` was read from, and its last frame still there. */
export async function isCurrent(file: FileHandle, position: WalPosition): Promise<boolean> {
  const header = await readExactly(file, headerSize, 0);
  return header !== undefined && (await stillHolds(file, header, position));
}

async function stillHolds(file: FileHandle, header: Buffer, position: WalPosition) {
  if (!header.equals(position.header)) return false;
  if (!position.lastFrame) return true;
  const at = headerSize + (position.frames - 1) * (frameHeaderSize + position.pageSize);
  const lastFrame = await readExactly(file, frameHeaderSize, at);
  return lastFrame?.equals(position.lastFrame) ?? false;
}

function parseHeader(header: Buffer) {
  const kind = header.readUInt32BE(0);
  if (kind !== magic && kind !== magic + 1) return undefined;
  if (header.readUInt32BE(4) !== formatVersion) return undefined;
  const pageSize = header.readUInt32BE(8);
  if (pageSize < 512 || pageSize > 65536 || (pageSize & (pageSize - 1)) !== 0) return undefined;
  const littleEndian = kind === magic;
  const checksum = addToChecksum([0, 0], header.subarray(0, 24), littleEndian);
  if (!sameChecksum(checksum, [header.readUInt32BE(24), header.readUInt32BE(28)])) return undefined;
  return { pageSize, littleEndian, salts: header.subarray(16, 24), checksum };
}

/** The running checksum after a frame, or undefined if the frame does not belong to the log. */
function checkFrame(
  frame: Buffer,
  salts: Buffer,
  before: Checksum,
  littleEndian: boolean,
): Checksum | undefined {
  if (frame.readUInt32BE(0) === 0 || !frame.subarray(8, 16).equals(salts)) return undefined;
  const head = addToChecksum(before, frame.subarray(0, 8), littleEndian);
  const after = addToChecksum(head, frame.subarray(frameHeaderSize), littleEndian);
  return sameChecksum(after, storedChecksum(frame)) ? after : undefined;
}

function storedChecksum(frame: Buffer): Checksum {
  return [frame.readUInt32BE(16), frame.readUInt32BE(20)];
}

function sameChecksum(a: Checksum, b: Checksum): boolean {
  return a[0] === b[0] && a[1] === b[1];
}

function addToChecksum(before: Checksum, bytes: Buffer, littleEndian: boolean): Checksum {
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let [first, second] = before;
  for (let at = 0; at < bytes.byteLength; at += 8) {
    first = (first + words.getUint32(at, littleEndian) + second) >>> 0;
    second = (second + words.getUint32(at + 4, littleEndian) + first) >>> 0;
  }
  return [first, second];
}

/** The whole frames from an offset to the end of the file. Each is valid until the next is asked for. */
async function* frameBytes(file: FileHandle, offset: number, frameSize: number) {
  const buffer = Buffer.alloc(frameSize * Math.max(1, Math.floor(readAhead / frameSize)));
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
