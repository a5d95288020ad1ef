/** SQL on the encrypted store: one statement, a script on standard input, or a prompt. */
import type { Command } from "commander";
import { expandPath } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import type { Cell, Counts, Effect, Rows, SqlSession } from "../../sql/session.js";
import type { Statement } from "../../sql/statements.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { addGlobalOptions, type Context, contextOf } from "../context.js";
import { openStore } from "../open.js";
import { onTerminal, standardInput } from "../ui/prompt.js";
import { Table } from "../ui/table.js";

/** Rows that set a table's column widths. */
const widthRows = 500;

export type Mode = "table" | "csv" | "json";
export const modes: readonly Mode[] = ["table", "csv", "json"];

/** How a question about changes is put; it throws if they are not to be kept. */
export type Confirm = (question: string) => Promise<void>;

interface SqlOptions {
  write?: boolean;
  csv?: boolean;
  history?: string;
}

export function addCommand(program: Command): void {
  const sql = addGlobalOptions(
    program
      .command("sql [statement]")
      .description("SQL on the store; without a statement a prompt, or what standard input holds")
      .option("--write", "allow changes: shown, and asked about, before they are kept")
      .option("--csv", "the answer as CSV")
      .option("--history <file>", "keep the prompt's history there (default: nowhere)")
      .addHelpText(
        "after",
        `
Only queries, and pragmas that read, are run without --write. ATTACH, VACUUM,
and pragmas that set something never are. What a query asks for is shown,
secrets too: the columns api_key, password and crypto_key.
The prompt knows .tables, .schema, .mode, .help and .quit, and completes names
with Tab.

Examples:
  hivemind-sqlcipher sql "SELECT client_id, name, is_admin, last_seen FROM clients;"
  hivemind-sqlcipher sql "PRAGMA user_version;"
  hivemind-sqlcipher sql --csv "SELECT name FROM clients" > names.csv
  hivemind-sqlcipher sql --write "UPDATE clients SET name = 'hall' WHERE client_id = 3"`,
      ),
  );
  sql.action(async (statement: string | undefined, options: SqlOptions) =>
    runSql(await contextOf(sql), statement, options),
  );
}

async function runSql(
  context: Context,
  statement: string | undefined,
  options: SqlOptions,
): Promise<void> {
  if (options.csv && context.output.json) {
    throw new StoreError("usage", "--csv and --json cannot both be");
  }
  const mode: Mode = context.output.json ? "json" : options.csv ? "csv" : "table";
  const write = options.write ?? false;
  const prompted = statement === undefined && onTerminal();
  if (options.history !== undefined && !prompted) {
    throw new StoreError("usage", "--history is for the prompt");
  }
  const text = prompted ? "" : (statement ?? (await standardInput()));
  const { SqlSession } = await import("../../sql/session.js");
  const { parseStatements } = await import("../../sql/statements.js");
  // What cannot be run is refused before the store is opened.
  const statements = text.startsWith(".") ? [] : parseStatements(text);
  if (!prompted && statements.length === 0 && !text.startsWith(".")) {
    throw new StoreError("usage", "there is no statement");
  }
  await using store = await openStore(context);
  const runner = new SqlRunner(context, await SqlSession.on(store), mode, write);
  if (prompted) {
    const { prompt } = await import("../ui/sql-prompt.js");
    await prompt(runner, options.history && expandPath(options.history));
  } else if (text.startsWith(".")) {
    await runner.dot(text.trim());
  } else {
    await runner.run(statements, context.reporter.confirm);
  }
}

