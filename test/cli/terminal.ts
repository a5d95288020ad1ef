/** Runs the command on a real terminal and types into it. */
import { execFile } from "node:child_process";
import { root } from "../built.js";
import type { Machine } from "./machine.js";

const driver = `${root}test/cli/terminal.py`;

/**
 * Runs the command on a pseudo-terminal.
 *
 * @param steps - texts to wait for on the screen, in order, and the text to type after each
 */
export function onTerminal(
  machine: Machine,
  args: string[],
  steps: [wait: string, type: string][],
  env: NodeJS.ProcessEnv = {},
): Promise<{ code: number; screen: string }> {
  return new Promise((done) => {
    execFile(
      "python3",
      [driver, JSON.stringify(steps), process.execPath, `${root}dist/cli/main.js`, ...args],
      {
        env: { ...machine.environment, TERM: "xterm", LC_ALL: "C.UTF-8", ...env },
        encoding: "utf8",
      },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : Number(error.code);
        done({ code, screen: stdout + stderr });
      },
    );
  });
}
