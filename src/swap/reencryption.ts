/**
 * Re-encrypts the store for a rotation: page by page, and in WAL mode while the service runs.
 *
 * Every page of the new file is read back and has the content of the old page, so the new file is
 * the same database. docs/design/swap-and-recovery.md explains why this implies equal rows.
 */
import { WarmCopy } from "../backup/warm-copy.js";
import { orAbort, throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { openEncrypted, openImmutable, type StoreKey } from "../store/cipher.js";
import { compareWithLocked } from "../store/export.js";
import { findIntegrityErrors } from "../store/integrity.js";
import { LockedStore, setJournalMode } from "../store/locked-store.js";

export interface ReencryptionOptions {
  readonly storePath: string;
  /** Whether the store is in WAL mode. In another mode, a reader would block the service. */
  readonly isWal: boolean;
  readonly oldKey: StoreKey;
  /** The new passphrase. */
  readonly passphrase: string;
  /** Also compares every row under the lock. */
  readonly compareRows: boolean;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
}

export class Reencryption implements AsyncDisposable {
  readonly #options: ReencryptionOptions;
  #copy: WarmCopy | undefined;

  constructor(options: ReencryptionOptions) {
    this.#options = options;
  }

  /**
   * Copies a store in WAL mode into the staged file, and reads the copy as a database with its new
   * passphrase. In another mode, only starts the copier.
   *
   * @param key - of the staged file
   * @throws {@link StoreError} corrupted - if a page of the store is damaged
   * @throws {@link StoreError} io, interrupted
   */
  async begin(staged: string, key: StoreKey): Promise<void> {
    const { storePath, isWal, oldKey, signal, reporter } = this.#options;
    this.#copy = new WarmCopy(storePath, oldKey, staged, key);
    if (!isWal) return;
    await orAbort(this.#copy.warm(signal), signal);
    await this.#copy.truncate();
    await orAbort(this.#inspect(staged), signal);
    // The check of the copy takes long, and the hub writes during it.
    const behindMs = await orAbort(this.#copy.refresh(signal), signal);
    if (behindMs > 0) {
      reporter.notice(
        `${storePath} changes faster than it is copied: the service will be stopped for about ${Math.ceil(behindMs / 1000)} s`,
      );
    }
    reporter.detail(`re-encrypted ${this.#copy.written} bytes while the store was in use`);
  }

  /**
   * Locks the store. In WAL mode, also completes the copy. If the signal is aborted, waits until no
   * lock is left, because the service is about to start.
   */
  async lock(): Promise<LockedStore> {
    const { storePath, isWal, oldKey, signal } = this.#options;
    if (!isWal) return LockedStore.lock(storePath, oldKey);
    const copy = this.#copied;
    const release = () => void copy.release();
    signal.addEventListener("abort", release, { once: true });
    try {
      return await copy.lock();
    } catch (error) {
      throwIfAborted(signal);
      throw error;
    } finally {
      signal.removeEventListener("abort", release);
    }
  }

  /**
   * Completes the copy of a locked store, opens the copy with its new key, and sets the store's
   * journal mode in it.
   *
   * @param key - of the staged file
   * @throws {@link StoreError} corrupted - if a page of the store is damaged, or a row differs
   * @throws {@link StoreError} io, interrupted
   */
  async complete(key: StoreKey, locked: LockedStore | undefined): Promise<void> {
    const { isWal, compareRows, signal } = this.#options;
    if (!locked) throw new Error("a rotation requires a store");
    // An abort also ends the copier. Report the abort, not the copier's end.
    throwIfAborted(signal);
    const copy = this.#copied;
    if (!isWal) await orAbort(copy.completeLocked(), signal);
    await copy.truncate();
    // End the copier: it has the staged file open, soon the store's file.
    await copy[Symbol.asyncDispose]();
    if (compareRows) await compareWithLocked(locked, copy.stagedPath, key, signal);
    const { connection } = await openEncrypted(copy.stagedPath, key, { mode: "readwrite" });
    try {
      await setJournalMode(connection, locked.journalMode);
    } finally {
      await connection.close();
    }
  }

  /** Reads the copy as a database. Damage is also in the store, and only a notice. */
  async #inspect(staged: string): Promise<void> {
    const { storePath, passphrase, reporter } = this.#options;
    const { connection } = await openImmutable(staged, passphrase);
    try {
      const [fault] = await findIntegrityErrors(connection);
      if (fault === undefined) return;
      reporter.notice(
        `the structure of ${storePath} is damaged, and stays as it is: ${fault}; see hivemind-sqlcipher doctor`,
      );
    } finally {
      await connection.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#copy?.[Symbol.asyncDispose]();
  }

  get #copied(): WarmCopy {
    if (!this.#copy) throw new Error("the re-encryption has not begun");
    return this.#copy;
  }
}
