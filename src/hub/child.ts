/**
 * The hub as a child of this process: it gets our standard streams and signals, we get its exit code, and it does not
 * outlive us.
 */
import type { ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import type { Readable } from "node:stream";

/** What a service manager, a terminal or an operator sends to a service. */
const passedOn = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"] as const;

/**
 * The last words of the shell that sets things up: the hub takes the shell's place, so its process id is that of our
 * child. It is killed when this process ends for any reason, and does not start if that has happened already (the
 * parent is looked at after the kernel was told). No core dump, which would hold the passphrase.
 *
 * `$1` is our process id, the options of `setpriv` are in `$confine`, the hub's command follows.
 */
export const superviseHub = `
ulimit -c 0
exec setpriv --pdeathsig KILL $confine -- /bin/sh -c '[ "$PPID" = "$0" ] && exec "$@"' "$@"
`;

/**
 * Waits for the hub to end, passing signals on meanwhile. To be called as soon as the child is there.
 *
 * @returns its exit code, or 128 + the number of the signal that ended it, as a shell says it.
 */
export async function exitCodeOf(hub: ChildProcess): Promise<number> {
  const pass = (signal: NodeJS.Signals) => {
    if (!sentByTerminal(signal)) hub.kill(signal);
  };
  for (const signal of passedOn) process.on(signal, pass);
  try {
    return await new Promise((done, failed) => {
      hub.once("error", failed);
      hub.once("exit", (code, signal) =>
        done(code ?? 128 + (signal === null ? 0 : constants.signals[signal])),
      );
    });
  } finally {
    for (const signal of passedOn) process.off(signal, pass);
  }
}

/** A terminal's Ctrl-C and Ctrl-\ go to every process in its foreground: the hub has them already. */
function sentByTerminal(signal: NodeJS.Signals): boolean {
  return (signal === "SIGINT" || signal === "SIGQUIT") && inForeground();
}

function inForeground(): boolean {
  try {
    const [, , group, , , terminalGroup] = afterName(readFileSync("/proc/self/stat", "latin1"));
    return group === terminalGroup;
  } catch {
    return process.stdin.isTTY === true;
  }
}

/** The fields of `/proc/PID/stat` behind the name, which may hold spaces and parentheses. */
function afterName(stat: string): string[] {
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

/** When a process began, in the kernel's ticks; with its id this names it for as long as the machine is up. */
export function startOf(pid: number): string | undefined {
  try {
    return afterName(readFileSync(`/proc/${pid}/stat`, "latin1"))[19];
  } catch {
    return undefined;
  }
}

/** Everything that comes through a pipe until its end. */
export async function readAll(pipe: Readable): Promise<string> {
  let text = "";
  for await (const part of pipe.setEncoding("utf8")) text += part;
  return text;
}
