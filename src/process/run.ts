/** Running a program of the system: bounded, in English, and answered by a value for everything the program can do. */
import { spawn } from "node:child_process";
import { hasCode } from "../errors.js";

export interface Outcome {
  /** The exit code; null if it has none, see `failure`. */
  readonly code: number | null;
  /** Empty if the output was not asked for. */
  readonly stdout: string;
  readonly stderr: string;
  /** Why there is no exit code: its time was up, it could not be run, or a signal ended it. */
  readonly failure?: "timeout" | "missing" | "signal";
}

export interface RunOptions {
  readonly timeoutMs: number;
  /**
   * False leaves its output unread and does not wait for it to be closed: for a program that may leave another one
   * running.
   */
  readonly output?: boolean;
}

/** What a program is told whose words are read: English, times in UTC, no pager, no colours. */
const plain = {
  LC_ALL: "C",
  TZ: "UTC",
  SYSTEMD_PAGER: "",
  SYSTEMD_COLORS: "0",
  SYSTEMD_URLIFY: "0",
};

/**
 * Runs a program without a shell, with nothing on its standard input, in this process's environment; where its words are
 * read, they are plain. It gets a process group of its own: Ctrl-C at a terminal is for this
 * program, which must not lose the service's start to it; when its time is up, the group is killed.
 */
export function run(
  program: string,
  args: readonly string[],
  { timeoutMs, output = true }: RunOptions,
): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      detached: true,
      stdio: ["ignore", output ? "pipe" : "ignore", output ? "pipe" : "ignore"],
      env: output ? { ...process.env, ...plain } : process.env,
    });
    const text = { stdout: "", stderr: "" };
    child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      text.stdout += chunk;
    });
    child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
      text.stderr += chunk;
    });
    let late = false;
    const limit = setTimeout(() => {
      late = true;
      killGroup(child.pid);
    }, timeoutMs);
    child.once("error", (error) => {
      clearTimeout(limit);
      const failure = hasCode(error, "ENOENT") ? "missing" : "signal";
      resolve({ code: null, failure, stdout: "", stderr: error.message });
    });
    child.once(output ? "close" : "exit", (code: number | null) => {
      clearTimeout(limit);
      const words = { stdout: text.stdout, stderr: text.stderr.trim() };
      if (late) resolve({ code: null, failure: "timeout", ...words });
      else if (code === null) resolve({ code, failure: "signal", ...words });
      else resolve({ code, ...words });
    });
  });
}

function killGroup(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, "SIGKILL");
  } catch (error) {
    if (!hasCode(error, "ESRCH")) throw error;
  }
}
