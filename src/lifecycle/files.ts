/** Whole files: onto the disk, and their checksum. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open } from "node:fs/promises";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import { systemError } from "../errors.js";
import { syncFolder } from "../files/durable.js";
import { run } from "../service/run.js";

/** A look at one name takes milliseconds; a disk that has gone to sleep, or a server far away, takes seconds. */
const lsLimitMs = 30_000;

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

/**
 * Whether a file has an access control list besides its mode. Nothing in Node tells that; `ls` does, by a `+` behind the
 * mode, where it knows of them at all.
 */
export async function hasAccessList(path: string): Promise<boolean> {
  const { code, stdout } = await run("ls", ["-ld", "--", path], { timeoutMs: lsLimitMs });
  return code === 0 && /^\S{10}\+/.test(stdout);
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
