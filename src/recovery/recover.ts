/** Finishes or undoes what an interrupted operation left, before the work of the next command. */
import { dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { recoverBackup } from "../backup/recover.js";
import { realPath } from "../config/paths.js";
import { isKind, StoreError, systemError, withLine, wrap } from "../errors.js";
import { removePartials } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { sidecars } from "../fs/sidecars.js";
import { Downtime } from "../operation/downtime.js";
import {
  downStep,
  Journal,
  journalExists,
  journalPath,
  setupOperation,
} from "../operation/journal.js";
import { acquireLock, type OperationLock } from "../operation/lock.js";
import {
  endDowntime,
  type Recovery,
  recoverStop,
  serviceDownError,
} from "../operation/recovery-parts.js";
import { findPendingRestart } from "../operation/service.js";
import { makeHubDirectory } from "../process/directories.js";
import type { Reporter } from "../reporter.js";
import { isInCopyUnit, renewCopy } from "../service/copy-unit.js";
import { withDerivedKeys } from "../store/cipher.js";
import { adoptionOperations, recoverAdoption } from "../swap/adopt-passphrase.js";
import { swapOperations } from "../swap/journal.js";
import { recoverSwap } from "../swap/recover.js";
import { SwapState } from "../swap/state.js";
import { recoverRestoreInto, restoreIntoOperation } from "../swap/write-into.js";
import { shellQuote } from "../text/escape.js";

/**
 * How long to retry a held lock while the store has no journal. The holder is then a recovery
 * about to end, or an operation without a journal, or without one yet.
 */
const briefWaitMs = 2_000;

/**
 * What an operation does if an interrupted operation has left the service down, and its recovery
 * could not start it. `refuse` throws. `open-only` continues, for operations that only open the
 * store. `restart` continues if nothing else is to be recovered, for operations that start the
 * service at their end.
 */
export type WhileServiceDown = "refuse" | "open-only" | "restart";

export interface OperationRequirements {
  /** Creates the store's directory, for operations that may create the store. */
  readonly makeDirectory?: boolean;
  /** Default: "refuse". */
  readonly whileServiceDown?: WhileServiceDown;
}

/**
 * Runs an operation under the store's lock, after the recovery of an interrupted operation.
 *
 * Resolves symbolic links in the path: the lock, the journal and SQLite's log are next to the file.
 *
 * @throws {@link StoreError} inUse - if another operation is running
 * @throws {@link StoreError} - what the recovery and `body` throw
 */
export async function withOperation<Result>(
  path: string,
  reporter: Pick<Reporter, "notice">,
  body: (lock: OperationLock) => Promise<Result>,
  requirements: OperationRequirements = {},
): Promise<Result> {
  const storePath = await realPath(path);
  if (requirements.makeDirectory) await makeHubDirectory(dirname(storePath));
  await using lock = await acquireLockWithRetry(storePath);
  return await withDerivedKeys(async () => {
    await recoverBefore(lock, reporter, requirements.whileServiceDown);
    return await body(lock);
  });
}

/**
 * Recovers an interrupted operation, reports what was done, and throws what blocks the next
 * operation.
 *
 * @throws {@link StoreError} - what the recovery throws, and what it could not complete
 */
export async function recoverBefore(
  lock: OperationLock,
  reporter: Pick<Reporter, "notice">,
  whileServiceDown: WhileServiceDown = "refuse",
): Promise<void> {
  const { messages, cleanupPending, serviceDown } = await recover(lock);
  const isAllowed =
    whileServiceDown === "open-only" ||
    (whileServiceDown === "restart" && (await findPendingRestart(lock.storePath)) !== undefined);
  for (const line of formatRecovery({ messages, ...(isAllowed && { serviceDown }) })) {
    reporter.notice(line);
  }
  const obstacle = (isAllowed ? undefined : serviceDown) ?? cleanupPending;
  if (obstacle) throw obstacle;
}

async function acquireLockWithRetry(storePath: string): Promise<OperationLock> {
  const deadline = performance.now() + briefWaitMs;
  for (;;) {
    try {
      return await acquireLock(storePath);
    } catch (error) {
      const isFinal = performance.now() > deadline || (await journalExists(storePath));
      if (!isKind(error, "inUse") || isFinal) throw error;
      await delay(50);
    }
  }
}

/**
 * Recovers under the store's lock, and does nothing else.
 *
 * @returns what was done, and what could not be removed
 * @throws {@link StoreError} inUse - if an operation is running
 * @throws {@link StoreError} service - if the service is still down after the recovery
 * @throws {@link StoreError} - what the recovery throws
 */
export async function recoverOnly(storePath: string): Promise<string[]> {
  await using lock = await acquireLockWithRetry(storePath);
  const recovery = await recover(lock);
  if (recovery.serviceDown) throw recovery.serviceDown;
  return formatRecovery(recovery);
}

/**
 * Recovers for a command that only opens the store, if there is a journal. A running operation is
 * not interrupted. A recovery that fails does not block the command, because it may not need what
 * the recovery needs, such as a keyring.
 *
 * @returns what was done, and what could not be completed
 * @throws {@link StoreError} - if the store has no file, or must not be opened before the recovery
 * @throws {@link StoreError} corrupted, newerVersion - if this version cannot read the journal
 * @throws {@link StoreError} refused - if the journal belongs to another user
 */
export async function recoverIfNeeded(storePath: string): Promise<string[]> {
  if (!(await journalExists(storePath))) return [];
  let lock: OperationLock;
  try {
    lock = await acquireLock(storePath);
  } catch (error) {
    if (isKind(error, "inUse")) return [];
    throw error;
  }
  await using _lock = lock;
  try {
    return formatRecovery(await recover(lock));
  } catch (error) {
    if (!(error instanceof StoreError) || !(await mayOpen(storePath))) throw error;
    return [withLine(error.message, error.hint ?? "").trimEnd()];
  }
}

/**
 * Returns whether the store may be opened although its recovery failed. Returns false while the
 * store's write-ahead log is moved aside, because opening would create a new log at its path.
 */
async function mayOpen(storePath: string): Promise<boolean> {
  const journal = await Journal.read(storePath).catch(() => undefined);
  if (journal === undefined) return false;
  if (!isOneOf(swapOperations, journal.entry.operation)) return true;
  const { aside } = SwapState.fromJournal(storePath, journal).data;
  for (const suffix of aside === null ? [] : sidecars) {
    if (await lstatIfExists(aside + suffix)) return false;
  }
  return (await lstatIfExists(storePath)) !== undefined;
}

function formatRecovery({ messages, cleanupPending, serviceDown }: Recovery): string[] {
  const lines = [...messages];
  for (const left of [serviceDown, cleanupPending]) {
    if (left) lines.push(withLine(left.message, left.hint ?? "").trimEnd());
  }
  return lines;
}

/**
 * Finishes or undoes the operation in the store's journal.
 *
 * @throws {@link StoreError} service - if the service did not start on a new store, and the old
 *   store was put back
 * @throws {@link StoreError} passphraseUnavailable - if the keyring is required and not available.
 *   The journal stays for the next attempt.
 * @throws {@link StoreError} io - if files cannot be changed. The journal stays.
 * @throws {@link StoreError} refused - if the journal belongs to another user
 * @throws {@link StoreError} corrupted, newerVersion - if this version cannot read the journal
 */
export async function recover(lock: OperationLock): Promise<Recovery> {
  const { storePath } = lock;
  await removePartials(journalPath(storePath));
  const journal = await Journal.read(storePath);
  if (!journal) return { messages: [] };
  const { error, serviceDown, ...done } = await tryRecover(journal, storePath);
  if (error) throw (await journalExists(storePath)) ? withGiveUpHint(error, journal) : error;
  return { ...done, ...(serviceDown && { serviceDown: serviceDownError(journal, serviceDown) }) };
}

async function tryRecover(journal: Journal, storePath: string): Promise<Recovery> {
  try {
    return await recoverOperation(journal, storePath);
  } catch (error) {
    return { messages: [], error: systemError(error, "the recovery failed") };
  }
}

/** Operations that leave nothing but a stopped service. */
const stopOnlyOperations = ["upgrade-schema", setupOperation];

async function recoverOperation(journal: Journal, storePath: string): Promise<Recovery> {
  const { operation, step } = journal.entry;
  // At boot, the container cannot start before the copy is written, which needs no recovery: a kept
  // passphrase opens the store. The next command recovers, and starts the container.
  if (isInCopyUnit()) return { messages: [] };
  if (step === downStep) return recoverServiceDown(journal, storePath);
  if (operation === "backup") return recoverBackup(journal, storePath);
  // After an interrupted setup, the hub starts on the database that server.json names.
  if (operation === setupOperation && journal.entry.data.container === true)
    await renewCopy(storePath);
  if (isOneOf(stopOnlyOperations, operation)) return recoverStop(journal, storePath);
  if (operation === restoreIntoOperation) return recoverRestoreInto(journal, storePath);
  if (isOneOf(adoptionOperations, operation)) return recoverAdoption(journal, storePath);
  if (isOneOf(swapOperations, operation))
    return recoverSwap(SwapState.fromJournal(storePath, journal));
  throw new StoreError("newerVersion", `${journal.path}: unknown operation "${operation}"`, {
    hint: "Finish it with the version of this program that began it.",
  });
}

function isOneOf(operations: readonly string[], operation: string): boolean {
  return operations.includes(operation);
}

async function recoverServiceDown(journal: Journal, storePath: string): Promise<Recovery> {
  const pending = await findPendingRestart(storePath);
  if (!pending) return { messages: [] };
  const downtime = await Downtime.fromJournal(pending.stopped, storePath);
  const messages = await endDowntime(downtime, journal.entry.operation);
  const serviceDown = downtime.startFailure;
  if (!serviceDown) await journal.remove();
  return { messages, serviceDown };
}

/**
 * Adds to the hint how to give the operation up, in case its recovery needs something lost.
 * The error for an unreadable journal has its own hint.
 */
function withGiveUpHint(error: StoreError, { path, entry }: Journal): StoreError {
  if (error.kind === "corrupted" || error.kind === "newerVersion") return error;
  const left = `${path}.left`;
  const lines = [
    `If a part that the recovery needs is gone for good, move the journal away: mv ${shellQuote(path)} ${shellQuote(left)}`,
    `The ${entry.operation} is then neither finished nor undone: only the journal names the remaining files and their passphrases.`,
  ];
  return wrap(error, { hint: lines.reduce(withLine, error.hint ?? "") });
}
