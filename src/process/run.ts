/** Runs programs of the system with a time limit. */
import { type ChildProcess, spawn } from "node:child_process";
import { hasCode } from "../errors.js";

export interface Outcome {
  /** The exit code; null if the program did not exit by itself, see `failure`. */
  readonly code: number | null;
  /** Empty without {@link RunOptions.output}. */
  readonly stdout: string;
  readonly stderr: string;
  /**
   * Why there is no exit code. `signal`: the program was killed, or could not be started for
   * another reason than a missing file; `stderr` then has the reason.
   */
  readonly failure?: "timeout" | "missing" | "signal";
}

export interface Account {
  /** Default: the user of this process. */
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

export interface RunOptions {
  readonly timeoutMs: number;
  /**
   * Whether to collect the output. False discards it, and `stderr` passes it to standard error.
   * If the output is not collected, `run` returns as soon as the program exits, and does not wait
   * for children of the program with the output open.
   */
  readonly output?: boolean | "stderr";
  /**
   * The variables that make collected output parsable. They override the program's environment. By
   * default the output is in English, and its times are in UTC.
   */
  readonly outputVariables?: Account["environment"];
  /** The program's standard input; nothing by default. */
  readonly input?: string | undefined;
  /** The file descriptor for the program's standard output, instead of collecting it. */
  readonly stdout?: number | undefined;
  /**
   * The program's account. The program then runs in `directory`, or in `/`, because its user may
   * not be permitted to enter the working directory of this process.
   */
  readonly account?: Account | undefined;
  /**
   * The working directory. The process enters it before it changes to `account`, because the
   * account may lack the permission for a parent directory.
   */
  readonly directory?: string | undefined;
  /** When aborted, kills the program. */
  readonly signal?: AbortSignal | undefined;
}

/** How long a killed program may take to exit. A program that waits for a disk does not exit. */
const exitGraceMs = 5000;

const plainOutput = {
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
 * killed. A program that this user may not kill, such as a setuid program, is left running.
 */
export function run(
  program: string,
  args: readonly string[],
  options: RunOptions,
): Promise<Outcome> {
  const { timeoutMs, output = true, outputVariables = plainOutput } = options;
  const { input, stdout, account, directory = "/", signal } = options;
  return new Promise((resolve) => {
    const target = output === "stderr" ? 2 : output ? "pipe" : "ignore";
    const environment = account ? { PATH: process.env.PATH, ...account.environment } : process.env;
    const notStarted = (error: Error) => {
      const failure = hasCode(error, "ENOENT") ? "missing" : "signal";
      resolve({ code: null, failure, stdout: "", stderr: error.message });
    };
    let child: ChildProcess;
    try {
      child = spawn(program, args, {
        detached: true,
        stdio: [input === undefined ? "ignore" : "pipe", stdout ?? target, target],
        env: output === true ? { ...environment, ...outputVariables } : environment,
        ...(account && { cwd: directory, uid: account.uid, gid: account.gid }),
      });
    } catch (error) {
      // spawn reports most failures by an event, but throws others, such as a lack of memory.
      return notStarted(error as Error);
    }
    // A program that does not read its input closes the pipe.
    child.stdin?.on("error", () => undefined).end(input);
    const text = { stdout: "", stderr: "" };
    child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      text.stdout += chunk;
    });
    child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
      text.stderr += chunk;
    });
    const texts = () => ({ stdout: text.stdout, stderr: text.stderr.trim() });
    let killed: "timeout" | "signal" | undefined;
    let grace: NodeJS.Timeout | undefined;
    const kill = (reason: "timeout" | "signal") => {
      killed ??= reason;
      grace ??= setTimeout(abandon, killGroup(child.pid) ? exitGraceMs : 0);
    };
    const abandon = () => {
      stopWatching();
      child.unref();
      for (const stream of [child.stdin, child.stdout, child.stderr]) stream?.destroy();
      resolve({ code: null, failure: killed ?? "signal", ...texts() });
    };
    const limit = setTimeout(() => kill("timeout"), timeoutMs);
    const abort = () => kill("signal");
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort);
    const stopWatching = () => {
      clearTimeout(limit);
      clearTimeout(grace);
      signal?.removeEventListener("abort", abort);
    };
    child.once("error", (error) => {
      stopWatching();
      notStarted(error);
    });
    child.once(output === true ? "close" : "exit", (code: number | null) => {
      stopWatching();
      if (killed === "timeout") resolve({ code: null, failure: killed, ...texts() });
      else if (code === null) resolve({ code, failure: "signal", ...texts() });
      else resolve({ code, ...texts() });
    });
  });
}

/** Kills a process group. Returns false if this user may not kill any of its processes. */
function killGroup(pid: number | undefined): boolean {
  try {
    if (pid !== undefined) process.kill(-pid, "SIGKILL");
    return true;
  } catch (error) {
    if (hasCode(error, "ESRCH")) return true;
    if (hasCode(error, "EPERM")) return false;
    throw error;
  }
}