/** Runs statements and dot commands, and prints what they answer. */
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

  /** @throws StoreError as `SqlSession`; `usage` for more than one answer where one document is printed. */
  async run(statements: readonly Statement[], confirm: Confirm): Promise<void> {
    const answering = statements.filter(({ kind }) => kind !== "change").length;
    if (this.mode !== "table" && answering > 1) {
      throw new StoreError("usage", `${this.mode} holds one answer: give one query at a time`);
    }
    if (!this.#write || answering === statements.length) {
      for (const statement of statements) await this.#print(await this.session.read(statement));
      return;
    }
    const effect = await this.#change(statements, confirm);
    if (this.mode === "json") await this.#printChange(effect);
    else for (const rows of effect.results) await this.#print(rows);
  }

  async #change(statements: readonly Statement[], confirm: Confirm): Promise<Effect> {
    const { yes, output } = this.#context;
    if (yes) {
      const effect = await this.session.apply(statements);
      for (const line of effectLines(effect)) output.notice(line);
      return effect;
    }
    if (!onTerminal()) await confirm("a statement that changes the store");
    const rehearsed = await this.session.dryRun(statements);
    for (const line of effectLines(rehearsed)) process.stderr.write(`${line}\n`);
    await confirm("Nothing is kept yet. Keep this?");
    const effect = await this.session.apply(statements, rehearsed);
    output.notice("kept");
    return effect;
  }

  /** A command of the prompt. @throws StoreError `usage` for one that is not known. */
  async dot(line: string): Promise<void> {
    const [command = "", argument, ...rest] = line.split(/\s+/);
    if (rest.length > 0) throw new StoreError("usage", `${command} takes one word at most`);
    if (command === ".tables") {
      await this.#ask(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
      );
    } else if (command === ".schema") await this.#schema(argument);
    else if (command === ".mode") this.#setMode(argument);
    else if (command === ".help") for (const each of dotHelp) this.#context.output.line(each);
    else {
      throw new StoreError("usage", `${command} is not known here`, {
        hint: elsewhere[command] ?? ".help lists what there is.",
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
      throw new StoreError("usage", `there is no mode ${mode}`, {
        hint: `The modes are ${modes.join(", ")}.`,
      });
    }
    if (known === undefined) this.#context.output.line(this.mode);
    else this.mode = known;
  }

  async #ask(text: string): Promise<void> {
    await this.#print(await this.session.read({ text, kind: "select" }));
  }

  async #print(rows: Rows): Promise<void> {
    const { csvText, jsonText } = await import("../../sql/results.js");
    if (this.mode === "json") process.stdout.write(`${jsonText(rows)}\n`);
    else if (this.mode === "csv") process.stdout.write(csvText(rows));
    else await this.#printTable(rows);
  }

  async #printChange({ results, changes, clients }: Effect): Promise<void> {
    const { jsonText } = await import("../../sql/results.js");
    const changed = changes.reduce((sum, { rows }) => sum + rows, 0);
    const counts = ({ active, revoked }: Counts) => ({ active, revoked });
    const more = {
      changed,
      clients: { before: counts(clients.before), after: counts(clients.after) },
    };
    process.stdout.write(`${jsonText(results[0] ?? { columns: [], rows: [] }, more)}\n`);
  }

  async #printTable({ columns, rows }: Rows): Promise<void> {
    const { cellText } = await import("../../sql/results.js");
    const { output } = this.#context;
    if (rows.length === 0) {
      output.notice("no rows");
      return;
    }
    const first = rows.slice(0, widthRows).map((row) => row.map(cellText));
    const table = await Table.of(
      columns.map((title, index) => ({
        title: escapeControlCharacters(title),
        align: rows.slice(0, widthRows).every((row) => isNumber(row[index])) ? "right" : "left",
      })),
      first,
      undefined,
    );
    output.line(output.style("bold", table.heading()));
    for (const row of rows) output.line(await table.row(row.map(cellText)));
  }
}

function isNumber(cell: Cell | undefined): boolean {
  return cell === null || (typeof cell === "object" && "text" in cell);
}

/** What a transaction does, before it is kept. */
function effectLines({ changes, clients: { before, after } }: Effect): string[] {
  const rows = changes.map(({ text, rows }) => `${rows} rows changed: ${firstWords(text)}`);
  const counts = ({ active, revoked }: Counts) => `${active} active, ${revoked} revoked`;
  const fewer = after.active + after.revoked < before.active + before.revoked;
  return [
    ...rows,
    `clients before: ${counts(before)}; after: ${counts(after)}`,
    ...(fewer
      ? [
          "Rows would be gone. The hub gives a new client the number of rows plus one as its id, over whoever has it: delete-client keeps the row.",
        ]
      : []),
  ];
}

function firstWords(sql: string): string {
  const line = escapeControlCharacters(sql.replace(/\s+/g, " "));
  return line.length > 60 ? `${line.slice(0, 59)}…` : line;
}

const dotHelp = [
  ".tables          the tables",
  ".schema [TABLE]  how they were made",
  `.mode [MODE]     how answers are printed: ${modes.join(", ")}`,
  ".help            this",
  ".quit            leave; so does Ctrl-D",
];

/** What sqlite3's shell has, and this project elsewhere. */
const elsewhere: Record<string, string> = {
  ".backup": "There is a command for it: hivemind-sqlcipher backup.",
  ".dump": "There is a command for it: hivemind-sqlcipher export-clients.",
  ".import": "There is a command for it: hivemind-sqlcipher import-clients.",
};
