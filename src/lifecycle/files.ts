/** Whole files: onto the disk, and their checksum. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import { systemError } from "../errors.js";
import { syncFolder } from "../files/durable.js";

/** Puts a file, written by SQLite or by others, and its name on the disk. */
export async function syncFile(path: string): Promise<void> {
  try {
    await using file = await open(path, "r+");
    await file.sync();
  } catch (error) {
    throw systemError(error, `cannot sync ${path}`);
  }
  await syncFolder(dirname(path));
}

/** In hex. */
export async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  try {
    await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  } catch (error) {
    throw systemError(error, `cannot read ${path}`);
  }
  return hash.digest("hex");
}
