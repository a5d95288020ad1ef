/** The prompt of `sql`: statements over several lines, completion, and a history that is kept nowhere unless asked. */
import { readFile, stat } from "node:fs/promises";
import { createInterface, type Interface } from "node:readline";
import { hasCode, StoreError, systemError } from "../../errors.js";
import { replaceFile } from "../../fs/atomic.js";
import { isComplete, parseStatements } from "../../sql/statements.js";
import { escapeControlCharacters } from "../../text/escape.js";
import { modes, type SqlRunner } from "../commands/sql.js";
import { asStoreError } from "./output.js";

const first = "sql> ";
const following = "...> ";
const longestHistory = 1_000;

const dotCommands = [".tables", ".schema", ".mode", ".help", ".quit"];

/** Reads and runs until `.quit` or Ctrl-D; a statement that fails is reported, and the next may follow. */
export async function prompt(runner: SqlRunner, historyFile: string | undefined): Promise<void> {
  let history = historyFile === undefined ? [] : await readHistory(historyFile);
  const names = await runner.session.names();
  const input = createInterface({
    input: process.stdin,
    // Standard output is for answers alone.
    output: process.stderr,
    terminal: true,
    history: [...history],
    historySize: longestHistory,
    completer: (line: string) => complete(line, names),
  });
  input.on("history", (lines: string[]) => {
    history = [...lines];
  });
  const lines = new Lines(input);
  process.stderr.write("SQL ends with ;  .help says what else there is, .quit or Ctrl-D leaves.\n");
  let statement = "";
  for (;;) {
    const line = await lines.next(statement === "" ? first : following);
    if (line === ended || (statement === "" && line === ".quit")) break;
    if (line === cancelled) {
      statement = "";
      continue;
    }
    if (statement === "" && line.trim() === "") continue;
    if (statement === "" && line.startsWith(".")) {
      await reported(() => runner.dot(line.trim()));
      continue;
    }
    statement = statement === "" ? line : `${statement}\n${line}`;
    if (!isComplete(statement)) continue;
    const text = statement;
    statement = "";
    lines.busy = () => runner.session.interrupt();
    await reported(() => runner.run(parseStatements(text), (question) => confirm(lines, question)));
    lines.busy = undefined;
  }
  input.close();
  if (historyFile !== undefined)
    await replaceFile(historyFile, `${[...history].reverse().join("\n")}\n`);
}

async function reported(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const { message, hint } = asStoreError(error);
    process.stderr.write(
      `error: ${escapeControlCharacters(message)}\n${hint ? `  ${escapeControlCharacters(hint)}\n` : ""}`,
    );
  }
}

async function confirm(lines: Lines, question: string): Promise<void> {
  const answer = await lines.next(`${question} [y/N] `, { fresh: true });
  if (typeof answer === "string" && /^y(es)?$/i.test(answer.trim())) return;
  throw new StoreError("refused", "nothing was changed");
}

const ended = Symbol("the end of input");
const cancelled = Symbol("Ctrl-C");
type Line = string | typeof ended | typeof cancelled;

/** The lines that are typed or pasted, in order, also those that come while a statement runs. */
class Lines {
  /** What Ctrl-C ends while no line is waited for. */
  busy: (() => void) | undefined;
  readonly #input: Interface;
  readonly #waiting: string[] = [];
  #ended = false;
  #taker: ((line: Line) => void) | undefined;

  constructor(input: Interface) {
    this.#input = input;
    input.on("line", (line) => {
      if (!this.#give(line)) this.#waiting.push(line);
    });
    input.on("close", () => {
      this.#ended = true;
      this.#give(ended);
    });
    input.on("SIGINT", () => {
      if (this.#taker === undefined) {
        this.busy?.();
        return;
      }
      input.write(null, { ctrl: true, name: "e" });
      input.write(null, { ctrl: true, name: "u" });
      process.stderr.write("\n");
      this.#waiting.length = 0;
      this.#give(cancelled);
    });
  }

  /** @param options.fresh an answer to a question: nothing that was pasted before it was put. */
  async next(prompt: string, options: { fresh?: boolean } = {}): Promise<Line> {
    const pasted = options.fresh ? undefined : this.#waiting.shift();
    if (pasted !== undefined) return pasted;
    if (this.#ended) return ended;
    this.#input.setPrompt(prompt);
    this.#input.prompt();
    return new Promise((resolve) => {
      this.#taker = resolve;
    });
  }

  #give(line: Line): boolean {
    const taker = this.#taker;
    this.#taker = undefined;
    taker?.(line);
    return taker !== undefined;
  }
}

function complete(line: string, names: readonly string[]): [string[], string] {
  const [word = ""] = /(?<![\w.])[\w.]*$/.exec(line) ?? [];
  const known = line.startsWith(".mode ")
    ? modes
    : word === line && line.startsWith(".")
      ? dotCommands
      : names;
  const lower = word.toLowerCase();
  return [known.filter((name) => name.toLowerCase().startsWith(lower)), word];
}

/** Newest first, as readline has it. @throws StoreError `refused` if others can read the file. */
async function readHistory(path: string): Promise<string[]> {
  try {
    const { mode } = await stat(path);
    if ((mode & 0o077) !== 0) {
      throw new StoreError("refused", `${path}: others could read a history of secrets there`, {
        hint: `chmod 600 '${path}'`,
      });
    }
    const text = await readFile(path, "utf8");
    return text.split("\n").filter(Boolean).reverse().slice(0, longestHistory);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return [];
    throw systemError(error, `cannot read ${path}`);
  }
}
