/**
 * Runs the hub as a child process. The hub inherits the standard streams and receives this
 * process's signals. It is killed if this process ends.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import type { Environment } from "../config/paths.js";

/** Signals from service managers, terminals and operators. */
const forwardedSignals = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"] as const;

/**
 * The end of each shell script that starts the hub.
 *
 * `exec` gives the hub the shell's process id. `--pdeathsig` makes the kernel kill the hub when
 * this process ends. If this process ended before that was set, `$PPID` differs, and the hub is not
 * started. No core dump is written, because it would contain the passphrase.
 *
 * The script must set `$confine` to options of `setpriv`, or to nothing. Its arguments are the id
 * of this process and the hub's command.
 */
export const supervisionScript = `
ulimit -c 0
exec setpriv --pdeathsig KILL $confine -- /bin/sh -c '[ "$PPID" = "$0" ] && exec "$@"' "$@"
`;

/**
 * Runs the hub until it ends.
 *
 * @returns the hub's exit code, or 128 + n if signal n ended it
 */
export function runUntilExit(
  command: readonly string[],
  environment: Environment = process.env,
): Promise<number> {
  const args = ["-c", `confine=\n${supervisionScript}`, "hivemind-sqlcipher", `${process.pid}`];
  return waitForExit(
    spawn("/bin/sh", [...args, ...command], { env: environment, stdio: "inherit" }),
  );
}

/**
 * Waits for the hub to end and forwards signals to it. Call it as soon as the child exists.
 *
 * @returns the exit code, or 128 + the number of the signal, as in a shell
 */
export async function waitForExit(hub: ChildProcess): Promise<number> {
  const forward = (signal: NodeJS.Signals) => {
    if (!isSentByTerminal(signal)) hub.kill(signal);
  };
  for (const signal of forwardedSignals) process.on(signal, forward);
  try {
    return await new Promise((done, failed) => {
      hub.once("error", failed);
      hub.once("exit", (code, signal) =>
        done(code ?? 128 + (signal === null ? 0 : constants.signals[signal])),
      );
    });
  } finally {
    for (const signal of forwardedSignals) process.off(signal, forward);
  }
}

/**
 * Returns whether the terminal has sent the signal to the hub as well: Ctrl-C and Ctrl-\ reach
 * every process of the terminal's foreground group.
 */
function isSentByTerminal(signal: NodeJS.Signals): boolean {
  return (signal === "SIGINT" || signal === "SIGQUIT") && isInForeground();
}

function isInForeground(): boolean {
  try {
    const [, , group, , , terminalGroup] = readStatFields("self");
    return group === terminalGroup;
  } catch {
    return process.stdin.isTTY === true;
  }
}

/**
 * Returns the fields of `/proc/PID/stat` after the name, which may contain spaces and parentheses.
 */
function readStatFields(pid: number | "self"): string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

/**
 * Returns the start time of a process in clock ticks, or undefined if it has ended. Process id and
 * start time are unique until the next boot.
 */
export function readStartTime(pid: number): string | undefined {
  try {
    return readStatFields(pid)[19];
  } catch {
    return undefined;
  }
}
