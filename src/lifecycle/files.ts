/** Whole files, onto the disk. */
import { open } from "node:fs/promises";
import { dirname } from "node:path";
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
