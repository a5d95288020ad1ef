/** Runs work on several SQLite stores. */
import type { Reporter } from "../reporter.js";
import { recoverIfNeeded, withOperation } from "./recover.js";

/**
 * Recovers an interrupted operation on each store, and runs work under the locks of all: if another
 * operation replaced a store's file, the writes to the old file would be lost. A dry run writes
 * nothing, so it holds no lock.
 *
 * @throws {@link StoreError} inUse - if another operation is running on a store
 * @throws {@link StoreError} what the recovery and `work` throw
 */
export async function withStores<Result>(
  [storePath, ...others]: readonly string[],
  options: { readonly dryRun: boolean },
  reporter: Pick<Reporter, "notice">,
  work: () => Promise<Result>,
): Promise<Result> {
  if (storePath === undefined) return work();
  const next = () => withStores(others, options, reporter, work);
  if (!options.dryRun) {
    return withOperation(storePath, reporter, next, { whileServiceDown: "open-only" });
  }
  for (const message of await recoverIfNeeded(storePath)) reporter.notice(message);
  return next();
}
