/**
 * Opening a store for a command's work, beside whatever operation is under way.
 *
 * An operation that has stopped the service, or is putting another file in the store's place, keeps others out: whoever had
 * the store open would be in its way, and what he wrote could be in the file that is replaced. It says so in its journal
 * and then looks who has the store open; a command opens the store and then looks into the journal. So one of the two
 * sees the other, and it is always the command that steps back.
 */
import { readFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import type { BackupStep } from "../backup/recover.js";
import { hasCode, StoreError } from "../errors.js";
import { Journal, type JournalEntry } from "../operation/journal.js";
import * as z from "../schema.js";
import type { SwapStep } from "../swap/state.js";

/** Steps, the last thing in a journal, at which an operation relies on it that nobody else has the store open. */
const closedSteps: readonly string[] = [
  "backup.stopping" satisfies BackupStep,
  "stopping" satisfies SwapStep,
  "committing" satisfies SwapStep,
];

/** How long a command waits, at most: a minute, in which the window of a store of some hundred megabytes is over. */
const longestWaitMs = 60_000;
const pauseMs = 50;

/**
 * @param open opens it; what it throws while others are kept out is put down to that.
 * @throws StoreError `inUse` if the operation takes longer than `waitMs`; what `open` throws.
 */
export async function waitForOperation<Opened extends { close(): Promise<void> }>(
  storePath: string,
  open: () => Promise<Opened>,
  waitMs = longestWaitMs,
): Promise<Opened> {
  const deadline = performance.now() + waitMs;
  for (;;) {
    await waitUntilAllowed(storePath, deadline);
    let opened: Opened;
    try {
      opened = await open();
    } catch (error) {
      if (await findBlockingOperation(storePath)) continue;
      throw error;
    }
    if (!(await findBlockingOperation(storePath))) return opened;
    await opened.close();
  }
}

async function waitUntilAllowed(storePath: string, deadline: number): Promise<void> {
  for (;;) {
    const entry = await findBlockingOperation(storePath);
    if (!entry) return;
    if (performance.now() > deadline) {
      throw new StoreError(
        "inUse",
        `${entry.operation} (process ${entry.pid}) is at work on ${storePath}, and nobody may have it open meanwhile`,
        { hint: "try again when it is done" },
      );
    }
    await delay(pauseMs);
  }
}

/** The operation of another process that is at such a step right now. */
async function findBlockingOperation(storePath: string): Promise<JournalEntry | undefined> {
  // One that cannot be read is for the next operation to complain of.
  const journal = await Journal.read(storePath).catch(() => undefined);
  if (!journal) return undefined;
  const { step, pid, data } = journal.entry;
  const isClosed = closedSteps.includes(step) && pid !== process.pid && isAlive(pid);
  return isClosed && !(await mayBelongToService(data.stopped)) ? journal.entry : undefined;
}

const stoppedSchema = z.looseObject({ service: z.string(), unit: z.string() });

/**
 * Whether this process may belong to the service that the operation is about to start again: a command in a unit's
 * ExecStartPre, or in a start command, must not wait for what waits for it.
 */
async function mayBelongToService(stopped: unknown): Promise<boolean> {
  const parsed = stoppedSchema.safeParse(stopped);
  if (!parsed.success) return false;
  const { service, unit } = parsed.data;
  if (!service.startsWith("systemd")) return service !== "none";
  const name = unit.endsWith(".service") ? unit : `${unit}.service`;
  const groups = await readFile("/proc/self/cgroup", "utf8").catch(() => "");
  return groups.split(/[/\n]/).includes(name);
}

/** What a killed one left is not waited for: the next command settles it. */
function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return hasCode(error, "EPERM");
  }
}
