/** Runs programs of the system with a time limit. */
import { spawn } from "node:child_process";
import { hasCode } from "../errors.js";

export interface Outcome {
  /** The exit code; null if the program did not exit by itself, see `failure`. */
  readonly code: number | null;
  /** Empty without {@link RunOptions.output}. */
  readonly stdout: string;
  readonly stderr: string;
  /** Why there is no exit code: the time limit, no such program, or a signal. */
  readonly failure?: "timeout" | "missing" | "signal";
}

export interface RunOptions {
  readonly timeoutMs: number;
  /**
   * Whether to collect the output. False discards it, and `stderr` passes it to standard error.
   * Both return at exit instead of end of file, for a program with children that may keep the
   * output open.
   */
  readonly output?: boolean | "stderr";
  /** The program's standard input; nothing by default. */
  readonly input?: string;
  /** The file descriptor that gets the program's standard output, which is then not collected. */
  readonly stdout?: number | undefined;
  /** Kills the program. */
  readonly signal?: AbortSignal | undefined;
}

/** Environment variables for parsable output. */
const plain = {
  LC_ALL: "C",
  TZ: "UTC",
  SYSTEMD_PAGER: "",
  SYSTEMD_COLORS: "0",
  SYSTEMD_URLIFY: "0",
};

/**
 * Runs a program without a shell. Never rejects.
 *
 * The program gets its own process group, because Ctrl-C at a terminal must not end the `systemctl`
 * that starts the service. At the time limit, or when the signal is aborted, the whole group is
 * killed.
 */
export function run(
  program: string,
  args: readonly string[],
  { timeoutMs, output = true, input, stdout, signal }: RunOptions,
): Promise<Outcome> {
  return new Promise((resolve) => {
    const target = output === "stderr" ? 2 : output ? "pipe" : "ignore";
    const child = spawn(program, args, {
      detached: true,
      stdio: [input === undefined ? "ignore" : "pipe", stdout ?? target, target],
      env: output === true ? { ...process.env, ...plain } : process.env,
    });
    // A program that does not read its input closes the pipe.
    child.stdin?.on("error", () => undefined).end(input);
    const text = { stdout: "", stderr: "" };
    child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      text.stdout += chunk;
    });
    child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
      text.stderr += chunk;
    });
    let timedOut = false;
    const limit = setTimeout(() => {
      timedOut = true;
      killGroup(child.pid);
    }, timeoutMs);
    const abort = () => killGroup(child.pid);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort);
    const stopWatching = () => {
      clearTimeout(limit);
      signal?.removeEventListener("abort", abort);
    };
    child.once("error", (error) => {
      stopWatching();
      const failure = hasCode(error, "ENOENT") ? "missing" : "signal";
      resolve({ code: null, failure, stdout: "", stderr: error.message });
    });
    child.once(output === true ? "close" : "exit", (code: number | null) => {
      stopWatching();
      const texts = { stdout: text.stdout, stderr: text.stderr.trim() };
      if (timedOut) resolve({ code: null, failure: "timeout", ...texts });
      else if (code === null) resolve({ code, failure: "signal", ...texts });
      else resolve({ code, ...texts });
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
