/**
 * What every command does first: it finishes or undoes what an operation that was killed has left of its store, says
 * so, and then goes on with its own work.
 */
import { dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { settleBackup } from "../backup/settle.js";
import { StoreError, systemError, withLine } from "../errors.js";
import { makeFolder, removePartials } from "../files/durable.js";
import { endAbsence, refuseHolders, stopIfUp, stoppedService } from "../operation/absence.js";
import { isJournalLeft, Journal, journalPath } from "../operation/journal.js";
import { acquireLock, type OperationLock } from "../operation/lock.js";
import type { Reporter } from "../operation/reporter.js";
import type { Settled } from "../operation/settled.js";
import type { Service } from "../service/service.js";
import { Swap, type SwapOperation, swapOperations } from "./swap-state.js";
import { settleTake, takeOperations } from "./take.js";
import { settleSchemaUpgrade } from "./upgrade-schema.js";

/**
 * How long an operation waits for the lock where no journal says what holds it: a command that came while the operation
 * before was ending looks whether that left anything, which takes a moment.
 */
const passingMs = 2_000;

/**
 * Runs an operation under the store's lock, with nothing left of earlier ones.
 *
 * @param options.makeFolder for an operation that puts a store where there is none: its folder is made.
 * @throws StoreError `inUse` if another operation is at work, what settling throws, and what `body` throws.
 */
export async function withOperation<Result>(
  storePath: string,
  reporter: Pick<Reporter, "notice">,
  body: (lock: OperationLock) => Promise<Result>,
  options: { makeFolder?: boolean } = {},
): Promise<Result> {
  if (options.makeFolder) await makeFolder(dirname(storePath));
  await using lock = await lockFor(storePath);
  await settleBefore(lock, reporter);
  return await body(lock);
}

/**
 * Finishes or undoes what was interrupted, before an operation that needs the journal's place.
 *
 * @throws StoreError what settling throws, and what could not be tidied up.
 */
export async function settleBefore(
  lock: OperationLock,
  reporter: Pick<Reporter, "notice">,
): Promise<void> {
  const { said, untidy } = await settle(lock);
  for (const sentence of said) reporter.notice(sentence);
  if (untidy) throw untidy;
}

async function lockFor(storePath: string): Promise<OperationLock> {
  const deadline = performance.now() + passingMs;
  for (;;) {
    try {
      return await acquireLock(storePath);
    } catch (error) {
      const isTaken = error instanceof StoreError && error.kind === "inUse";
      if (!isTaken || performance.now() > deadline || (await isJournalLeft(storePath))) throw error;
      await delay(50);
    }
  }
}

/**
 * Settles under the store's lock, and does nothing else.
 *
 * @returns what was done, and what could not be tidied up, in sentences.
 * @throws StoreError `inUse` if an operation is at work; what settling throws.
 */
export async function settleOnly(storePath: string): Promise<string[]> {
  await using lock = await lockFor(storePath);
  return sentencesOf(await settle(lock));
}

/**
 * Settles for commands that need no lock of their own, if anything is left: unless an operation is at work on the store
 * right now, which is then none of theirs.
 *
 * @returns what was done, and what could not be tidied up, in sentences.
 * @throws StoreError what settling throws.
 */
export async function settleIfNeeded(storePath: string): Promise<string[]> {
  if (!(await isJournalLeft(storePath))) return [];
  let lock: OperationLock;
  try {
    lock = await acquireLock(storePath);
  } catch (error) {
    if (error instanceof StoreError && error.kind === "inUse") return [];
    throw error;
  }
  await using held = lock;
  return sentencesOf(await settle(held));
}

function sentencesOf({ said, untidy }: Settled): string[] {
  if (!untidy) return [...said];
  return [
    ...said,
    untidy.hint === undefined ? untidy.message : `${untidy.message}\n${untidy.hint}`,
  ];
}

/**
 * Finishes or undoes what the store's journal says was begun.
 *
 * @param lock the store's operation lock.
 * @throws StoreError `service` if the service could not be started, `passphraseUnavailable` if the keyring is needed for
 *   it and cannot be had, `io`: the journal then stays for the next try; `corrupted`, `newerVersion` for a journal that
 *   is not this version's.
 */
export async function settle(lock: OperationLock): Promise<Settled> {
  const { storePath } = lock;
  await removePartials(journalPath(storePath));
  const journal = await Journal.read(storePath);
  if (!journal) return { said: [] };
  const { operation } = journal.entry;
  if (operation === "backup") return settleBackup(journal, storePath);
  if (operation === "upgrade-schema") return settleSchemaUpgrade(journal, storePath);
  try {
    if (takeOperations.some((known) => known === operation)) {
      return await settleTake(journal, storePath);
    }
    if (isSwap(operation)) return await settleSwap(Swap.of(storePath, journal), operation);
  } catch (error) {
    throw withoutKeyring(error, journal.path);
  }
  throw new StoreError("newerVersion", `${journal.path} is about an operation "${operation}"`, {
    hint: "finish it with the version of this program that began it",
  });
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

async function settleSwap(state: Swap, operation: SwapOperation): Promise<Settled> {
  const { storePath, data } = state;
  const { step } = state.journal.entry;
  // By whoever came before; what is left of it lies elsewhere.
  if (step === "undone") return { said: [], untidy: await state.tidyUp() };
  const { stopped } = data;
  const said: string[] = [];
  const service = stopped && (await stoppedService(stopped, storePath));
  const start = async () => {
    const started = stopped && (await endAbsence(stopped, storePath));
    if (started) said.push(`started ${started}, which the interrupted ${operation} had stopped`);
  };
  // Putting the old file back may have been cut off a week ago: a new one that has been written to since stays.
  const reverting =
    step === "reverting" && ((await state.canRevert()) || !(await state.isCommitted()));
  if (reverting) {
    await state.revert(() => stopAny(service, storePath), start);
    said.push(`put back the store that the interrupted ${operation} had replaced`);
  } else if (!(await state.isCommitted())) {
    await state.undo(start);
    said.push(`undid the interrupted ${operation}: the store is as it was before`);
  } else {
    if (step !== "cleaning") await finish(state, service, start);
    await state.clean();
    said.push(`finished the interrupted ${operation}`);
    return { said };
  }
  return { said, untidy: await state.tidyUp() };
}

/** From the rename on; if the service does not come up on the new file, the old one is put back. */
async function finish(state: Swap, service: Service | undefined, start: () => Promise<void>) {
  /** @returns the error to throw: what had to be put back, and why. */
  const putBack = async (error: unknown) => {
    const { kind, message, hint } = systemError(error, "the service did not start", "service");
    let runs = true;
    try {
      await state.revert(() => stopAny(service, state.storePath), start);
      await state.tidyUp();
    } catch (second) {
      // What keeps server.json from its new passphrase may keep it from the old one, which it still has.
      if (!(second instanceof StoreError) || second.kind !== kind) throw second;
      runs = kind !== "service";
    }
    return new StoreError(kind, `${message}; the store that was replaced was put back`, {
      hint: withLine(hint, runs ? "the service runs on that one" : "see why it does not start"),
      cause: error,
    });
  };
  try {
    await state.handOver();
  } catch (error) {
    // A hub that reads the new passphrase in server.json, and does not find it there, cannot open the new file.
    if (state.data.server_json && (await state.canRevert())) throw await putBack(error);
    // The service comes first, also if it has to be content with a passphrase that is still pending.
    await start();
    throw error;
  }
  await state.write("starting").catch(() => undefined);
  try {
    await start();
  } catch (error) {
    if (!(await state.canRevert())) throw error;
    throw await putBack(error);
  }
}

async function stopAny(service: Service | undefined, storePath: string): Promise<void> {
  if (!service) return;
  // `run` settles while its own unit starts: it must not stop itself, and its hub does not run yet.
  if (service.kind !== "command" && (await service.owns(process.pid))) {
    return await refuseHolders(storePath);
  }
  // Asked for what could wake it in between, which is then stopped as well.
  await service.activeDependents();
  await stopIfUp(service, storePath);
}
