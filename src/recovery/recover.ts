/**
 * What every command does first: it finishes or undoes what an operation that was killed has left of its store, says
 * so, and then goes on with its own work.
 */
import { dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { recoverBackup } from "../backup/recover.js";
import { StoreError, systemError, withLine } from "../errors.js";
import { makeDirectory, removePartials } from "../fs/atomic.js";
import {
  assertNoHolders,
  endDowntime,
  findPendingRestart,
  resolveStoppedService,
  stopIfActive,
} from "../operation/downtime.js";
import { downStep, Journal, journalExists, journalPath } from "../operation/journal.js";
import { acquireLock, type OperationLock } from "../operation/lock.js";
import { type Recovery, serviceDownError } from "../operation/recovery.js";
import type { Reporter } from "../reporter.js";
import type { Service } from "../service/service.js";
import { adoptionOperations, recoverAdoption } from "../swap/adopt-passphrase.js";
import { Swap, type SwapOperation, swapOperations } from "../swap/state.js";
import { recoverSchemaUpgrade } from "../swap/upgrade-schema.js";

/**
 * How long an operation waits for the lock where no journal says what holds it: a command that came while the operation
 * before was ending looks whether that left anything, which takes a moment.
 */
const passingMs = 2_000;

/**
 * Runs an operation under the store's lock, with nothing left of earlier ones.
 *
 * @param options.makeFolder for an operation that puts a store where there is none: its folder is made.
 * @param options.onlyOpens for one that has no journal and stops no service: one that stays down is said, and no obstacle.
 * @param options.paysOwed for one that starts what `owedService` says.
 * @throws StoreError `inUse` if another operation is at work, what settling throws, and what `body` throws.
 */
export async function withOperation<Result>(
  storePath: string,
  reporter: Pick<Reporter, "notice">,
  body: (lock: OperationLock) => Promise<Result>,
  options: { makeFolder?: boolean; onlyOpens?: boolean; paysOwed?: boolean } = {},
): Promise<Result> {
  if (options.makeFolder) await makeDirectory(dirname(storePath));
  await using lock = await acquireLockSoon(storePath);
  await recoverBefore(lock, reporter, options);
  return await body(lock);
}

/**
 * Finishes or undoes what was interrupted, before an operation that needs the journal's place.
 *
 * @throws StoreError what settling throws, and what could not be tidied up.
 */
export async function recoverBefore(
  lock: OperationLock,
  reporter: Pick<Reporter, "notice">,
  options: { onlyOpens?: boolean; paysOwed?: boolean } = {},
): Promise<void> {
  const { messages, cleanupPending, serviceDown } = await recover(lock);
  const goesOn =
    options.onlyOpens ||
    (options.paysOwed && (await findPendingRestart(lock.storePath)) !== undefined);
  const isObstacle = serviceDown && !goesOn;
  for (const sentence of formatRecovery({
    messages,
    serviceDown: isObstacle ? undefined : serviceDown,
  })) {
    reporter.notice(sentence);
  }
  const left = isObstacle ? serviceDown : cleanupPending;
  if (left) throw left;
}

async function acquireLockSoon(storePath: string): Promise<OperationLock> {
  const deadline = performance.now() + passingMs;
  for (;;) {
    try {
      return await acquireLock(storePath);
    } catch (error) {
      const isTaken = error instanceof StoreError && error.kind === "inUse";
      if (!isTaken || performance.now() > deadline || (await journalExists(storePath))) throw error;
      await delay(50);
    }
  }
}

/**
 * Settles under the store's lock, and does nothing else.
 *
 * @returns what was done, and what could not be tidied up, in sentences.
 * @throws StoreError `inUse` if an operation is at work; `service` if the service does not run; what settling throws.
 */
export async function recoverOnly(storePath: string): Promise<string[]> {
  await using lock = await acquireLockSoon(storePath);
  const settled = await recover(lock);
  if (settled.serviceDown) throw settled.serviceDown;
  return formatRecovery(settled);
}

/**
 * Settles for commands that need no lock of their own, if anything is left: unless an operation is at work on the store
 * right now, which is then none of theirs.
 *
 * @returns what was done, and what could not be made right, in sentences.
 * @throws StoreError what settling throws.
 */
export async function recoverIfNeeded(storePath: string): Promise<string[]> {
  if (!(await journalExists(storePath))) return [];
  let lock: OperationLock;
  try {
    lock = await acquireLock(storePath);
  } catch (error) {
    if (error instanceof StoreError && error.kind === "inUse") return [];
    throw error;
  }
  await using held = lock;
  return formatRecovery(await recover(held));
}

function formatRecovery({ messages, cleanupPending, serviceDown }: Recovery): string[] {
  const sentences = [...messages];
  for (const left of [serviceDown, cleanupPending]) {
    if (left) sentences.push(left.hint ? `${left.message}\n${left.hint}` : left.message);
  }
  return sentences;
}

/**
 * Finishes or undoes what the store's journal says was begun.
 *
 * @param lock the store's operation lock.
 * @throws StoreError `service` if the service did not start on a new store, and the old one was put back for it;
 *   `passphraseUnavailable` if the keyring is needed and cannot be had, `io`: the journal then stays for the next try;
 *   `corrupted`, `newerVersion` for a journal that is not this version's.
 */
export async function recover(lock: OperationLock): Promise<Recovery> {
  const { storePath } = lock;
  await removePartials(journalPath(storePath));
  const journal = await Journal.read(storePath);
  if (!journal) return { messages: [] };
  const { operation, step } = journal.entry;
  if (step === downStep) return recoverServiceDown(storePath);
  if (operation === "backup") return recoverBackup(journal, storePath);
  if (operation === "upgrade-schema") return recoverSchemaUpgrade(journal, storePath);
  try {
    if (adoptionOperations.some((known) => known === operation)) {
      return await recoverAdoption(journal, storePath);
    }
    if (isSwap(operation)) return await recoverSwap(Swap.of(storePath, journal), operation);
  } catch (error) {
    throw withoutKeyring(error, journal.path);
  }
  throw new StoreError("newerVersion", `${journal.path} is about an operation "${operation}"`, {
    hint: "finish it with the version of this program that began it",
  });
}

async function recoverServiceDown(storePath: string): Promise<Recovery> {
  const pendingRestart = await findPendingRestart(storePath);
  if (!pendingRestart) return { messages: [] };
  const { journal, stopped } = pendingRestart;
  let started: string | undefined;
  try {
    started = await endDowntime(stopped, storePath);
  } catch (error) {
    return { messages: [], serviceDown: serviceDownError(journal, error) };
  }
  await journal.remove();
  const { operation } = journal.entry;
  return {
    messages: started ? [`started ${started}, which an interrupted ${operation} had stopped`] : [],
  };
}

/** A keyring that is gone for good must not keep out whoever has the bundle. */
function withoutKeyring(error: unknown, journal: string): unknown {
  if (!(error instanceof StoreError) || error.kind !== "passphraseUnavailable") return error;
  return new StoreError(error.kind, error.message, {
    hint: withLine(
      error.hint,
      `if that is gone for good: move ${journal} away, which names the files that are left over ("staged", "aside")`,
    ),
    cause: error,
  });
}

function isSwap(operation: string): operation is SwapOperation {
  return swapOperations.some((known) => known === operation);
}

async function recoverSwap(state: Swap, operation: SwapOperation): Promise<Recovery> {
  const { storePath, data } = state;
  const { step } = state.journal.entry;
  const { stopped } = data;
  const messages: string[] = [];
  const start = async () => {
    if (!stopped) return;
    state.serviceDown = undefined;
    try {
      const started = await endDowntime(stopped, storePath);
      if (started)
        messages.push(`started ${started}, which the interrupted ${operation} had stopped`);
    } catch (error) {
      state.serviceDown = systemError(error, "the service could not be started", "service");
    }
  };
  const settled = async (): Promise<Recovery> => {
    const cleanupPending = await state.cleanUp();
    return {
      messages,
      cleanupPending,
      serviceDown: state.serviceDown && serviceDownError(state.journal, state.serviceDown),
    };
  };
  if (step === "undone") {
    // By whoever came before; what is left of it lies elsewhere, but for a service that was down.
    if (stopped) {
      await start();
      await state.undone();
    }
    return settled();
  }
  const service = stopped && (await resolveStoppedService(stopped, storePath));
  // Putting the old file back may have been cut off a week ago: a new one that has been written to since stays.
  const reverting =
    step === "reverting" && ((await state.canRevert()) || !(await state.isCommitted()));
  if (reverting) {
    await state.revert(() => stopService(service, storePath), start);
    messages.push(`put back the store that the interrupted ${operation} had replaced`);
  } else if (!(await state.isCommitted())) {
    await state.undo(start);
    messages.push(`undid the interrupted ${operation}: the store is as it was before`);
  } else {
    if (step !== "cleaning") await finish(state, service, start);
    if (state.serviceDown)
      return { messages, serviceDown: serviceDownError(state.journal, state.serviceDown) };
    await state.clean();
    messages.push(`finished the interrupted ${operation}`);
    return { messages };
  }
  return settled();
}

/**
 * From the rename on; if the service does not come up on the new file, the old one is put back.
 *
 * @throws StoreError `service` if it runs on that one. If it runs on neither, that is `state.down`.
 */
async function finish(state: Swap, service: Service | undefined, start: () => Promise<void>) {
  /** @returns the error to throw: what had to be put back, and why. */
  const putBack = async (error: unknown) => {
    const { kind, message, hint } = systemError(error, "the service did not start", "service");
    try {
      await state.revert(() => stopService(service, state.storePath), start);
      await state.cleanUp();
    } catch (second) {
      // What keeps server.json from its new passphrase may keep it from the old one, which it still has.
      const isSame = second instanceof StoreError && second.kind === kind;
      if (!isSame || kind === "service") throw second;
    }
    return new StoreError(kind, `${message}; the store that was replaced was put back`, {
      hint: withLine(
        hint,
        state.serviceDown ? "see why it does not start" : "the service runs on that one",
      ),
      cause: error,
    });
  };
  try {
    await state.applyPassphrase();
  } catch (error) {
    // A hub that reads the new passphrase in server.json, and does not find it there, cannot open the new file.
    if (state.data.server_json && (await state.canRevert())) throw await putBack(error);
    // The service comes first, also if it has to be content with a passphrase that is still pending.
    await start();
    throw state.serviceDown ?? error;
  }
  await state.write("starting").catch(() => undefined);
  await start();
  if (!state.serviceDown || !(await state.canRevert())) return;
  const error = await putBack(state.serviceDown);
  if (!state.serviceDown) throw error;
  state.serviceDown = error;
}

async function stopService(service: Service | undefined, storePath: string): Promise<void> {
  if (!service) return;
  // `run` settles while its own unit starts: it must not stop itself, and its hub does not run yet.
  if (service.kind !== "command" && (await service.owns(process.pid))) {
    return await assertNoHolders(storePath);
  }
  // Asked for what could wake it in between, which is then stopped as well.
  await service.activeDependents();
  await stopIfActive(service, storePath);
}
