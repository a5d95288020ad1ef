/**
 * A connection to an SQLite database. Returns promises, and throws `StoreError`s.
 *
 * `@journeyapps/sqlcipher` has the interface of node-sqlite3. Its statements run on a thread pool,
 * so a statement must be awaited before the next can depend on it.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { accessSync, constants } from "node:fs";
import { resolve } from "node:path";
import type sqlite3 from "@journeyapps/sqlcipher";
import { type ErrorKind, isKind, StoreError, systemError } from "../errors.js";
import { loadSqlite } from "./addon.js";

/**
 * A value for a placeholder. Any number except a 32-bit integer is bound as a float; SQLite
 * compares numbers by value.
 */
export type SqlValue = string | number | boolean | null | Uint8Array;

export interface ConnectionOptions {
  /**
   * `readonly` leaves `-wal` and `-shm` next to a store in WAL mode unless another process has it
   * open; `readwrite` opens an existing file, `create` also creates a missing file.
   */
  mode: "readonly" | "readwrite" | "create";
  /**
   * For finished backups: promises that the file does not change. Uses no locks, no sidecars and no
   * `-wal`.
   */
  immutable?: boolean;
  /** How long to wait for the lock of another connection, in milliseconds. */
  busyTimeoutMs?: number;
}

/** Python's default, used by HiveMind 4. */
const defaultBusyTimeoutMs = 5_000;

/**
 * How long a transaction waits for the write lock, in milliseconds, as in HiveMind 5.
 *
 * SQLite's own busy handler ends up polling every 100 ms and loses the lock to a hub that writes
 * without a pause. So BEGIN is repeated with a short time-out, and SQLite polls more often.
 */
const beginTimeoutMs = 10_000;
const beginPollMs = 50;

export class Connection implements AsyncDisposable {
  /** The absolute path, or `:memory:`. */
  readonly path: string;
  /**
   * Set after a page was decrypted with the key. A later undecryptable page means damage instead of
   * a wrong passphrase.
   */
  unlocked = false;
  /** Set after a damaged page was read: SQLCipher fails every later call with "out of memory". */
  damaged = false;
  readonly #database: sqlite3.Database;
  readonly #statements = new Set<Statement>();
  readonly #transaction = new AsyncLocalStorage<{ open: boolean }>();
  #lastTransaction: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | undefined;

  readonly #busyTimeoutMs: number;
  readonly #beginMs: number;

