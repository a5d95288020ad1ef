/** Opening files that may not be there, and reading from open ones, which may give less at a time than was asked for. */
import { type FileHandle, open } from "node:fs/promises";
import { hasCode } from "../errors.js";

/** A file to be read, undefined if there is none. */
export async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return undefined;
    throw error;
  }
}

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
