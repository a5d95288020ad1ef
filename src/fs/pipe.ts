/** Opens files that may be pipes, such as the shell's `<(command)`. */
import { close, closeSync, constants, open as openDescriptor, openSync } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { promisify } from "node:util";
import { StoreError } from "../errors.js";

/** Enough for a pipe of `<(command)`: the shell starts its writer at once. */
const writerTimeoutMs = 5_000;

const readFlags = constants.O_RDONLY | constants.O_NOCTTY;

/** Returns whether a path names a pipe. @throws the system's own error */
export async function isPipe(path: string): Promise<boolean> {
  return (await stat(path)).isFIFO();
}

/**
 * Opens a file or a pipe for reading.
 *
 * @throws {@link StoreError} io - if no program has opened the pipe for writing after 5 seconds
 * @throws the system's own error if it cannot be opened
 */
export async function openFileOrPipe(path: string): Promise<FileHandle> {
  const file = () => open(path, readFlags);
  return (await isPipe(path)) ? await awaitWriter(path, file, (each) => each.close()) : file();
}

/**
 * Opens a pipe for reading and returns its descriptor, for a socket, which closes it. A second
 * opening of the pipe would not notice that its writer has ended since the first.
 *
 * @throws as `openFileOrPipe`
 */
export async function openPipe(path: string): Promise<number> {
  return await awaitWriter(
    path,
    () => promisify(openDescriptor)(path, readFlags),
    promisify(close),
  );
}

/**
 * Opens a pipe. The system blocks its opening until a program opens the pipe for writing, so this
 * has a time limit.
 */
async function awaitWriter<Opened>(
  path: string,
  openPath: () => Promise<Opened>,
  closeAgain: (opened: Opened) => Promise<void>,
): Promise<Opened> {
  let hasTimedOut = false;
  const timer = setTimeout(() => {
    hasTimedOut = true;
    unblock(path);
  }, writerTimeoutMs);
  try {
    const opened = await openPath();
    if (!hasTimedOut) return opened;
    await closeAgain(opened);
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
