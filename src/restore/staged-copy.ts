/**
 * The staged copy of a backup, in which the clients that are revoked in the present store are
 * revoked, too.
 *
 * The clients are compared while the service runs, through a connection that later locks the store.
 * SQLite's `data_version` of that connection tells whether another connection has changed the store
 * since. Only then are the clients compared again, while the service is stopped. Otherwise the
 * downtime does not depend on the size of the store or of the backup.
 */
import { revoked } from "../client/client.js";
import { isKind } from "../errors.js";
import { syncFile } from "../fs/copy.js";
import { throwIfAborted } from "../process/abort.js";
import type { StoreKey } from "../store/cipher.js";
import type { ClientTable } from "../store/client-table.js";
import type { Connection } from "../store/connection.js";
import { LockedStore, setJournalMode } from "../store/locked-store.js";
import type { Replaced } from "../swap/request.js";
import { assertConfirmed } from "./confirm.js";
import { compareClients, type Differences } from "./differences.js";
import { openTable, tableOf } from "./present-store.js";

/** The contents of the restored store. */
export interface Completed {
  readonly clients: { readonly active: number; readonly revoked: number };
  /** The clients revoked after the backup, which stay revoked. */
  readonly stayedRevoked: number[];
}

export interface StagedCopyOptions {
  readonly storePath: string;
  readonly replaced: Replaced;
  readonly readmitRevoked: boolean;
  /** The differences that the user was asked about. */
  readonly confirmed: Differences | undefined;
  readonly signal: AbortSignal;
}

export class StagedCopy implements AsyncDisposable {
  readonly #options: StagedCopyOptions;
  /** The present store. Only if it can be opened. */
  #present: ClientTable | undefined;
  /** The `data_version` of `#present` before its clients were compared. */
  #version: number | undefined;
  #hasChanged = false;
  #clients: Completed["clients"] = { active: 0, revoked: 0 };
  readonly #stayedRevoked = new Set<number>();

  constructor(options: StagedCopyOptions) {
    this.#options = options;
  }

  /**
   * Compares the clients while the service runs.
   *
   * @param staged - the path of the copy
   * @param key - of the copy
   * @throws {@link StoreError} refused - if the user was not asked about a difference
   */
  async prefill(staged: string, key: StoreKey): Promise<void> {
    const { storePath, replaced } = this.#options;
    if (replaced.state === "open") {
      this.#present = await openTable(storePath, replaced.secret);
      this.#version = await dataVersion(this.#present.connection);
    }
    const copy = await openTable(staged, key);
    await this.#revoke(copy, this.#present).finally(() => copy.close());
    await syncFile(staged);
  }

  /** Locks the present store, and notes whether it has changed since the comparison. */
  async lock(): Promise<LockedStore> {
    const { storePath, replaced } = this.#options;
    const present = this.#present;
    if (!present || replaced.state !== "open") throw new Error("there is no store to lock");
    this.#present = undefined;
    try {
      return await LockedStore.lockOpened(present.connection, replaced.secret, async () => {
        this.#hasChanged = (await dataVersion(present.connection)) !== this.#version;
      });
    } catch (error) {
      if (!isKind(error, "inUse")) throw error;
      this.#hasChanged = true;
      return await LockedStore.lock(storePath, replaced.secret);
    }
  }

  /**
   * Completes the copy while the service is stopped. It gets the journal mode of the locked store.
   *
   * @throws {@link StoreError} refused - if the user was not asked about a difference
   */
  async complete(
    staged: string,
    key: StoreKey,
    locked: LockedStore | undefined,
  ): Promise<Completed> {
    if (locked) {
      await using copy = await openTable(staged, key);
      if (this.#hasChanged) await this.#revoke(copy, await tableOf(locked.connection));
      await setJournalMode(copy.connection, locked.journalMode);
    }
    return { clients: this.#clients, stayedRevoked: [...this.#stayedRevoked] };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#present?.close();
  }

  /** Revokes clients in the copy that are revoked in the present store. */
  async #revoke(copy: ClientTable, present: ClientTable | undefined): Promise<void> {
    const { readmitRevoked, confirmed, signal } = this.#options;
    if (present) {
      const found = await compareClients(present, copy, signal);
      assertConfirmed(found, confirmed, readmitRevoked);
      if (!readmitRevoked) {
        await copy.addItems(found.revoked.map(revoked));
        for (const id of found.revoked) this.#stayedRevoked.add(id);
      }
    }
    this.#clients = await copy.counts();
    throwIfAborted(signal);
  }
}

/**
 * Returns SQLite's `data_version`: two values of the same connection differ if another connection
 * has committed a change in between.
 */
async function dataVersion(connection: Connection): Promise<number | undefined> {
  const row = await connection.get<{ data_version: number }>("PRAGMA main.data_version");
  return row?.data_version;
}
