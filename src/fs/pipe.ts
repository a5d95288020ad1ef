/** Opens files that may be pipes, such as the shell's `<(command)`. */
import { closeSync, constants, openSync } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { StoreError } from "../errors.js";

/** Enough for a pipe of `<(command)`: the shell starts its writer at once. */
const writerTimeoutMs = 5_000;

/**
 * Opens a file or a pipe for reading.
 *
 * The system blocks the opening of a named pipe until a program opens the pipe for writing, so this
 * has a time limit.
 *
 * @throws {@link StoreError} io - if no program has opened the pipe for writing after 5 seconds
 * @throws the system's own error if it cannot be opened
 */
export async function openFileOrPipe(path: string): Promise<FileHandle> {
  const flags = constants.O_RDONLY | constants.O_NOCTTY;
  if (!(await stat(path)).isFIFO()) return await open(path, flags);
  let hasTimedOut = false;
  const timer = setTimeout(() => {
    hasTimedOut = true;
    unblock(path);
  }, writerTimeoutMs);
  try {
    const file = await open(path, flags);
    if (!hasTimedOut) return file;
    await file.close();
    throw new StoreError("io", `no program writes to the pipe ${path}`, {
      hint: "Name a file, or start the program that writes to the pipe.",
    });
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Unblocks the thread that waits for a writer, by opening the pipe for writing. A blocked thread
 * would keep Node.js from exiting.
 */
function unblock(path: string): void {
  try {
    closeSync(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK));
  } catch {
    // The pipe has no reader any more.
  }
}
