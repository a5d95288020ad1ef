/** Asks questions on a terminal. Without a terminal, the error names the option to use instead. */
import { Writable } from "node:stream";
import { StoreError } from "../../errors.js";
import { orAbort } from "../../process/abort.js";
import { currentInteraction } from "../../process/interaction.js";
import { escapeLines } from "./output.js";

export function hasTerminal(): boolean {
  return Boolean(process.stdin.isTTY && process.stderr.isTTY);
}

export async function readStandardInput(): Promise<string> {
  let text = "";
  for await (const chunk of process.stdin.setEncoding("utf8")) text += chunk;
  return text;
}

/**
 * Reads lines from the terminal until `accept` returns true. Several lines can be pasted at once.
 *
 * @param question - returns the text before the next line
 * @param accept - returns whether the line is the last
 * @param options.output - where the terminal shows typed characters
 * @param options.onReady - called when the terminal itself no longer echoes typed characters
 * @throws {@link StoreError} interrupted - at Ctrl-C, at the end of input, and when the operation
 *   is interrupted
 */
export async function askLines(
  question: () => string,
  accept: (line: string) => boolean,
  { output = process.stderr, onReady }: { output?: Writable; onReady?: () => void } = {},
): Promise<void> {
  const { createInterface } = await import("node:readline");
  const prompt = createInterface({ input: process.stdin, output, terminal: true, historySize: 0 });
  onReady?.();
  try {
    const accepted = new Promise<void>((resolve, reject) => {
      const askNext = () => {
        prompt.setPrompt(escapeLines(question()));
        prompt.prompt();
      };
      prompt.on("line", (line) => {
        if (accept(line)) resolve();
        else askNext();
      });
      prompt.once("close", () =>
        reject(new StoreError("interrupted", "interrupted; nothing changed")),
      );
      prompt.once("SIGINT", () => {
        output.write("\n");
        prompt.close();
      });
      askNext();
    });
    await orAbort(accepted, currentInteraction().signal);
  } finally {
    prompt.close();
  }
}

async function ask(
  question: string,
  options?: { output: Writable; onReady: () => void },
): Promise<string> {
  let answer = "";
  const accept = (line: string) => {
    answer = line;
    return true;
  };
  await askLines(() => question, accept, options);
  return answer;
}

/**
 * Asks a yes-or-no question; the default is no.
 *
 * @param yes - whether --yes answers the question
 * @throws {@link StoreError} refused - if the answer is no
 * @throws {@link StoreError} interrupted - at Ctrl-C and at the end of input
 * @throws {@link StoreError} usage - if there is no terminal
 */
export async function confirm(question: string, yes: boolean): Promise<void> {
  if (yes) return;
  if (!hasTerminal()) {
    const lines = question.split("\n").map((part) => part.trim());
    throw new StoreError(
      "usage",
      `confirmation needed, but there is no terminal: ${lines.join(" ")}`,
      {
        hint: "Add --yes to confirm.",
      },
    );
  }
  if (!(await askYesNo(question))) {
    throw new StoreError("refused", "not confirmed; nothing changed");
  }
}

/**
 * Asks a yes-or-no question on the terminal; the default is no.
 *
 * @throws {@link StoreError} interrupted - at Ctrl-C and at the end of input
 */
export async function askYesNo(question: string): Promise<boolean> {
  return /^y(es)?$/i.test((await ask(`${question} [y/N] `)).trim());
}

/**
 * Reads a secret from the terminal without showing it.
 *
 * @param option - the option with the secret for use without a terminal, for the hint
 * @throws {@link StoreError} usage - if there is no terminal
 */
export async function askSecret(question: string, option: string): Promise<string> {
  if (!hasTerminal()) {
    throw new StoreError("usage", `no terminal to ask on: ${question}`, {
      hint: `Add ${option}.`,
    });
  }
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  // A secret pasted as soon as the question appears must not be shown.
  const onReady = () => process.stderr.write(`${question}: `);
  try {
    return await ask("", { output: silent, onReady });
  } finally {
    process.stderr.write("\n");
  }
}
