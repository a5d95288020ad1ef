/**
 * The staged copy of a backup. Clients revoked in the present store are revoked in the copy, too,
 * unless the user readmits them.
 *
 * The clients are compared while the service runs. The same connection later locks the store, and
 * its `data_version` shows whether another connection has changed the store since. In WAL mode the
 * changed rows are known (store/row-changes): they are compared again while the service runs, until
 * few are left, and the rest while it is stopped. So the downtime does not depend on the size of
 * the store or of the backup. If the changed rows are not known, all clients are compared again
 * during the downtime.
 */
import { isWal, pin } from "../backup/warm-copy.js";
import { type ClientCounts, revoked } from "../client/client.js";
import { isKind } from "../errors.js";
import { syncFile } from "../fs/copy.js";
import { throwIfAborted } from "../process/abort.js";
import type { Secret, StoreKey } from "../store/cipher.js";
import type { ClientTable } from "../store/client-table.js";
import type { Connection } from "../store/connection.js";
import { readHeader } from "../store/database-header.js";
import { LockedStore, setJournalMode } from "../store/locked-store.js";
import { findRangesAround, type IdSpan, RowChanges } from "../store/row-changes.js";
import type { Replaced } from "../swap/request.js";
import { assertConfirmed } from "./confirm.js";
import { Comparison, type Differences } from "./differences.js";
import { openTable, readTable } from "./present-store.js";

/** The contents of the restored store. */
export interface Completed {
  readonly clients: ClientCounts;
  /** As in `Differences.stayRevoked`; empty with `readmitRevoked`. */
  readonly stayedRevoked: number[];
}

export interface StagedCopyOptions {
  readonly storePath: string;
  readonly replaced: Replaced;
  readonly readmitRevoked: boolean;
  /** The clients of the backup. */
  readonly clients: Completed["clients"];
  /** The differences known before the confirmation. */
  readonly confirmed: Differences | undefined;
  readonly signal: AbortSignal;
}

/**
 * The catch-up ends after a round with at most this many changed leaf pages: the last comparison,
 * while the service is stopped, then has about as many.
 */
const fewSpans = 16;
/**
 * The maximum number of rounds if a writer commits faster than its changes are compared. If the
 * changed rows are not known, each round compares all clients.
 */
const maxRounds = 4;

/** The present store, and its state at the last comparison. */
interface Present {
  readonly table: ClientTable;
  /**
   * Finds the changed rows; undefined if they cannot be known. They are known only for a store in
   * WAL mode with the default cipher parameters. In any other journal mode, a read transaction
   * would block the hub.
   */
  readonly tracking: { readonly changes: RowChanges; readonly key: StoreKey } | undefined;
  /** A connection with a read transaction, so that the log is not restarted; see `pinLog`. */
  pinned: Connection | undefined;
  /** The `data_version` before the last comparison. */
  version: number | undefined;
}

export class StagedCopy implements AsyncDisposable {
  readonly #options: StagedCopyOptions;
  /** Undefined before `prefill`, after `lock`, and if the present store cannot be opened. */
  #present: Present | undefined;
  /** The ids changed between the last comparison and the lock; undefined if they are not known. */
  #changed: readonly IdSpan[] | undefined;
  readonly #comparison = new Comparison();
  #clients: Completed["clients"];
  readonly #stayedRevoked = new Set<number>();

  constructor(options: StagedCopyOptions) {
    this.#options = options;
    this.#clients = options.clients;
  }

