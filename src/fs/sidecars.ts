/** The files that SQLite keeps beside a database. */
import { StoreError } from "../errors.js";
import { lstatIfExists } from "./lstat.js";

/** What they have behind the database's name, each with its own way to lose or damage data when the file is replaced. */
export const sidecars = ["-journal", "-wal", "-shm"] as const;

/**
 * For whoever is about to make a new database: SQLite would take what is left of one whose file is gone for the new one's
 * own, and write its pages into that.
 *
 * @throws StoreError `refused` if anything lies there, `io` if it cannot be looked at.
 */
export async function assertNoStraySidecars(path: string): Promise<void> {
  for (const suffix of sidecars) {
    const stray = path + suffix;
    if (!(await lstatIfExists(stray))) continue;
    throw new StoreError(
      "refused",
      `${stray} belongs to a store that is not there any more, and would damage a new one`,
      { hint: `see that no hub runs, then: mv '${stray}' '${stray}.old'` },
    );
  }
}
