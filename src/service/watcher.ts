/**
 * The dead-man's watcher, where no manager can hold a timer: a small shell process of its own session that starts the
 * service again if this process dies or hangs.
 *
 * It reads its standard input, the other end of which only this process has. The word "disarm" ends it. The end of the
 * input means that this process is gone, however it was killed, and the service is started at once; a line
 * "late" comes from its own clock. It is a shell program because all it does is what a shell does, and because
 * it then does not depend on this package's files, which an upgrade may be replacing.
 *
 * Its limits: it does not outlive a reboot, nor whoever kills every process of this user or of this control group (a
 * container that is removed, a systemd unit that this program runs in and that is stopped by force).
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { StoreError } from "../errors.js";
import { withInheritedUmask } from "../process/umask.js";
import { shellQuote } from "../text/shell.js";
import { type RestartTimer, recoveryLimitSeconds } from "./service.js";

/** The watcher's exit codes: it was told to disarm in time, or it has started the service. */
const disarmed = 0;
const acted = 1;

export interface WatcherOptions {
  /** Milliseconds after which it acts although this process lives. */
  readonly afterMs: number;
  /**
   * What it runs first. If that succeeds, it has seen to the service as well: a start command that was run twice would
   * start two hubs.
   */
  readonly command: readonly string[];
  /** What it runs then, if that failed. */
  readonly start: readonly string[];
}

/**
 * Starts a watcher.
 *
 * @throws StoreError `service` if it does not come up.
 */
export async function armWatcher(options: WatcherOptions): Promise<RestartTimer> {
  const child = spawn("/bin/sh", ["-c", withInheritedUmask(program(options))], {
    detached: true,
    stdio: ["pipe", "pipe", "ignore"],
  });
  const exited = new Promise<number | null>((resolve) => {
    child.once("exit", resolve);
    child.once("error", () => resolve(null));
  });
  // Its first word says that it reads: from now on it cannot be missed.
  const up = await Promise.race([
    once(child.stdout, "data").then(() => true),
    exited.then(() => false),
  ]);
  if (!up)
    throw new StoreError(
      "service",
      "could not start the watcher that would start the service again",
    );
  child.stdout.destroy();
  // It must not keep this process alive, only outlive it.
  child.unref();
  return { name: `watcher ${child.pid}`, disarm: () => disarm(child, exited) };
}

async function disarm(
  child: ChildProcess,
  exited: Promise<number | null>,
): Promise<{ fired: boolean }> {
  child.ref();
  // It may have acted and ended already: then nobody reads this, and its exit code tells.
  child.stdin?.on("error", () => {});
  child.stdin?.end("disarm\n");
  return { fired: (await exited) !== disarmed };
}

/**
 * Three processes: the clock, one that reads this process's word, and one that acts on whichever comes first through the
 * pipe they share. Signals that ask politely are ignored, since whoever ends this process must not end
 * with it what starts the service; the commands get them back as they were.
 */
function program({ afterMs, command, start }: WatcherOptions): string {
  return `
trap '' TERM HUP INT
echo ready
exec >/dev/null
{
  sleep ${Math.ceil(afterMs / 1000)} <&- & clock=$!
  echo "$clock"
  { IFS= read -r word; echo "\${word:-gone}"; } <&3 &
  wait "$clock"
  echo late
} 3<&0 | {
  read -r clock
  read -r word
  kill -KILL "$clock"
  [ "$word" = disarm ] && exit ${disarmed}
  exec </dev/null
  limit=
  command -v timeout >/dev/null && limit='timeout -k 5 ${recoveryLimitSeconds}' # macOS has none
  (trap - TERM HUP INT; exec $limit ${command.map(shellQuote).join(" ")}) && exit ${acted}
  (trap - TERM HUP INT; exec ${start.map(shellQuote).join(" ")})
  exit ${acted}
}`;
}
