/** The `migrate` of the library. */
import {
  type CopyDatabaseOptions,
  copyDatabase,
  type Migration,
} from "../migrate/copy-database.js";
import { findStores } from "../migrate/stores.js";
import type { OperationLock } from "../operation/lock.js";
import type { Reporter } from "../reporter.js";
import { withStores } from "./stores.js";

export interface MigrateOptions extends CopyDatabaseOptions {
  /** The locks of the two databases' stores that the caller holds, from `withOperation`. */
  readonly locks?: readonly OperationLock[];
  /** Receives what the recovery of an interrupted operation has done. Default: discards it. */
  readonly reporter?: Pick<Reporter, "notice">;
}

const silent: Pick<Reporter, "notice"> = { notice: () => undefined };

/**
 * Copies every client from one database to another, and compares the two. Writes nothing before
 * every client of the source has been checked.
 *
 * Recovers an interrupted operation on each SQLite store first, and holds the store's operation
 * lock: an operation that replaces the file of a store would lose the copied clients. A dry run
 * recovers, too, but needs no lock.
 *
 * @throws {@link StoreError} inUse - if another operation is running on a store
 * @throws {@link StoreError} refused - if the target is not empty, if clients differ under the same
 *   id or key, if the target has active clients unknown to the source, if the counter of the target
 *   is wrong, if a client of the source is not valid, or if too many ids are unused
 * @throws {@link StoreError} corrupted - if two records of the source have the same id
 * @throws {@link StoreError} failed - if the comparison found a difference
 * @throws {@link StoreError} usage - if source and target are the same database
 * @throws {@link StoreError} interrupted - if `signal` is aborted, or its reason if that is a
 *   StoreError
 * @throws {@link StoreError} what the recovery and `beforeEnd` throw
 *
 * @example
 * ```ts
 * const from = { name: "hivemind-json-db-plugin", config: {} };
 * const to = { name: "hivemind-sqlcipher-db-plugin", config: { password_source: "keyring" } };
 * const { copied } = await migrate({ from, to });
 * ```
 */
export async function migrate(options: MigrateOptions): Promise<Migration> {
  const { from, to, dryRun = false, locks = [], reporter = silent } = options;
  const held = new Set(locks.map(({ storePath }) => storePath));
  const stores = (await findStores(from, to)).filter((path) => !held.has(path));
  return withStores(stores, { dryRun }, reporter, () => copyDatabase(options));
}
