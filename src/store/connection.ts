/**
 * One SQLite connection, in promises, its errors in the project's words.
 *
 * `@journeyapps/sqlcipher` is the callback interface of node-sqlite3 over SQLCipher. Its statements run in a pool of
 * threads, so every call here is awaited before what depends on it.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import type sqlite3 from "@journeyapps/sqlcipher";
import { type ErrorKind, StoreError } from "../errors.js";

/** What a statement's placeholders take. Numbers that are not 32-bit integers are bound as floats; SQLite compares them by value. */
export type SqlValue = string | number | boolean | null | Uint8Array;

export interface ConnectionOptions {
  /**
   * `readonly` cannot write, and leaves `-wal` and `-shm` beside a store in WAL mode that nobody has open;
   * `readwrite` opens an existing file, `create` also makes one.
   */
  mode: "readonly" | "readwrite" | "create";
  /** The file is promised not to change: no locks, no sidecars, no `-wal` read. For finished backups alone. */
  immutable?: boolean;
  /** How long to wait for another connection's lock, in milliseconds. */
  busyTimeoutMs?: number;
}

/** Python's sqlite3 waits as long in a released hub. */
const defaultBusyTimeoutMs = 5_000;

/**
 * How long a transaction waits to begin, where nothing else was asked for: as long as newer plugins do. Against a hub that
 * writes without a pause SQLite's own waiting is no good, for it looks every 100 ms in the end, and finds the lock
 * taken again: it is begun anew every so many milliseconds, when it looks more often.
 */
const defaultBeginMs = 10_000;
const lookOftenMs = 50;

/** Loaded when first needed: it is native, and half of what opening a small store costs. */
function loadSqlite(): typeof sqlite3 {
  return createRequire(import.meta.url)("@journeyapps/sqlcipher");
}

export class Connection implements AsyncDisposable {
  /** The resolved path, or `:memory:`. */
  readonly path: string;
  /**
   * Set once a page was read with the key. From then on a page that does not decrypt means damage, not a wrong
   * passphrase.
   */
  unlocked = false;
  /**
   * Set once a damaged page was met, be it by SQLite's own check: SQLCipher then answers everything on the connection with
   * "out of memory".
   */
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
    this.#beginMs = busyTimeoutMs ?? defaultBeginMs;
    database.configure("busyTimeout", this.#busyTimeoutMs);
  }

  /**
   * Opens a database, encrypted or not; nothing is read yet. SQLCipher's own log lines are silenced, which would
   * otherwise be written to the terminal.
   *
   * @throws StoreError `io` if the file cannot be opened.
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
        target === ":memory:" ? target : uriOf(target, options.immutable ?? false),
        flags,
        (error) => (error ? failed(sqliteError(error, target)) : done(opening)),
      );
    });
    const connection = new Connection(database, target, options.busyTimeoutMs);
    await connection.all("PRAGMA cipher_log_level = NONE");
    return connection;
  }

  /** Runs one statement that answers no rows. */
  run(sql: string, params: readonly SqlValue[] = []): Promise<{ changes: number }> {
    return new Promise((done, failed) => {
      const connection = this;
      this.#database.run(sql, [...params], function (error) {
        if (error) failed(connection.error(error));
        else done({ changes: this.changes });
      });
    });
  }

  /** The first row, or undefined. */
  async get<Row>(sql: string, params: readonly SqlValue[] = []): Promise<Row | undefined> {
    const [row] = await this.all<Row>(sql, params);
    return row;
  }

  all<Row>(sql: string, params: readonly SqlValue[] = []): Promise<Row[]> {
    return new Promise((done, failed) => {
      this.#database.all(sql, [...params], (error, rows) =>
        error ? failed(this.error(error)) : done(rows as Row[]),
      );
    });
  }

  /** Runs several statements separated by semicolons. */
  exec(sql: string): Promise<void> {
    return new Promise((done, failed) => {
      this.#database.exec(sql, (error) => (error ? failed(this.error(error)) : done()));
    });
  }

  /** A statement to be used many times; it is finalized with the connection, or before by `finalize`. */
  prepare(sql: string): Promise<Statement> {
    return new Promise((done, failed) => {
      const prepared = this.#database.prepare(sql, (error) => {
        if (error) return failed(this.error(error));
        const statement = new Statement(this, prepared, () => this.#statements.delete(statement));
        this.#statements.add(statement);
        done(statement);
      });
    });
  }

  /**
   * Runs `body` in one transaction that may write (BEGIN IMMEDIATE): all of it is kept, or nothing if it throws.
   * Transactions of one connection wait for each other; one begun inside another is a part of it. A statement that
   * others run on the connection meanwhile is also a part of it: what writes does so in a transaction.
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
      // SQLite itself has rolled back after some errors, a full disk among them; there is then nothing to undo.
      await this.run("ROLLBACK").catch(() => undefined);
      throw error;
    } finally {
      state.open = false;
    }
  }

  async #begin(): Promise<void> {
    const deadline = performance.now() + this.#beginMs;
    this.#database.configure("busyTimeout", Math.min(lookOftenMs, this.#busyTimeoutMs));
    try {
      for (;;) {
        try {
          await this.run("BEGIN IMMEDIATE");
          return;
        } catch (error) {
          const isInUse = error instanceof StoreError && error.kind === "inUse";
          if (!isInUse || performance.now() >= deadline) throw error;
        }
      }
    } finally {
      this.#database.configure("busyTimeout", this.#busyTimeoutMs);
    }
  }

  /** Makes what is running on the connection fail, from outside of it. */
  interrupt(): void {
    this.#database.interrupt();
  }

  /** Closes the connection after what is under way. Closing twice is the same as once. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    await this.#lastTransaction;
    for (const statement of this.#statements) await statement.finalize();
    await new Promise<void>((done, failed) => {
      this.#database.close((error) => (error ? failed(this.error(error)) : done()));
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** An error of the binding in the project's words. */
  error(error: Error): StoreError {
    const problem = sqliteError(error, this.path, this.unlocked, this.damaged);
    this.damaged ||= problem.kind === "corrupted";
    return problem;
  }
}

