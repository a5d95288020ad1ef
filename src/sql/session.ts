/**
 * SQL on the store: what reads runs with `query_only`, what changes runs in one transaction, which can be tried first.
 */
import { JsonNumber } from "../client/json.js";
import { StoreError } from "../errors.js";
import { findHolders } from "../process/holders.js";
import type { ClientStore } from "../store/client-store.js";
import type { Connection } from "../store/connection.js";
import { checkSchema } from "../store/schema.js";
import type { Statement } from "./statements.js";

/** Numbers keep SQLite's own digits: JavaScript would round whole ones beyond 2^53. */
export type Cell = null | string | JsonNumber | Uint8Array;

export interface Rows {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly Cell[])[];
}

export interface Counts {
  readonly active: number;
  readonly revoked: number;
}

/** What statements did, or would do. */
export interface Effect {
  /** What each answered; nothing for those that answer no rows. */
  readonly results: readonly Rows[];
  /** Rows changed by each statement that may change any. */
  readonly changes: readonly { readonly text: string; readonly rows: number }[];
  readonly clients: { readonly before: Counts; readonly after: Counts };
}

/** How long a transaction may last while another process has the store open, in milliseconds. */
const longestBesideOthers = 800;

/** The view that stands for a query: it tells the query's columns, also of one without rows. */
const view = "temp.hivemind_sqlcipher_result";

export class SqlSession {
  readonly #store: ClientStore;
  readonly #connection: Connection;

  private constructor(store: ClientStore) {
    this.#store = store;
    this.#connection = store.connection;
  }

  /** The store stays the caller's to close. */
  static async on(store: ClientStore): Promise<SqlSession> {
    await store.connection.exec("PRAGMA query_only = ON");
    return new SqlSession(store);
  }

