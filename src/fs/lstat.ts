/** What a name is at the moment. */
import type { BigIntStats } from "node:fs";
import { lstat } from "node:fs/promises";
import { hasCode, systemError } from "../errors.js";

/**
 * A file's particulars, links not followed; undefined if there is none.
 *
 * @throws StoreError `io` if that cannot be told.
 */
export async function lstatIfExists(path: string): Promise<BigIntStats | undefined> {
  try {
    return await lstat(path, { bigint: true });
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot look at ${path}`);
  }
}
