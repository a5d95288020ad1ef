/** What every command does first: finish or undo the operation that an earlier one left, and say so. */
import { settleBackup } from "../backup/settle.js";
import { StoreError } from "../errors.js";
import { Journal } from "../operation/journal.js";
import { acquireLock, type OperationLock } from "../operation/lock.js";
import type { Reporter } from "../operation/reporter.js";

/**
 * Settles what is left of an interrupted operation.
 *
 * @returns what was done, in sentences; none if nothing was left.
 */
export async function settle(lock: OperationLock): Promise<string[]> {
  const journal = await Journal.read(lock.storePath);
  if (!journal) return [];
  if (journal.entry.operation === "backup") return settleBackup(journal, lock.storePath);
  throw new StoreError(
    "newerVersion",
    `an interrupted ${journal.entry.operation} of ${lock.storePath} is nothing that this version can settle`,
    { hint: "finish it with the version that began it" },
  );
}

/**
 * The same for a command that needs no lock itself: nothing is looked at twice where nothing was left, and an
 * operation that is at work right now is let alone.
 */
export async function settleIfNeeded(storePath: string): Promise<string[]> {
  if (!(await Journal.read(storePath))) return [];
  try {
    await using lock = await acquireLock(storePath);
    return await settle(lock);
  } catch (error) {
    if (error instanceof StoreError && error.kind === "inUse") return [];
    throw error;
  }
}

/** Runs an operation under the store's lock, on a store that nothing is left on. */
export async function withOperation<Result>(
  storePath: string,
  reporter: Reporter,
  operation: (lock: OperationLock) => Promise<Result>,
): Promise<Result> {
  await using lock = await acquireLock(storePath);
  for (const sentence of await settle(lock)) reporter.notice(sentence);
  return await operation(lock);
}
