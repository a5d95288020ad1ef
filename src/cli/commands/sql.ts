import type { Command } from "commander";
import { expandIfGiven } from "../../config/paths.js";
import { StoreError } from "../../errors.js";
import { finishCommand } from "../command.js";
import type { Context } from "../context.js";
import { openStore, openStoreToRead, warnIfUnused } from "../open.js";
import { hasTerminal, readStandardInput } from "../ui/prompt.js";
import type { Mode } from "../ui/sql-runner.js";

interface SqlOptions {
  write?: boolean;
  csv?: boolean;
  history?: string;
}

export function addCommand(program: Command): void {
  const command = program
    .command("sql [statement]")
    .description("Run SQL on the store, or start an SQL prompt")
    .option("--write", "Allow changes, shown and confirmed before they are saved")
    .option("--csv", "Print the result as CSV")
    .option("--history <file>", "Keep the prompt's history in this file");
  finishCommand(command, runSql, {
    details: [
      "Without a statement, runs standard input, or on a terminal starts a prompt. The prompt knows .tables, .schema, .mode, .help and .quit, and completes names with Tab.",
      "Without --write, only queries and pragmas that read are run. ATTACH, VACUUM and pragmas that set something are never run. Secrets are printed if a query selects them: the columns api_key, password and crypto_key.",
    ],
    examples: [
      'hivemind-sqlcipher sql "SELECT client_id, name, is_admin, last_seen FROM clients;"',
      'hivemind-sqlcipher sql "PRAGMA user_version;"',
      'hivemind-sqlcipher sql --csv "SELECT name FROM clients" > names.csv',
      "hivemind-sqlcipher sql --write \"UPDATE clients SET name = 'hall' WHERE client_id = 3\"",
    ],
  });
}

async function runSql(
  context: Context,
  statement: string | undefined,
  options: SqlOptions,
): Promise<void> {
  if (options.csv && context.output.json) {
    throw new StoreError("usage", "--csv and --json cannot be combined");
  }
  const mode: Mode = context.output.json ? "json" : options.csv ? "csv" : "table";
  const isPrompt = statement === undefined && hasTerminal();
  if (options.history !== undefined && !isPrompt) {
    throw new StoreError("usage", "--history is only for the prompt on a terminal");
  }
  const text = isPrompt ? "" : (statement ?? (await readStandardInput()));
  const { SqlSession } = await import("../../sql/session.js");
  const { SqlRunner } = await import("../ui/sql-runner.js");
  const { parseStatements } = await import("../../sql/statements.js");
  // Refuse an unsupported statement before the store is opened.
  const statements = text.startsWith(".") ? [] : parseStatements(text);
  if (!isPrompt && statements.length === 0 && !text.startsWith(".")) {
    throw new StoreError("usage", "no SQL statement given");
  }
  // An unencrypted store can only be read.
  const open = options.write ? openStore : openStoreToRead;
  await using store = await open(context);
  if (options.write) await warnIfUnused(context);
  const session = await SqlSession.on(store);
  const runner = new SqlRunner(context, session, mode, options.write ?? false);
  if (isPrompt) {
    const { runPrompt } = await import("../ui/sql-prompt.js");
    await runPrompt(runner, expandIfGiven(options.history));
  } else if (text.startsWith(".")) {
    await runner.runDotCommand(text.trim());
  } else {
    await runner.run(statements, context.reporter.confirm);
  }
}
