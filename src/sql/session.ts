/**
 * Runs SQL on the store: queries with `query_only`, and changes in a single transaction, which a
 * dry run rolls back.
 */
import type { ClientCounts } from "../client/client.js";
import { JsonNumber } from "../client/json.js";
import { isKind, StoreError, wrap } from "../errors.js";
import { findHolders } from "../process/holders.js";
import type { ClientTable } from "../store/client-table.js";
import type { Connection } from "../store/connection.js";
import { readSchema } from "../store/schema.js";
import type { Statement } from "./statements.js";

/**
 * A value of a row. Numbers of a `select` keep SQLite's digits: JavaScript would round integers
 * beyond 2^53.
 */
export type Cell = null | string | JsonNumber | Uint8Array;

export interface Rows {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly Cell[])[];
}

/** The effect of statements, or of their dry run. */
export interface Effect {
  /** The rows of each statement with a result. */
  readonly results: readonly Rows[];
  /** The number of rows changed by each changing statement. */
  readonly changes: readonly { readonly text: string; readonly rows: number }[];
  readonly clients: { readonly before: ClientCounts; readonly after: ClientCounts };
}

/** Time limit of a transaction while another process has the store open. */
const sharedTransactionMs = 800;

/** The temporary view of a query. Unlike a result, a view without rows has column names. */
const view = "temp.hivemind_sqlcipher_result";

export class SqlSession {
  readonly #store: ClientTable;
  readonly #connection: Connection;

  private constructor(store: ClientTable) {
    this.#store = store;
    this.#connection = store.connection;
  }

  /** Prepares the store for SQL. The caller closes the store. */
  static async on(store: ClientTable): Promise<SqlSession> {
    await store.connection.exec("PRAGMA query_only = ON");
    return new SqlSession(store);
  }

  /**
   * Runs a reading statement.
   *
   * @throws {@link StoreError} failed - if SQLite rejects it
   * @throws {@link StoreError} refused - if it would change something
   */
  async read(statement: Statement): Promise<Rows> {
    if (statement.kind === "change") {
      throw new StoreError("refused", "this statement changes the store", {
        hint: "Add --write to run it: its effect is shown and confirmed before it is committed.",
      });
    }
    return withShortMessage(() => this.#run(statement));
  }

  /**
   * Runs statements in a transaction, returns their effect, and rolls the transaction back.
   *
   * @throws {@link StoreError} as `apply`, except inUse for another effect
   */
  dryRun(statements: readonly Statement[]): Promise<Effect> {
    return this.#transact(statements, () => {
      throw rolledBack;
    });
  }

  /**
   * Runs statements in a transaction and commits it.
   *
   * @param expected - the effect of a dry run, if there was one
   * @param check - throws to roll the transaction back
   * @throws {@link StoreError} failed - if SQLite rejects a statement
   * @throws {@link StoreError} inUse - if the effect of the statements differs from `expected`
   * @throws {@link StoreError} refused - if the table would no longer be HiveMind's, or if another
   *   process with the store open would be blocked for too long
   */
  apply(
    statements: readonly Statement[],
    expected?: Effect,
    check: (effect: Effect) => void = () => {},
  ): Promise<Effect> {
    return this.#transact(statements, (effect) => {
      check(effect);
      if (expected === undefined || hasSameCounts(effect, expected)) return;
      throw new StoreError("inUse", "the store changed since the dry run; nothing was committed", {
        hint: "Run the command again.",
      });
    });
  }

  /** Makes the running statement fail. */
  interrupt(): void {
    this.#connection.interrupt();
  }

  /** Returns the names of tables, views and columns, for completion. */
  async listNames(): Promise<string[]> {
    const rows = await this.#connection.all<{ name: string }>(
      `SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') UNION
        SELECT c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c WHERE t.type IN ('table', 'view')`,
    );
    return rows.map(({ name }) => name);
  }

  async #transact(
    statements: readonly Statement[],
    check: (effect: Effect) => void,
  ): Promise<Effect> {
    const [holder] = (await findHolders(this.#connection.path)).holders;
    let isLate = false;
    let effect: Effect | undefined;
    let timer: NodeJS.Timeout | undefined;
    await this.#connection.exec("PRAGMA query_only = OFF");
    try {
      await this.#connection.transaction(async () => {
        if (holder !== undefined) {
          timer = setTimeout(() => {
            isLate = true;
            this.#connection.interrupt();
          }, sharedTransactionMs);
        }
        effect = await this.#runStatements(statements);
        if (isLate) throw new Error("late");
        check(effect);
      });
    } catch (error) {
      if (error === rolledBack && effect !== undefined) return effect;
      if (isLate && holder !== undefined) {
        throw new StoreError(
          "refused",
          `the transaction would block ${holder.command} (process ${holder.pid}), which has the store open, for more than ${sharedTransactionMs} ms; nothing was committed`,
          { hint: "Stop that process first, or change fewer rows at a time." },
        );
      }
      throw error;
    } finally {
      clearTimeout(timer);
      await this.#connection.exec("PRAGMA query_only = ON");
    }
    if (effect === undefined) throw new Error("a transaction without an effect");
    return effect;
  }

  async #runStatements(statements: readonly Statement[]): Promise<Effect> {
    const results: Rows[] = [];
    const changes: { text: string; rows: number }[] = [];
    const before = await this.#store.counts();
    for (const statement of statements) {
      const rowsBefore = await this.#totalChanges();
      const result = await withShortMessage(() => this.#run(statement));
      if (statement.kind !== "change" || result.rows.length > 0) results.push(result);
      if (statement.kind !== "change") continue;
      changes.push({ text: statement.text, rows: (await this.#totalChanges()) - rowsBefore });
    }
    await this.#assertTable();
    return { results, changes, clients: { before, after: await this.#store.counts() } };
  }

  /** Throws if a hub could no longer use the table. */
  async #assertTable(): Promise<void> {
    try {
      await readSchema(this.#connection);
    } catch (error) {
      throw new StoreError(
        "refused",
        "the table of clients would no longer be HiveMind's; nothing was committed",
        { cause: error },
      );
    }
  }

  async #totalChanges(): Promise<number> {
    const row = await this.#connection.get<{ n: number }>("SELECT total_changes() AS n");
    return row?.n ?? 0;
  }

  async #run(statement: Statement): Promise<Rows> {
    if (statement.kind === "select") return this.#query(statement.text);
    const found = await this.#connection.all<Record<string, unknown>>(statement.text);
    const columns = Object.keys(found[0] ?? {});
    return { columns, rows: found.map((row) => columns.map((name) => toCell(row[name]))) };
  }

  /**
   * Runs a query through a view with unique column names, and reads values as SQL literals.
   *
   * The binding returns rows as objects, which lose all but one column of the same name, and
   * integers as floats.
   */
  async #query(text: string): Promise<Rows> {
    try {
      const columns = await this.#createView(text);
      const literals = columns.map(
        (name, index) => `${buildLiteralSql(`"${name.replaceAll('"', '""')}"`)} AS c${index}`,
      );
      // OFFSET keeps SQLite from computing each value again for each use in `buildLiteralSql`.
      const found = await this.#connection.all<Record<string, string>>(
        `SELECT ${literals.join(", ")} FROM (SELECT * FROM ${view} LIMIT -1 OFFSET 0)`,
      );
      const rows = found.map((row) =>
        columns.map((_, index) => parseLiteral(row[`c${index}`] ?? "NULL")),
      );
      return { columns, rows };
    } finally {
      await this.#withoutQueryOnly(() => this.#connection.exec(`DROP VIEW IF EXISTS ${view}`));
    }
  }

  /**
   * Creates the view and returns its column names. Runs no part of the query, and writes only to
   * memory.
   */
  #createView(text: string): Promise<string[]> {
    return this.#withoutQueryOnly(async () => {
      await this.#connection.exec(`DROP VIEW IF EXISTS ${view}`);
      await this.#connection.run(`CREATE VIEW ${view} AS ${text}\n`);
      const found = await this.#connection.all<{ name: string }>(
        "SELECT name FROM pragma_table_info('hivemind_sqlcipher_result', 'temp')",
      );
      return found.map(({ name }) => name);
    });
  }

  async #withoutQueryOnly<T>(work: () => Promise<T>): Promise<T> {
    const row = await this.#connection.get<{ query_only: number }>("PRAGMA query_only");
    await this.#connection.exec("PRAGMA query_only = OFF");
    try {
      return await work();
    } finally {
      if (row?.query_only === 1) await this.#connection.exec("PRAGMA query_only = ON");
    }
  }
}

