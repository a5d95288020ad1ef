import { StoreError } from "../../errors.js";
import { formatCell, formatRowsAsCsv, formatRowsAsJson } from "../../sql/results.js";
import type { Cell, Effect, Rows, SqlSession } from "../../sql/session.js";
import type { Statement } from "../../sql/statements.js";
import { counted } from "../../text/count.js";
import { escapeControlCharacters } from "../../text/escape.js";
import type { Context } from "../context.js";
import { formatCounts } from "./lines.js";
import { hasTerminal } from "./prompt.js";
import { type Column, formatTable } from "./table.js";

export type Mode = "table" | "csv" | "json";
export const modes: readonly Mode[] = ["table", "csv", "json"];

export type Confirm = (question: string) => Promise<void>;

export class SqlRunner {
  mode: Mode;
  readonly session: SqlSession;
  readonly #context: Context;
  readonly #write: boolean;

  constructor(context: Context, session: SqlSession, mode: Mode, write: boolean) {
    this.#context = context;
    this.session = session;
    this.mode = mode;
    this.#write = write;
  }

  /**
   * Runs statements. With `--write`, statements that change something run in a single transaction,
   * together with the other statements: first as a dry run, and after `confirm` again. With `--yes`
   * there is no dry run.
   *
   * @throws {@link StoreError} usage - if there is more than one result, but the mode prints only
   *   one
   */
  async run(statements: readonly Statement[], confirm: Confirm): Promise<void> {
    const queryCount = statements.filter(({ kind }) => kind !== "change").length;
    this.#assertOneResult(queryCount);
    if (!this.#write || queryCount === statements.length) {
      for (const statement of statements) await this.#print(await this.session.read(statement));
      return;
    }
    const effect = await this.#change(statements, confirm);
    if (this.mode === "json") this.#printChange(effect);
    else for (const rows of effect.results) await this.#print(rows);
  }

  /**
   * Throws if the mode cannot print the results. Called before the statements run, and again after
   * that, because a statement with RETURNING may have a result, too.
   */
  #assertOneResult(resultCount: number): void {
    if (this.mode === "table" || resultCount <= 1) return;
    throw new StoreError(
      "usage",
      `${this.mode} output has one result, but the statements have ${resultCount}`,
    );
  }

  async #change(statements: readonly Statement[], confirm: Confirm): Promise<Effect> {
    const { yes, output } = this.#context;
    const check = ({ results }: Effect) => this.#assertOneResult(results.length);
    if (yes) {
      const effect = await this.session.apply(statements, undefined, check);
      for (const line of effectLines(effect)) output.notice(line);
      return effect;
    }
    // Throws without a terminal, before the dry run takes its time.
    if (!hasTerminal()) await confirm("Change the store?");
    const tried = await this.session.dryRun(statements);
    check(tried);
    for (const line of effectLines(tried)) process.stderr.write(`${line}\n`);
    await confirm("Nothing is saved yet. Save these changes?");
    const effect = await this.session.apply(statements, tried, check);
    output.notice("saved");
    return effect;
  }

  /**
   * Runs a dot command.
   *
   * @throws {@link StoreError} usage - if there is no such command
   */
  async runDotCommand(line: string): Promise<void> {
    const [command = "", argument, ...rest] = line.split(/\s+/);
    if (rest.length > 0) throw new StoreError("usage", `${command} takes one argument at most`);
    if (command === ".tables") {
      await this.#ask(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
      );
    } else if (command === ".schema") await this.#schema(argument);
    else if (command === ".mode") this.#setMode(argument);
    else if (command === ".help") for (const each of dotHelp) this.#context.output.line(each);
    else {
      throw new StoreError("usage", `no such command: ${command}`, {
        hint: equivalents[command] ?? "Type .help for the commands.",
      });
    }
  }

  async #schema(table: string | undefined): Promise<void> {
    const named = table === undefined ? "" : ` AND tbl_name = '${table.replaceAll("'", "''")}'`;
    const text = `SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL${named} ORDER BY tbl_name, type DESC, name`;
    if (this.mode !== "table") return this.#ask(text);
    const { rows } = await this.session.read({ text, kind: "select" });
    for (const [sql] of rows) {
      for (const line of `${sql};`.split("\n"))
        this.#context.output.line(escapeControlCharacters(line));
    }
  }

  #setMode(mode: string | undefined): void {
    const known = modes.find((each) => each === mode);
    if (mode !== undefined && known === undefined) {
      throw new StoreError("usage", `no such mode: ${mode}`, {
        hint: `Use one of: ${modes.join(", ")}.`,
      });
    }
    if (known === undefined) this.#context.output.line(this.mode);
    else this.mode = known;
  }

  async #ask(text: string): Promise<void> {
    await this.#print(await this.session.read({ text, kind: "select" }));
  }

  async #print(rows: Rows): Promise<void> {
    if (this.mode === "json") process.stdout.write(`${formatRowsAsJson(rows)}\n`);
    else if (this.mode === "csv") process.stdout.write(formatRowsAsCsv(rows));
    else await this.#printTable(rows);
  }

  #printChange({ results, changes, clients }: Effect): void {
    const changed = changes.reduce((sum, { rows }) => sum + rows, 0);
    const counts = { before: { ...clients.before }, after: { ...clients.after } };
    const more = { changed, clients: counts };
    process.stdout.write(`${formatRowsAsJson(results[0] ?? { columns: [], rows: [] }, more)}\n`);
  }

  async #printTable({ columns, rows }: Rows): Promise<void> {
    const { output } = this.#context;
    if (rows.length === 0) {
      output.notice("no rows");
      return;
    }
    const tableColumns = columns.map(
      (title, index): Column<readonly Cell[]> => ({
        title,
        align: rows.every((row) => isNumber(row[index])) ? "right" : "left",
        cell: (row) => formatCell(row[index] ?? null),
      }),
    );
    for await (const line of formatTable(output, tableColumns, rows, { isCut: false })) {
      output.line(line);
    }
  }
}

function isNumber(cell: Cell | undefined): boolean {
  return cell === null || (typeof cell === "object" && "text" in cell);
}

/** Returns the effect of a transaction as lines of text. */
function effectLines({ changes, clients: { before, after } }: Effect): string[] {
  const rows = changes.map(({ text, rows }) => `${counted(rows, "row")} changed: ${shorten(text)}`);
  const fewer = after.active + after.revoked < before.active + before.revoked;
  return [
    ...rows,
    `clients before: ${formatCounts(before)}; after: ${formatCounts(after)}`,
    ...(fewer
      ? [
          "This deletes rows. The hub gives a new client the number of rows plus one as its id, which then overwrites an existing client. Use delete-client, which keeps the row.",
        ]
      : []),
  ];
}

function shorten(sql: string): string {
  const line = escapeControlCharacters(sql.replace(/\s+/g, " "));
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

const dotHelp = [
  ".tables          List the tables",
  ".schema [TABLE]  Show the CREATE statements of the tables",
  `.mode [MODE]     Show or set the output format: ${modes.join(", ")}`,
  ".help            Show this list",
  ".quit            Leave, as Ctrl-D does",
];

/** Maps commands of sqlite3's shell to this program's equivalents. */
const equivalents: Record<string, string> = {
  ".backup": "Use hivemind-sqlcipher backup.",
  ".dump": "Use hivemind-sqlcipher export-clients.",
  ".import": "Use hivemind-sqlcipher import-clients.",
};
