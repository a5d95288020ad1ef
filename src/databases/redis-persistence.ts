/**
 * Writes the data of a Redis server to its disk.
 *
 * Redis acknowledges a write that it has only in memory. By default it writes a snapshot up to an
 * hour later. A new snapshot, or a new file of the append-only log if the server keeps one, has
 * every earlier write and is synced, whatever the server's `save` and `appendfsync`.
 */
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";

/** Sends a command to one server. */
export type Send = (command: readonly string[]) => Promise<unknown>;

const snapshot = { command: "BGSAVE", status: "rdb_last_bgsave_status" } as const;
const appendOnlyLog = { command: "BGREWRITEAOF", status: "aof_last_bgrewrite_status" } as const;

/** Each is 1 while the server writes a file, or will write it next. */
const activities = ["rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled"];

/** Ten minutes: a slow card writes gigabytes. */
const limitMs = 600_000;
const pollMs = 100;

/**
 * Returns when every write so far is on the server's disk.
 *
 * @throws {@link StoreError} io - if the server does not confirm it, or denies a command
 */
export async function saveToDisk(send: Send): Promise<void> {
  const { aof_enabled: hasLog } = await waitUntilIdle(send);
  const { command, status } = hasLog === "1" ? appendOnlyLog : snapshot;
  await send([command]);
  const after = await waitUntilIdle(send);
  if (after[status] === "ok") return;
  throw new StoreError("io", `Redis could not write its data to the disk (${command})`, {
    hint: "The log of the Redis server has the reason.",
  });
}

/** Waits until the server writes no file, and returns its `INFO persistence`. */
async function waitUntilIdle(send: Send): Promise<Readonly<Record<string, string>>> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const lines = String(await send(["INFO", "persistence"])).matchAll(/^(\w+):(.*?)\r?$/gm);
    const info = Object.fromEntries([...lines].map(([, name, value]) => [name, value]));
    if (!activities.some((name) => info[name] === "1")) return info;
    if (performance.now() > deadline) {
      throw new StoreError("io", "Redis has been writing its data to the disk for too long");
    }
    await delay(pollMs);
  }
}