  private constructor(database: sqlite3.Database, path: string, busyTimeoutMs?: number) {
    this.#database = database;
    this.path = path;
    this.#busyTimeoutMs = busyTimeoutMs ?? defaultBusyTimeoutMs;
    this.#beginMs = busyTimeoutMs ?? beginTimeoutMs;
    database.configure("busyTimeout", this.#busyTimeoutMs);
  }

  /**
   * Opens a database, encrypted or not, without reading it. Suppresses SQLCipher's log lines on the
   * terminal.
   *
   * @throws {@link StoreError} io - if the file cannot be opened
   */
  static async open(path: string, options: ConnectionOptions): Promise<Connection> {
    const target = path === ":memory:" ? path : resolve(path);
    const sqlite = loadSqlite();
    const modes = {
      readonly: sqlite.OPEN_READONLY,
      readwrite: sqlite.OPEN_READWRITE,
      create: sqlite.OPEN_READWRITE | sqlite.OPEN_CREATE,
    };
    const flags = modes[options.mode] | sqlite.OPEN_URI;
    const database = await new Promise<sqlite3.Database>((done, failed) => {
      const opening: sqlite3.Database = new sqlite.Database(
        target === ":memory:" ? target : formatUri(target, options.immutable ?? false),
        flags,
        (error) => (error ? failed(sqliteError(error, target)) : done(opening)),
      );
    });
    const connection = new Connection(database, target, options.busyTimeoutMs);
    await connection.all("PRAGMA cipher_log_level = NONE");
    return connection;
  }

  /** Runs a statement, and returns the number of changed rows. */
  run(sql: string, params: readonly SqlValue[] = []): Promise<{ changes: number }> {
    return new Promise((done, failed) => {
      const connection = this;
      this.#database.run(sql, [...params], function (error) {
        if (error) failed(connection.toStoreError(error));
        else done({ changes: this.changes });
      });
    });
  }

  /** Returns the first row, or undefined. */
  async get<Row>(sql: string, params: readonly SqlValue[] = []): Promise<Row | undefined> {
    const [row] = await this.all<Row>(sql, params);
    return row;
  }

  all<Row>(sql: string, params: readonly SqlValue[] = []): Promise<Row[]> {
    return new Promise((done, failed) => {
      this.#database.all(sql, [...params], (error, rows) =>
        error ? failed(this.toStoreError(error)) : done(rows as Row[]),
      );
    });
  }

  /** Runs several statements separated by semicolons. */
  exec(sql: string): Promise<void> {
    return new Promise((done, failed) => {
      this.#database.exec(sql, (error) => (error ? failed(this.toStoreError(error)) : done()));
    });
  }

  /**
   * Prepares a statement for repeated use. It is finalized with the connection, or by `finalize`.
   */
  prepare(sql: string): Promise<Statement> {
    return new Promise((done, failed) => {
      const prepared = this.#database.prepare(sql, (error) => {
        if (error) return failed(this.toStoreError(error));
        const statement = new Statement(this, prepared, () => this.#statements.delete(statement));
        this.#statements.add(statement);
        done(statement);
      });
    });
  }

  /**
   * Runs `body` in a transaction (BEGIN IMMEDIATE) and rolls back if it throws.
   *
   * A connection runs its transactions sequentially; a nested transaction joins its parent. Every
   * statement on the connection during a transaction is part of it, so all writes must use this
   * method.
   */
  transaction<T>(body: () => Promise<T>): Promise<T> {
    if (this.#transaction.getStore()?.open) return body();
    const result = this.#lastTransaction.then(() => this.#transact(body));
    this.#lastTransaction = result.catch(() => undefined);
    return result;
  }

  async #transact<T>(body: () => Promise<T>): Promise<T> {
    const state = { open: true };
    await this.#begin();
    try {
      const result = await this.#transaction.run(state, body);
      await this.run("COMMIT");
      return result;
    } catch (error) {
      // After some errors, such as a full disk, SQLite has already rolled back.
      await this.run("ROLLBACK").catch(() => undefined);
      throw error;
    } finally {
      state.open = false;
    }
  }

  async #begin(): Promise<void> {
    const deadline = performance.now() + this.#beginMs;
    this.#database.configure("busyTimeout", Math.min(beginPollMs, this.#busyTimeoutMs));
    try {
      for (;;) {
        try {
          await this.run("BEGIN IMMEDIATE");
          return;
        } catch (error) {
          if (!isKind(error, "inUse") || performance.now() >= deadline) throw error;
        }
      }
    } finally {
      this.#database.configure("busyTimeout", this.#busyTimeoutMs);
    }
  }

  /** Makes the running statement fail. Safe to call at any time. */
  interrupt(): void {
    this.#database.interrupt();
  }

  /** Closes the connection after the last transaction. Further calls have no effect. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await this.#lastTransaction;
    // Node.js 22 would copy the storage at each await of the program, even after this.
    this.#transaction.disable();
    for (const statement of this.#statements) await statement.finalize();
    await new Promise<void>((done, failed) => {
      this.#database.close((error) => (error ? failed(this.toStoreError(error)) : done()));
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Converts an error of the binding. */
  toStoreError(error: Error): StoreError {
    const problem = sqliteError(error, this.path, this.unlocked, this.damaged);
    this.damaged ||= problem.kind === "corrupted";
    return problem;
  }
}

