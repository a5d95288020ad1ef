/**
 * Opens a store for a command without the operation lock.
 *
 * An operation blocks such commands while the service is stopped or the store's file is replaced: a
 * write could reach the replaced file and be lost. The operation writes its journal and then
 * searches for processes with the store open. A command opens the store and then reads the journal.
 * So at least one of the two detects the other, and the command always backs off. If the journal no
 * longer blocks the command when it is read, the store's inode shows whether the file was replaced.
 */
import { readFile } from "node:fs/promises";
import { setTimeout as delay } from "node:timers/promises";
import type { BackupStep } from "../backup/journal.js";
import { StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { type JournalEntry, readJournalEntry } from "../operation/journal.js";
import { isAlive } from "../process/proc.js";
import * as z from "../schema.js";
import { fullUnitName } from "../service/systemctl.js";
import type { SwapStep } from "../swap/journal.js";

/** The journaled steps in which no other process may have the store open. */
const exclusiveSteps: readonly string[] = [
  "backup.stopping" satisfies BackupStep,
  "stopping" satisfies SwapStep,
  "committing" satisfies SwapStep,
];

/** Longer than the downtime for a store of some hundred megabytes. */
const longestWaitMs = 60_000;
const pauseMs = 50;

/**
 * Opens the store when no operation blocks it.
 *
 * @param open - opens the store; if an operation blocks the store or has replaced its file when
 *   `open` has returned or thrown, the result or error is discarded, and `open` is called again
 * @param waitMs - time limit in milliseconds
 * @throws {@link StoreError} inUse - if an operation blocks the store for longer than `waitMs`
 * @throws {@link StoreError} - what `open` throws
 */
export async function waitForOperation<Opened extends { close(): Promise<void> }>(
  storePath: string,
  open: () => Promise<Opened>,
  waitMs = longestWaitMs,
): Promise<Opened> {
  const deadline = performance.now() + waitMs;
  for (;;) {
    await waitUntilAllowed(storePath, deadline);
    const inode = await findInode(storePath);
    const mustRetry = async () =>
      (await findBlockingOperation(storePath)) !== undefined ||
      (await findInode(storePath)) !== inode;
    let opened: Opened;
    try {
      opened = await open();
    } catch (error) {
      if (await mustRetry()) continue;
      throw error;
    }
    if (!(await mustRetry())) return opened;
    await opened.close();
  }
}

/** Returns undefined if there is no file, or if it cannot be accessed: `open` then throws. */
async function findInode(storePath: string): Promise<bigint | undefined> {
  return (await lstatIfExists(storePath).catch(() => undefined))?.ino;
}

async function waitUntilAllowed(storePath: string, deadline: number): Promise<void> {
  for (;;) {
    const entry = await findBlockingOperation(storePath);
    if (!entry) return;
    if (performance.now() > deadline) {
      throw new StoreError(
        "inUse",
        `${storePath} is locked by a running ${entry.operation} (process ${entry.pid})`,
        { hint: "Try again when it has finished." },
      );
    }
    await delay(pauseMs);
  }
}

/** Returns the journal of a running operation of another process, if it is in an exclusive step. */
async function findBlockingOperation(storePath: string): Promise<JournalEntry | undefined> {
  // The next operation reports an unreadable journal. Root may use the store of another user.
  const entry = await readJournalEntry(storePath).catch(() => undefined);
  if (!entry) return undefined;
  const { step, pid, data } = entry;
  // A killed operation is not waited for: the next command recovers it.
  const isExclusive = exclusiveSteps.includes(step) && pid !== process.pid && isAlive(pid);
  return isExclusive && !(await mayBelongToService(data, step)) ? entry : undefined;
}

const dataSchema = z.looseObject({
  stopped: z.looseObject({ service: z.string(), unit: z.string() }),
  /** The new file of a swap, or the files of a backup. */
  staged: z.optional(z.union([z.string(), z.looseObject({})])),
});

/**
 * Returns whether this process may belong to the service of the operation. Such a command, in a
 * unit's ExecStartPre or in a start command, would deadlock with the operation. The processes of a
 * container and of a `command` service cannot be told from others, but none of them is waited for
 * during a commit, which ends with the rename of the staged file. After the rename, the operation
 * may wait for a keyring, and a restart timer must be able to start the service.
 */
async function mayBelongToService(data: unknown, step: string): Promise<boolean> {
  const parsed = dataSchema.safeParse(data);
  if (!parsed.success) return false;
  const { stopped, staged } = parsed.data;
  if (!stopped.service.startsWith("systemd")) {
    const isCommit = step === "committing" && typeof staged === "string";
    return stopped.service !== "none" && !(isCommit && (await lstatIfExists(staged)));
  }
  const name = fullUnitName(stopped.unit);
  const groups = await readFile("/proc/self/cgroup", "utf8").catch(() => "");
  return groups.split(/[/\n]/).includes(name);
}
