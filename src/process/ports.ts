/** The TCP ports on which processes of this machine listen, as `/proc` reports them. */
import { readFileSync, readlinkSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { listOpenFiles } from "./proc.js";

/** The state of a listening socket in `/proc/net/tcp`. */
const listening = "0A";
const pauseMs = 50;

/**
 * Returns the ports on which a process listens. Returns none for a process that this user may not
 * inspect, and for a process in another network namespace, as in a container.
 */
export function listListeningPorts(pid: number): number[] {
  try {
    if (readlinkSync(`/proc/${pid}/ns/net`) !== readlinkSync("/proc/self/ns/net")) return [];
  } catch {
    return []; // ended, or of another user
  }
  const open = new Set(listOpenFiles(pid));
  return readListeningSockets()
    .filter(({ inode }) => open.has(`socket:[${inode}]`))
    .map(({ port }) => port);
}

/**
 * Waits until something listens on each of the ports.
 *
 * @param limitMs - how long to wait at most, in milliseconds
 * @returns the time on the clock of `performance.now()`; undefined if the limit has passed
 */
export async function waitUntilListening(
  ports: readonly number[],
  limitMs: number,
): Promise<number | undefined> {
  const deadline = performance.now() + limitMs;
  while (performance.now() < deadline) {
    const open = new Set(readListeningSockets().map(({ port }) => port));
    if (ports.every((port) => open.has(port))) return performance.now();
    // The timer does not keep this process alive: a failed command ends during the wait.
    await delay(pauseMs, undefined, { ref: false });
  }
  return undefined;
}

function readListeningSockets(): { port: number; inode: string }[] {
  return ["tcp", "tcp6"].flatMap((protocol) => {
    let table: string;
    try {
      table = readFileSync(`/proc/net/${protocol}`, "latin1");
    } catch {
      return []; // a kernel without this protocol
    }
    const rows = table.split("\n").map((row) => row.trim().split(/\s+/));
    return rows
      .filter((row) => row[3] === listening)
      .map((row) => ({
        port: Number.parseInt(row[1]?.split(":")[1] ?? "", 16),
        inode: row[9] ?? "",
      }));
  });
}