  /**
   * Runs one statement that reads.
   *
   * @throws StoreError `failed` for what SQLite does not understand; `refused` for a statement that would change
   *   something.
   */
  async read(statement: Statement): Promise<Rows> {
    if (statement.kind === "change") {
      throw new StoreError("refused", "this statement changes the store", {
        hint: "Add --write to run it: what it does is shown, and asked about, before it is kept.",
      });
    }
    return inWords(() => this.#answer(statement));
  }

  /** Runs statements in a transaction that is then undone, to see what they would do. @throws as `apply`. */
  dryRun(statements: readonly Statement[]): Promise<Effect> {
    return this.#transact(statements, () => {
      throw undone;
    });
  }

  /**
   * Runs statements in one transaction, and keeps what they did.
   *
   * @param expected what a rehearsal said, if there was one.
   * @throws StoreError `failed` for what SQLite does not understand; `inUse` if they now do something else than at the
   *   rehearsal; `refused` if the table would no longer be HiveMind's, or if they take so long that another process
   *   that has the store open would be held up. Nothing is then kept.
   */
  apply(statements: readonly Statement[], expected?: Effect): Promise<Effect> {
    return this.#transact(statements, (effect) => {
      if (expected === undefined || sameCounts(effect, expected)) return;
      throw new StoreError("inUse", "the store was changed in between; nothing was kept", {
        hint: "Run it again.",
      });
    });
  }

  /** Ends the statement that is running, with an error. */
  interrupt(): void {
    this.#connection.interrupt();
  }

  /** Names of the tables, and of their columns, for completion. */
  async names(): Promise<string[]> {
    const rows = await this.#connection.all<{ name: string }>(
      `SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') UNION
        SELECT c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c WHERE t.type IN ('table', 'view')`,
    );
    return rows.map(({ name }) => name);
  }

  async #transact(
    statements: readonly Statement[],
    judge: (effect: Effect) => void,
  ): Promise<Effect> {
    const [holder] = (await findHolders(this.#connection.path)).holders;
    let late = false;
    let effect: Effect | undefined;
    let timer: NodeJS.Timeout | undefined;
    await this.#connection.exec("PRAGMA query_only = OFF");
    try {
      await this.#connection.transaction(async () => {
        if (holder !== undefined) {
          timer = setTimeout(() => {
            late = true;
            this.#connection.interrupt();
          }, longestBesideOthers);
        }
        effect = await this.#effectOf(statements);
        if (late) throw new Error("late");
        judge(effect);
      });
    } catch (error) {
      if (error === undone && effect !== undefined) return effect;
      if (late && holder !== undefined) {
        throw new StoreError(
          "refused",
          `this takes so long that ${holder.command} (process ${holder.pid}), which has the store open, would be held up; nothing was kept`,
          { hint: "Stop it first." },
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

  async #effectOf(statements: readonly Statement[]): Promise<Effect> {
    const results: Rows[] = [];
    const changes: { text: string; rows: number }[] = [];
    const before = await this.#store.counts();
    for (const statement of statements) {
      const rowsBefore = await this.#totalChanges();
      const answer = await inWords(() => this.#answer(statement));
      if (statement.kind !== "change" || answer.rows.length > 0) results.push(answer);
      if (statement.kind !== "change") continue;
      changes.push({ text: statement.text, rows: (await this.#totalChanges()) - rowsBefore });
    }
    await this.#requireTable();
    return { results, changes, clients: { before, after: await this.#store.counts() } };
  }

  /** Whatever was done, the table must still be one that a hub can use. */
  async #requireTable(): Promise<void> {
    try {
      await checkSchema(this.#connection);
    } catch (error) {
      throw new StoreError(
        "refused",
        "the table of clients would no longer be HiveMind's; nothing was kept",
        { cause: error },
      );
    }
  }

  async #totalChanges(): Promise<number> {
    const row = await this.#connection.get<{ n: number }>("SELECT total_changes() AS n");
    return row?.n ?? 0;
  }

  async #answer(statement: Statement): Promise<Rows> {
    if (statement.kind === "select") return this.#query(statement.text);
    const found = await this.#connection.all<Record<string, unknown>>(statement.text);
    const columns = Object.keys(found[0] ?? {});
    return { columns, rows: found.map((row) => columns.map((name) => cellOf(row[name]))) };
  }

  /**
   * The binding gives rows as objects, which lose a second column of the same name, and whole numbers as floats. So
   * the query is made a view, whose columns all have names, and read as SQL literals.
   */
  async #query(text: string): Promise<Rows> {
    try {
      const columns = await this.#asView(text);
      const literals = columns.map(
        (name, index) => `quote("${name.replaceAll('"', '""')}") AS c${index}`,
      );
      const found = await this.#connection.all<Record<string, string>>(
        `SELECT ${literals.join(", ")} FROM ${view}`,
      );
      const rows = found.map((row) =>
        columns.map((_, index) => literal(row[`c${index}`] ?? "NULL")),
      );
      return { columns, rows };
    } finally {
      await this.#withoutQueryOnly(() => this.#connection.exec(`DROP VIEW IF EXISTS ${view}`));
    }
  }

  /** Making a view runs nothing of the query, and writes to memory alone. */
  #asView(text: string): Promise<string[]> {
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

/** Thrown to undo a rehearsal. */
const undone = new Error("a rehearsal is undone");

function sameCounts(a: Effect, b: Effect): boolean {
  const counts = ({ changes, clients }: Effect) =>
    JSON.stringify([changes.map(({ rows }) => rows), clients]);
  return counts(a) === counts(b);
}

/** SQLite's own words on what it does not understand, without the path and the code. */
async function inWords<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof StoreError) || error.kind !== "failed") throw error;
    const cause = error.cause instanceof Error ? error.cause.message : error.message;
    throw new StoreError("failed", cause.replace(/^SQLITE_[A-Z]+: /, ""), { cause: error });
  }
}

/** A value that SQLite's `quote` wrote. */
function literal(text: string): Cell {
  if (text === "NULL") return null;
  if (text.startsWith("'")) return text.slice(1, -1).replaceAll("''", "'");
  if (text.startsWith("X'")) return Buffer.from(text.slice(2, -1), "hex");
  return new JsonNumber(text);
}

/** A value as the binding gives it. */
function cellOf(value: unknown): Cell {
  if (value === null || value === undefined) return null;
  if (typeof value === "string" || value instanceof Uint8Array) return value;
  if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value)) {
    throw new StoreError(
      "refused",
      "a number in the answer is beyond 2^53 - 1 and would be rounded",
      {
        hint: "SELECT shows it exactly.",
      },
    );
  }
  return new JsonNumber(String(value));
}
