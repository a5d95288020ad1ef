/** Reading from open files, which may give less at a time than was asked for. */
import type { FileHandle } from "node:fs/promises";

/** Fills the buffer from an offset; fewer bytes are read only at the end of the file. */
export async function readUpTo(file: FileHandle, buffer: Buffer, offset: number): Promise<number> {
  let filled = 0;
  while (filled < buffer.byteLength) {
    const { bytesRead } = await file.read(buffer, filled, buffer.length - filled, offset + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return filled;
}