/** A prepared statement of one connection. */
export class Statement {
  readonly #connection: Connection;
  readonly #statement: sqlite3.Statement;
  readonly #forget: () => void;

  /** Made by `Connection.prepare`. */
  constructor(connection: Connection, statement: sqlite3.Statement, forget: () => void) {
    this.#connection = connection;
    this.#statement = statement;
    this.#forget = forget;
  }

  run(params: readonly SqlValue[] = []): Promise<{ changes: number }> {
    return new Promise((done, failed) => {
      const connection = this.#connection;
      this.#statement.run([...params], function (error: Error | null) {
        if (error) failed(connection.error(error));
        else done({ changes: this.changes });
      });
    });
  }

  /**
   * The first row, or undefined. All rows are stepped through: a statement that stopped at the first would keep its
   * read lock until it is used again.
   */
  async get<Row>(params: readonly SqlValue[] = []): Promise<Row | undefined> {
    const [row] = await this.all<Row>(params);
    return row;
  }

  all<Row>(params: readonly SqlValue[] = []): Promise<Row[]> {
    return new Promise((done, failed) => {
      this.#statement.all([...params], (error: Error | null, rows: unknown[]) =>
        error ? failed(this.#connection.error(error)) : done(rows as Row[]),
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

function uriOf(path: string, immutable: boolean): string {
  const encoded = path.split("/").map(encodeURIComponent).join("/");
  return `file:${encoded}${immutable ? "?immutable=1" : ""}`;
}

const errorKinds: Record<string, readonly [ErrorKind, string]> = {
  SQLITE_CORRUPT: ["corrupted", "is damaged"],
  SQLITE_BUSY: ["inUse", "is in use by another process"],
  SQLITE_LOCKED: ["inUse", "is in use by this process"],
  SQLITE_FULL: ["io", "cannot be written: no space left on device"],
  SQLITE_IOERR: ["io", "cannot be read or written: input/output error"],
  SQLITE_READONLY: ["io", "cannot be written: it is read-only"],
  SQLITE_CANTOPEN: ["io", "cannot be opened"],
  SQLITE_PERM: ["io", "cannot be opened: permission denied"],
  SQLITE_AUTH: ["io", "cannot be opened: permission denied"],
};

function sqliteError(error: Error, path: string, unlocked = false, damaged = false): StoreError {
  const code = (error as NodeJS.ErrnoException).code ?? "";
  // A page whose HMAC does not hold, met after the key proved right.
  const undecipherable =
    (unlocked && (code === "SQLITE_NOTADB" || error.message === "SQLITE_ERROR: SQL logic error")) ||
    (damaged && code === "SQLITE_NOMEM");
  if (undecipherable) {
    return new StoreError("corrupted", `${path} is damaged: a page of it does not decrypt`, {
      cause: error,
    });
  }
  if (code === "SQLITE_NOTADB") {
    return new StoreError("wrongPassphrase", `${path}: wrong passphrase, or not a database`, {
      cause: error,
    });
  }
  const [kind, words] = errorKinds[code] ?? (["failed", error.message] as const);
  const message = kind === "failed" ? `${path}: ${words}` : `${path} ${words}`;
  return new StoreError(kind, message, { cause: error });
}