  /**
   * Compares the clients while the service runs, and revokes clients in the copy.
   *
   * @param staged - the path of the copy
   * @param key - the key of the copy
   * @throws {@link StoreError} refused - if a client would gain more than in `confirmed`
   */
  async prefill(staged: string, key: StoreKey): Promise<void> {
    const { storePath, replaced, signal } = this.#options;
    if (replaced.state === "open")
      this.#present = await openPresentStore(storePath, replaced.secret);
    await withTable(staged, key, async (copy) => {
      throwIfAborted(signal);
      if (!this.#present) return;
      await recordVersion(this.#present);
      await this.#present.tracking?.changes.next();
      await pinLog(this.#present);
      await this.#revokeChanged(copy, this.#present.table);
    });
    // The sync of a large copy takes long, and the hub writes to the store during it.
    await syncFile(staged);
    const present = this.#present;
    if (present?.tracking) await withTable(staged, key, (copy) => this.#catchUp(copy, present));
  }

  /** Locks the present store, and reads the changes since the last comparison. */
  async lock(): Promise<LockedStore> {
    const { storePath, replaced } = this.#options;
    const present = this.#present;
    if (!present || replaced.state !== "open") throw new Error("there is no store to lock");
    const { connection } = present.table;
    this.#present = undefined;
    await present.pinned?.close();
    try {
      return await LockedStore.lockOpened(connection, replaced.secret, async () => {
        const isSame = (await readDataVersion(connection)) === present.version;
        this.#changed = isSame ? [] : await present.tracking?.changes.next();
      });
    } catch (error) {
      if (!isKind(error, "inUse")) throw error;
      // Another process has the store open. This lock is retried, but does not read the changes, so
      // `complete` compares all clients.
      this.#changed = undefined;
      return await LockedStore.lock(storePath, replaced.secret);
    }
  }

  /**
   * Completes the copy while the service is stopped, and gives it the former journal mode of the
   * locked store.
   *
   * @throws {@link StoreError} refused - if a client would gain more than in `confirmed`
   */
  async complete(
    staged: string,
    key: StoreKey,
    locked: LockedStore | undefined,
  ): Promise<Completed> {
    if (locked) {
      await withTable(staged, key, async (copy) => {
        if (this.#changed?.length !== 0) {
          await this.#revokeChanged(copy, await readTable(locked.connection), this.#changed);
        }
        await setJournalMode(copy.connection, locked.journalMode);
      });
    }
    return { clients: this.#clients, stayedRevoked: [...this.#stayedRevoked] };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#present?.pinned?.close();
    await this.#present?.table.close();
  }

  /** Compares the rows changed since the last comparison, and repeats this until few change. */
  async #catchUp(copy: ClientTable, present: Present): Promise<void> {
    for (let round = 0; round < maxRounds; round++) {
      const { version, tracking } = present;
      await recordVersion(present);
      if (present.version === version) return;
      const spans = await tracking?.changes.next();
      await pinLog(present);
      await this.#revokeChanged(copy, present.table, spans);
      // If the log was empty in `prefill`, the first round only records a position in it, and the
      // second round knows the changes. Changes unknown after that stay unknown.
      if (spans ? spans.length <= fewSpans : round > 0) return;
    }
  }

  /**
   * Compares clients, and revokes `Differences.revoked` in the copy, unless the user readmits them.
   *
   * @param spans - the ids to compare; undefined for all ids
   */
  async #revokeChanged(
    copy: ClientTable,
    present: ClientTable,
    spans?: readonly IdSpan[],
  ): Promise<void> {
    const { readmitRevoked, confirmed, signal } = this.#options;
    const ranges = spans && (await findRangesAround(present.connection, spans));
    await this.#comparison.compare(present, copy, { ranges, signal });
    const found = this.#comparison.differences;
    assertConfirmed(found, confirmed, readmitRevoked);
    throwIfAborted(signal);
    if (readmitRevoked) return;
    await copy.addItems(found.revoked.map(revoked));
    for (const id of found.stayRevoked) this.#stayedRevoked.add(id);
    const added = this.#comparison.recordRevoked(found.revoked);
    this.#clients = {
      active: this.#clients.active - (found.revoked.length - added),
      revoked: this.#clients.revoked + found.revoked.length,
    };
  }
}

async function openPresentStore(path: string, secret: Secret): Promise<Present> {
  // Read before SQLite opens the store: closing the file later would drop SQLite's locks.
  const header = secret && !secret.parameters ? await readHeader(path, secret) : undefined;
  const table = await openTable(path, secret);
  const { connection } = table;
  const tracking =
    secret && header && (await isWal(connection))
      ? { changes: new RowChanges(connection, secret, header), key: secret }
      : undefined;
  return { table, tracking, pinned: undefined, version: undefined };
}

/** Runs `work` with the clients of a file, and closes the file. */
async function withTable(
  path: string,
  key: StoreKey,
  work: (table: ClientTable) => Promise<void>,
): Promise<void> {
  await using table = await openTable(path, key);
  await work(table);
}

/**
 * Records the state of the store before the log is read: a change after this moment is found again,
 * in the next round or under the lock, whether the log that is read contains it or not.
 */
async function recordVersion(present: Present): Promise<void> {
  present.version = await readDataVersion(present.table.connection);
}

/**
 * Pins the log with a new read transaction, and ends the former pin. A checkpoint can then write
 * all pages committed before the new pin into the store. The former pin ends only after the new pin
 * has begun, so the log is not restarted in between. Only a pin of a log with all its pages in the
 * main file does not prevent a restart: the next round then compares all clients.
 */
async function pinLog(present: Present): Promise<void> {
  const { table, tracking, pinned } = present;
  if (!tracking) return;
  present.pinned = await pin(table.connection.path, tracking.key);
  await pinned?.close();
}

/**
 * Returns SQLite's `data_version`: two values of the same connection differ if another connection
 * has committed a change in between.
 */
async function readDataVersion(connection: Connection): Promise<number | undefined> {
  const row = await connection.get<{ data_version: number }>("PRAGMA main.data_version");
  return row?.data_version;
}