/** A prepared statement of a connection. */
export class Statement {
  readonly #connection: Connection;
  readonly #statement: sqlite3.Statement;
  readonly #forget: () => void;

  /** Called by `Connection.prepare`. */
  constructor(connection: Connection, statement: sqlite3.Statement, forget: () => void) {
    this.#connection = connection;
    this.#statement = statement;
    this.#forget = forget;
  }

  run(params: readonly SqlValue[] = []): Promise<{ changes: number }> {
    return new Promise((done, failed) => {
      const connection = this.#connection;
      this.#statement.run([...params], function (error: Error | null) {
        if (error) failed(connection.toStoreError(error));
        else done({ changes: this.changes });
      });
    });
  }

  /**
   * Returns the first row, or undefined. Steps through all rows, because a statement that stops at
   * the first keeps its read lock until its next use.
   */
  async get<Row>(params: readonly SqlValue[] = []): Promise<Row | undefined> {
    const [row] = await this.all<Row>(params);
    return row;
  }

  all<Row>(params: readonly SqlValue[] = []): Promise<Row[]> {
    return new Promise((done, failed) => {
      this.#statement.all([...params], (error: Error | null, rows: unknown[]) =>
        error ? failed(this.#connection.toStoreError(error)) : done(rows as Row[]),
      );
    });
  }

  finalize(): Promise<void> {
    this.#forget();
    return new Promise((done) => {
      this.#statement.finalize(() => done());
    });
  }
}

function formatUri(path: string, immutable: boolean): string {
  const encoded = path.split("/").map(encodeURIComponent).join("/");
  return `file:${encoded}${immutable ? "?immutable=1" : ""}`;
}

const errorKinds: Record<string, readonly [ErrorKind, string]> = {
  SQLITE_CORRUPT: ["corrupted", "is damaged: database disk image is malformed"],
  SQLITE_BUSY: ["inUse", "is in use by another process: database is locked"],
  SQLITE_LOCKED: ["inUse", "is in use by this process: database table is locked"],
  SQLITE_FULL: ["io", "cannot be written: no space left on device"],
  SQLITE_IOERR: ["io", "cannot be read or written: input/output error"],
  SQLITE_READONLY: ["io", "cannot be written: it is read-only"],
  SQLITE_CANTOPEN: ["io", "cannot be opened"],
  SQLITE_PERM: ["io", "cannot be opened: permission denied"],
  SQLITE_AUTH: ["io", "cannot be opened: permission denied"],
};

function sqliteError(error: Error, path: string, unlocked = false, damaged = false): StoreError {
  const code = (error as NodeJS.ErrnoException).code ?? "";
  // A page with a wrong HMAC, although the key has decrypted another page.
  const isUndecipherable =
    (unlocked && (code === "SQLITE_NOTADB" || error.message === "SQLITE_ERROR: SQL logic error")) ||
    (damaged && code === "SQLITE_NOMEM");
  if (isUndecipherable) {
    return new StoreError("corrupted", `${path} is damaged: a page does not decrypt`, {
      cause: error,
    });
  }
  if (code === "SQLITE_NOTADB") {
    return new StoreError(
      "wrongPassphrase",
      `${path}: wrong passphrase, or file is not a database`,
      {
        cause: error,
      },
    );
  }
  const accessFailure = code === "SQLITE_CANTOPEN" ? accessError(path) : undefined;
  if (accessFailure) return systemError(accessFailure, `${path} cannot be opened`);
  const [kind, text] = errorKinds[code] ?? (["failed", error.message] as const);
  const message = kind === "failed" ? `${path}: ${text}` : `${path} ${text}`;
  return new StoreError(kind, message, { cause: error });
}

/** Returns the system's error for a file that SQLite cannot open. Opens no file. */
function accessError(path: string): unknown {
  try {
    accessSync(path, constants.R_OK);
    return undefined;
  } catch (error) {
    return error;
  }
}
