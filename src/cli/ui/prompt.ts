/** Questions, asked only where somebody can answer: on a terminal. Elsewhere the option that answers is named. */
import { Writable } from "node:stream";
import { StoreError } from "../../errors.js";
import { escapeLines } from "./output.js";

/** Whether there is somebody to ask. */
export function onTerminal(): boolean {
  return Boolean(process.stdin.isTTY && process.stderr.isTTY);
}

/** All of standard input, as text. */
export async function standardInput(): Promise<string> {
  let text = "";
  for await (const chunk of process.stdin.setEncoding("utf8")) text += chunk;
  return text;
}

/** One line from the terminal; Ctrl-C and the end of input end the command instead of leaving it waiting. */
async function ask(question: string, output: NodeJS.WritableStream): Promise<string> {
  const { createInterface } = await import("node:readline/promises");
  const prompt = createInterface({ input: process.stdin, output, terminal: true });
  try {
    return await new Promise<string>((resolve, reject) => {
      prompt.once("close", () => reject(new StoreError("interrupted", "nothing was changed")));
      prompt.once("SIGINT", () => {
        output.write("\n");
        prompt.close();
      });
      prompt.question(question).then(resolve, reject);
    });
  } finally {
    prompt.close();
  }
}

/**
 * Asks yes or no, defaulting to no; with --yes the answer is yes.
 *
 * @throws StoreError `refused` if the answer is no, `usage` if there is nobody to ask.
 */
export async function confirm(question: string, yes: boolean): Promise<void> {
  if (yes) return;
  if (!onTerminal()) {
    throw new StoreError(
      "usage",
      `this needs a confirmation: ${question
        .split("\n")
        .map((line) => line.trim())
        .join(" ")}`,
      {
        hint: "There is no terminal to ask on; add --yes if you mean it.",
      },
    );
  }
  const answer = await ask(`${escapeLines(question)} [y/N] `, process.stderr);
  if (!/^y(es)?$/i.test(answer.trim())) throw new StoreError("refused", "nothing was changed");
}

/**
 * Asks for a line without showing what is typed.
 *
 * @throws StoreError `usage`, naming `option`, if there is nobody to ask.
 */
export async function askSecret(question: string, option: string): Promise<string> {
  if (!onTerminal()) {
    throw new StoreError("usage", `${question}: there is no terminal to ask on`, {
      hint: `Use ${option}.`,
    });
  }
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  process.stderr.write(`${question}: `);
  try {
    return await ask("", silent);
  } finally {
    process.stderr.write("\n");
  }
}
