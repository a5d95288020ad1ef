/**
 * Recovery of a swap, the same after a failure in its process and after a kill.
 *
 * Before the commit the swap is undone. After it the swap is finished; if this fails, the old file
 * is put back, unless writes would be lost.
 */
import { addHint, isKind, systemError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import type { Downtime } from "../operation/downtime.js";
import {
  endDowntime,
  findDowntime,
  type OperationFailure,
  type Recovery,
  withRecovery,
} from "../operation/recovery-parts.js";
import {
  applyPassphrase,
  assertOpens,
  restoreCopyIfLost,
  restorePassphrase,
} from "./passphrase.js";
import type { SwapState } from "./state.js";

/**
 * Finishes or undoes a swap. Requires the operation lock.
 *
 * @param failed - set by the process of the swap. A committed swap is then put back if possible,
 *   and not finished by a second attempt.
 * @returns always with an `error` if `failed` is set. Its message says which store is in place and
 *   whether the service runs.
 */
export async function recoverSwap(state: SwapState, failed?: OperationFailure): Promise<Recovery> {
  let downtime: Downtime | undefined;
  try {
    downtime = await findDowntime(state.storePath, state.data.stopped, failed);
    return await new SwapRecovery(state, downtime, failed).run();
  } catch (error) {
    // Start the service if a file has the store's name. Without a file, the hub would create one.
    const hasFile = await lstatIfExists(state.storePath).catch(() => undefined);
    const messages = downtime?.isPending && hasFile ? await start(state, downtime) : [];
    const recovery: Recovery = {
      messages,
      error: systemError(error, "the recovery failed"),
      serviceDown: downtime?.startFailure,
    };
    return failed ? { ...recovery, error: toError(failed.failure, recovery) } : recovery;
  }
}

const lostHint =
  "The passphrase is in the store's bundle: move the journal away as below, run hivemind-sqlcipher bundle import BUNDLE --identity FILE, and move the journal back.";

class SwapRecovery {
  readonly #state: SwapState;
  readonly #downtime: Downtime | undefined;
  readonly #failed: OperationFailure | undefined;
  readonly #messages: string[] = [];

  constructor(
    state: SwapState,
    downtime: Downtime | undefined,
    failed: OperationFailure | undefined,
  ) {
    this.#state = state;
    this.#downtime = downtime;
    this.#failed = failed;
  }

  async run(): Promise<Recovery> {
    const state = this.#state;
    const { step } = state.journal.entry;
    const isCommitted = await state.isCommitted();
    if (step === "undone") return await this.#cleanUpUndone();
    // The revert may have been interrupted long ago. A new file written to since then stays.
    if (step === "reverting" && (!isCommitted || (await state.canRevert()))) {
      return await this.#revert();
    }
    if (!isCommitted) return await this.#undo();
    if (step === "cleaning") return await this.#continueCleanup();
    return this.#failed ? await this.#revertOrStay(this.#failed.failure) : await this.#finish();
  }

  /** Completes an earlier recovery, which undid the swap: starts the service, removes files. */
  async #cleanUpUndone(): Promise<Recovery> {
    if (this.#downtime) {
      await this.#start();
      await this.#state.writeUndone(this.#isDown);
    }
    const cleanupPending = await this.#state.cleanUpUndone(this.#isDown);
    return { messages: this.#messages, cleanupPending, serviceDown: this.#downtime?.startFailure };
  }

  async #undo(): Promise<Recovery> {
    await this.#state.assertNotLost();
    await this.#state.undoMoveAside();
    // If the container's copy of server.json cannot be written here, `run --prepare` writes it.
    await restoreCopyIfLost(this.#state).catch(() => undefined);
    // A service started by something else has opened the file that stays, so it may keep running.
    await this.#start({ restartIfUp: false });
    await this.#state.discardStaged();
    await this.#state.writeUndone(this.#isDown);
    const cleanupPending = await this.#state.cleanUpUndone(this.#isDown);
    this.#messages.push(`undid the interrupted ${this.#state.operation}: the store is unchanged`);
    return this.#result({ cleanupPending });
  }

  async #finish(): Promise<Recovery> {
    const state = this.#state;
    try {
      await assertOpens(state);
      await applyPassphrase(state);
    } catch (error) {
      // A hub with its passphrase in server.json cannot open the new file yet.
      const isUnusable = state.data.server_json !== undefined || isKind(error, "wrongPassphrase");
      return isUnusable ? await this.#revertOrStay(error) : await this.#stay(error);
    }
    await state.write("starting").catch(() => undefined);
    await this.#start();
    const failure = this.#downtime?.startFailure;
    return failure ? await this.#revertOrStay(failure) : await this.#complete();
  }

  /** Removes the old file, which may be plain text, also without the keyring. */
  async #continueCleanup(): Promise<Recovery> {
    try {
      await assertOpens(this.#state);
    } catch (error) {
      if (isKind(error, "wrongPassphrase")) return await this.#revertOrStay(error);
      if (!isKind(error, "passphraseUnavailable")) throw error;
    }
    return await this.#complete();
  }

  async #complete(): Promise<Recovery> {
    await this.#state.removeReplaced();
    return { messages: [...this.#messages, `finished the interrupted ${this.#state.operation}`] };
  }

  /** @param cause - why the swap is not finished */
  async #revertOrStay(cause: unknown): Promise<Recovery> {
    const { operation, data } = this.#state;
    // A failed restore is put back even if the hub has written to the restored store in these
    // seconds: the replaced store is worth more than these writes.
    const mayLoseWrites = this.#failed && operation === "restore" && data.aside !== null;
    if (mayLoseWrites || (await this.#state.canRevert())) {
      return await this.#revert({ cause, mayLoseWrites: mayLoseWrites ?? false });
    }
    return await this.#stay(isKind(cause, "wrongPassphrase") ? addHint(cause, lostHint) : cause);
  }

  async #revert({
    cause,
    mayLoseWrites = false,
  }: {
    cause?: unknown;
    mayLoseWrites?: boolean;
  } = {}): Promise<Recovery> {
    const state = this.#state;
    await state.write("reverting");
    if (!(await state.isPutBack())) {
      await this.#downtime?.stop();
      await state.assertRevertible(mayLoseWrites);
    }
    await state.putBack();
    const error = await restorePassphrase(state).then(
      () => undefined,
      (failure: unknown) => systemError(failure, "cannot restore the old passphrase"),
    );
    await this.#start();
    if (error) return this.#result({ error }, cause, putBackOutcome);
    await state.writeUndone(this.#isDown);
    const cleanupPending = await state.cleanUpUndone(this.#isDown);
    this.#messages.push(`put back the store that the interrupted ${state.operation} had replaced`);
    return this.#result({ cleanupPending }, cause, putBackOutcome);
  }

  /** Leaves the new file in place and the rest to the next recovery. */
  async #stay(cause: unknown): Promise<Recovery> {
    await this.#start();
    return this.#result({}, cause, "the new file is in place");
  }

  async #start(options?: { restartIfUp: boolean }): Promise<void> {
    if (this.#downtime) this.#messages.push(...(await start(this.#state, this.#downtime, options)));
  }

  get #isDown(): boolean {
    return this.#downtime?.startFailure !== undefined;
  }

  /**
   * @param cause - why the swap failed or is not finished; undefined if only a kill interrupted it
   * @param outcome - which file is in place
   */
  #result(
    left: Pick<Recovery, "error" | "cleanupPending">,
    cause: unknown = this.#failed?.failure,
    outcome?: string,
  ): Recovery {
    const recovery = {
      ...left,
      messages: this.#messages,
      serviceDown: this.#downtime?.startFailure,
    };
    if (cause === undefined) return recovery;
    const error = toError(cause, recovery, outcome);
    // After a kill, a service that is down does not block commands that only open the store.
    const isOnlyDown = !this.#failed && recovery.serviceDown && !left.error;
    return isOnlyDown ? { ...recovery, serviceDown: error } : { ...recovery, error };
  }
}

const putBackOutcome = "the replaced store was put back";

function toError(cause: unknown, recovery: Recovery, outcome?: string) {
  return systemError(withRecovery(cause, recovery, outcome), "unexpected error", "failed");
}

/** Starts the service, and by default restarts it if it may have opened the replaced file. */
async function start(
  state: SwapState,
  downtime: Downtime,
  options = { restartIfUp: state.data.committed !== undefined },
): Promise<string[]> {
  await state.leaveCommit();
  return await endDowntime(downtime, state.operation, options);
}