/** Thrown to roll back a dry run. */
const rolledBack = new Error("a dry run is rolled back");

function hasSameCounts(a: Effect, b: Effect): boolean {
  const counts = ({ changes, clients }: Effect) =>
    JSON.stringify([changes.map(({ rows }) => rows), clients]);
  return counts(a) === counts(b);
}

/** Strips path and code from SQLite's message about a rejected statement. */
async function withShortMessage<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isKind(error, "failed")) throw error;
    const cause = error.cause instanceof Error ? error.cause.message : error.message;
    throw wrap(error, { message: cause.replace(/^SQLITE_[A-Z]+: /, "") });
  }
}

/**
 * Returns SQL that formats a value as a literal: with `quote`, or as T and hex digits for a text
 * with a NUL, which `quote` would cut off.
 */
function buildLiteralSql(column: string): string {
  return `CASE WHEN typeof(${column}) = 'text' AND instr(CAST(${column} AS BLOB), x'00') > 0
    THEN 'T' || hex(${column}) ELSE quote(${column}) END`;
}

/** Parses the result of `buildLiteralSql`. */
function parseLiteral(text: string): Cell {
  if (text === "NULL") return null;
  if (text.startsWith("T")) return Buffer.from(text.slice(1), "hex").toString();
  if (text.startsWith("'")) return text.slice(1, -1).replaceAll("''", "'");
  if (text.startsWith("X'")) return Buffer.from(text.slice(2, -1), "hex");
  return new JsonNumber(text);
}

/**
 * Converts a value of the binding.
 *
 * @throws {@link StoreError} refused - for an integer that the binding has rounded
 */
function toCell(value: unknown): Cell {
  if (value === null || value === undefined) return null;
  if (typeof value === "string" || value instanceof Uint8Array) return value;
  if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value)) {
    throw new StoreError(
      "refused",
      "a number in the result is beyond 2^53 - 1 and would be rounded",
      { hint: "Read it with SELECT, which shows it exactly." },
    );
  }
  return new JsonNumber(String(value));
}
