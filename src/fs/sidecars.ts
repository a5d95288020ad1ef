import { dirname } from "node:path";
import { StoreError } from "../errors.js";
import { shellQuote } from "../text/escape.js";
import { removeFile, syncDirectory } from "./atomic.js";
import { lstatIfExists } from "./read.js";

/** Suffixes of the files that SQLite keeps next to a database. */
export const sidecars = ["-journal", "-wal", "-shm"] as const;

/** Removes a database and its sidecars. */
export async function removeDatabase(path: string): Promise<void> {
  for (const suffix of ["", ...sidecars]) await removeFile(path + suffix);
  await syncDirectory(dirname(path));
}

/**
 * Checks that no sidecar of a removed database is left at the path of a new database: SQLite would
 * apply the pages in the sidecar to the new database.
 *
 * @throws {@link StoreError} refused - if there is a sidecar
 * @throws {@link StoreError} io - if the directory cannot be searched
 */
export async function assertNoStraySidecars(path: string): Promise<void> {
  for (const suffix of sidecars) {
    const stray = path + suffix;
    if (!(await lstatIfExists(stray))) continue;
    throw new StoreError(
      "refused",
      `${stray} is left from a store that no longer exists, and would damage a new store`,
      {
        hint: `Stop the hub if it runs, then move the file away: mv ${shellQuote(stray)} ${shellQuote(`${stray}.old`)}`,
      },
    );
  }
}
