/**
 * A dead-man's switch without a service manager: a shell process in its own session, which starts
 * the service again if this process dies or hangs.
 *
 * The watcher reads a pipe from this process. The line "disarm" ends the watcher. At the end of
 * the file this process is gone, and the watcher fires at once. It is a shell
 * program, independent of this package's files, because an upgrade may be replacing them.
 *
 * Limits: the watcher does not survive a reboot, nor a kill of all processes of this user or of
 * this control group (the removal of a container, the kill of a systemd unit).
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { StoreError } from "../errors.js";
import { withInheritedUmask } from "../process/privacy.js";
import { shellQuote } from "../text/escape.js";
import { type RestartOptions, type RestartTimer, recoveryLimitSeconds } from "./service.js";

/** The watcher's exit codes: disarmed in time, or fired and started the service. */
const disarmed = 0;
const fired = 1;

export interface WatcherOptions extends RestartOptions {
  /** Runs if `command` failed. */
  readonly start: readonly string[];
}

/**
 * Starts a watcher.
 *
 * @throws {@link StoreError} service - if the watcher does not start
 */
export async function armWatcher(options: WatcherOptions): Promise<RestartTimer> {
  const child = spawn("/bin/sh", ["-c", withInheritedUmask(renderProgram(options))], {
    detached: true,
    stdio: ["pipe", "pipe", "ignore"],
  });
  const exited = new Promise<number | null>((resolve) => {
    child.once("exit", resolve);
    child.once("error", () => resolve(null));
  });
  // The watcher prints a line when it begins to read. From then on it notices the end of this
  // process.
  const isReady = await Promise.race([
    once(child.stdout, "data").then(() => true),
    exited.then(() => false),
  ]);
  if (!isReady) {
    throw new StoreError("service", "cannot start the watcher that would restart the service");
  }
  child.stdout.destroy();
  child.unref();
  return { name: `watcher ${child.pid}`, disarm: () => disarm(child, exited) };
}

async function disarm(
  child: ChildProcess,
  exited: Promise<number | null>,
): Promise<{ fired: boolean }> {
  child.ref();
  // If the watcher fired and ended, the write fails. The exit code shows this.
  child.stdin?.on("error", () => {});
  child.stdin?.end("disarm\n");
  return { fired: (await exited) !== disarmed };
}

/**
 * Returns the watcher's program. Its three processes are a clock, a reader of the line from this
 * process, and an actor on the first line from either.
 *
 * SIGTERM, SIGHUP and SIGINT are ignored, because the watcher must survive a signal to this process
 * and its children. The commands run with the default signal handlers.
 */
function renderProgram({ afterMs, command, start }: WatcherOptions): string {
  return `
trap '' TERM HUP INT
echo ready
exec >/dev/null
{
  sleep ${Math.ceil(afterMs / 1000)} <&- & clock=$!
  echo "$clock"
  { IFS= read -r line; echo "\${line:-gone}"; } <&3 &
  wait "$clock"
  echo late
} 3<&0 | {
  read -r clock
  read -r line
  kill -KILL "$clock"
  [ "$line" = disarm ] && exit ${disarmed}
  exec </dev/null
  limit=
  command -v timeout >/dev/null && limit='timeout -k 5 ${recoveryLimitSeconds}'
  (trap - TERM HUP INT; exec $limit ${command.map(shellQuote).join(" ")}) && exit ${fired}
  (trap - TERM HUP INT; exec ${start.map(shellQuote).join(" ")})
  exit ${fired}
}`;
}
