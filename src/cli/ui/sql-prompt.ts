/** The prompt of `sql`: statements over several lines, completion, and an optional history file. */
import { readFile, stat } from "node:fs/promises";
import { createInterface, type Interface } from "node:readline";
import { hasCode, StoreError, systemError } from "../../errors.js";
import { replaceFile } from "../../fs/atomic.js";
import { isComplete, parseStatements } from "../../sql/statements.js";
import { escapeControlCharacters, shellQuote } from "../../text/escape.js";
import { toStoreError } from "./output.js";
import { modes, type SqlRunner } from "./sql-runner.js";

const firstPrompt = "sql> ";
const nextPrompt = "...> ";
const maxHistoryLines = 1_000;

const dotCommands = [".tables", ".schema", ".mode", ".help", ".quit"];

/** Reads and runs statements until `.quit` or Ctrl-D. Prints an error and continues. */
export async function runPrompt(runner: SqlRunner, historyFile: string | undefined): Promise<void> {
  let history = historyFile === undefined ? [] : await readHistory(historyFile);
  const names = await runner.session.listNames();
  const input = createInterface({
    input: process.stdin,
    // Standard output is only for results.
    output: process.stderr,
    terminal: true,
    history: [...history],
    historySize: maxHistoryLines,
    completer: (line: string) => complete(line, names),
  });
  input.on("history", (lines: string[]) => {
    history = [...lines];
  });
  const lines = new Lines(input);
  process.stderr.write(
    "End statements with ;  Type .help for commands, .quit or Ctrl-D to leave.\n",
  );
  let statement = "";
  for (;;) {
    const line = await lines.next(statement === "" ? firstPrompt : nextPrompt);
    if (line === ended) break;
    if (line === cancelled) {
      statement = "";
      continue;
    }
    if (statement === "" && line.trim() === "") continue;
    if (statement === "" && line.trimEnd() === ".quit") break;
    if (statement === "" && line.startsWith(".")) {
      await runOrPrintError(() => runner.runDotCommand(line.trim()));
      continue;
    }
    statement = statement === "" ? line : `${statement}\n${line}`;
    if (!isComplete(statement)) continue;
    const text = statement;
    statement = "";
    lines.onInterrupt = () => runner.session.interrupt();
    await runOrPrintError(() =>
      runner.run(parseStatements(text), (question) => confirm(lines, question)),
    );
    lines.onInterrupt = undefined;
  }
  input.close();
  if (historyFile !== undefined)
    await replaceFile(historyFile, `${[...history].reverse().join("\n")}\n`);
}

async function runOrPrintError(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const { message, hint } = toStoreError(error);
    process.stderr.write(
      `error: ${escapeControlCharacters(message)}\n${hint ? `  ${escapeControlCharacters(hint)}\n` : ""}`,
    );
  }
}

async function confirm(lines: Lines, question: string): Promise<void> {
  const answer = await lines.next(`${question} [y/N] `, { fresh: true });
  if (typeof answer === "string" && /^y(es)?$/i.test(answer.trim())) return;
  throw new StoreError("refused", "not confirmed; nothing changed");
}

const ended = Symbol("end of input");
const cancelled = Symbol("Ctrl-C");
type Line = string | typeof ended | typeof cancelled;

/** Queues typed and pasted lines in order, including lines that arrive while a statement runs. */
class Lines {
  /** Called for Ctrl-C while a statement runs. */
  onInterrupt: (() => void) | undefined;
  readonly #input: Interface;
  readonly #queue: string[] = [];
  #ended = false;
  #resolve: ((line: Line) => void) | undefined;

  constructor(input: Interface) {
    this.#input = input;
    input.on("line", (line) => {
      if (!this.#deliver(line)) this.#queue.push(line);
    });
    input.on("close", () => {
      this.#ended = true;
      this.#deliver(ended);
    });
    input.on("SIGINT", () => {
      if (this.#resolve === undefined) {
        this.onInterrupt?.();
        return;
      }
      // Clear the typed line: Ctrl-E moves to its end, Ctrl-U deletes to its start.
      input.write(null, { ctrl: true, name: "e" });
      input.write(null, { ctrl: true, name: "u" });
      process.stderr.write("\n");
      this.#queue.length = 0;
      this.#deliver(cancelled);
    });
  }

  /**
   * @param options.fresh - leave lines that were pasted before in the queue, because the prompt
   *   asks for confirmation
   */
  async next(prompt: string, options: { fresh?: boolean } = {}): Promise<Line> {
    const pasted = options.fresh ? undefined : this.#queue.shift();
    if (pasted !== undefined) return pasted;
    if (this.#ended) return ended;
    this.#input.setPrompt(prompt);
    this.#input.prompt();
    return new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  #deliver(line: Line): boolean {
    const resolve = this.#resolve;
    this.#resolve = undefined;
    resolve?.(line);
    return resolve !== undefined;
  }
}

function complete(line: string, names: readonly string[]): [string[], string] {
  const [prefix = ""] = /(?<![\w.])[\w.]*$/.exec(line) ?? [];
  const known = line.startsWith(".mode ")
    ? modes
    : prefix === line && line.startsWith(".")
      ? dotCommands
      : names;
  const lower = prefix.toLowerCase();
  return [known.filter((name) => name.toLowerCase().startsWith(lower)), prefix];
}

/** Returns the history, newest line first, as readline expects it. */
async function readHistory(path: string): Promise<string[]> {
  try {
    const { mode } = await stat(path);
    if ((mode & 0o077) !== 0) {
      throw new StoreError(
        "refused",
        `${path} is readable by other users, and a history can contain secrets`,
        {
          hint: `Run chmod 600 ${shellQuote(path)}.`,
        },
      );
    }
    const text = await readFile(path, "utf8");
    return text.split("\n").filter(Boolean).reverse().slice(0, maxHistoryLines);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return [];
    throw systemError(error, `cannot read ${path}`);
  }
}
