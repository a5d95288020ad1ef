/**
 * Stops the hub for a part of setup.
 *
 * After a kill, the service in the journal must be started, and nothing else: while the record is
 * not complete, the hub's unit starts on the database named in `server.json`.
 */
import { hubContainer } from "../config/hub-account.js";
import { isKind, StoreError, systemError } from "../errors.js";
import { removeFile } from "../fs/atomic.js";
import type { Downtime, Restart } from "../operation/downtime.js";
import { Journal, setupOperation } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import {
  type OperationFailure,
  orRecover,
  recoverStop,
  withRecovery,
} from "../operation/recovery-parts.js";
import { resolveService } from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import { baseBudgetMs, reportService, withServiceStopped } from "../operation/window.js";
import type { Reporter } from "../reporter.js";
import { createLimitMs } from "../service/compose.js";
import { copyUnitOf, renewCopy, renewLimitMs } from "../service/copy-unit.js";
import type { ServiceChoice } from "../service/select.js";
import type { Service } from "../service/service.js";
import { type Outage, toOutage } from "./serving.js";

/** Includes the time to create the container of compose again and to write its copy. */
const composeBudgetMs = baseBudgetMs + createLimitMs + renewLimitMs;

export interface HubWindow {
  readonly lock: OperationLock;
  readonly service: ServiceChoice;
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
  /** Creates the container of the hub again, before `work`. */
  readonly createContainer?: (() => Promise<void>) | undefined;
  /** Runs while the hub is stopped. Its last step switches the hub to the result. */
  readonly work: () => Promise<void>;
  /**
   * Reverts `work`, so that the hub starts as before.
   *
   * @returns the state, for the error message; undefined if nothing had to be reverted
   */
  readonly revert: () => Promise<string | undefined>;
  /**
   * Waits until the started hub works.
   *
   * @throws {@link StoreError} service - if the hub does not work
   */
  readonly waitUntilServing: (service: Service, restart: Restart) => Promise<void>;
  /** Whether to run `work` although the hub does not run. The hub is not started then. */
  readonly mayBeStopped: boolean;
}

/**
 * Stops the hub, runs `work`, and starts the hub again, also after a failure. If the hub does not
 * work then, reverts `work` and starts the hub as before.
 *
 * @returns the outage; null if the hub did not run
 * @throws {@link StoreError} service - if the hub did not work, or did not start
 * @throws what `work` throws
 */
export async function withHubStopped(window: HubWindow): Promise<Outage | null> {
  const { lock, reporter, recoveryCommand, signal } = window;
  const { storePath } = lock;
  // The hub need not use the store yet, so the notice about this is a detail here.
  const service = await resolveService(window.service, { ...reporter, notice: reporter.detail });
  const assertRuns = (isRunning: boolean) => {
    if (isRunning || window.mayBeStopped) return;
    throw new StoreError("service", `${service.service.name ?? "the hub"} is not running`, {
      hint: "Start it, then run setup again.",
    });
  };
  assertRuns(service.wasActive);
  const isComposed = hubContainer()?.compose !== undefined;
  const budgetMs = isComposed ? composeBudgetMs : baseBudgetMs;
  // A recovery writes the copy of `server.json` for the container.
  const mark = isComposed ? { container: true } : {};
  const journal = await Journal.begin(storePath, setupOperation, "stopping", mark);
  const { result: downtime, restart } = await withServiceStopped(
    {
      service,
      budgetMs,
      recoveryCommand,
      reporter,
      signal,
      // If something else has started the hub during `work`, it may use its former database.
      restartIfUp: true,
      journalStop: async (stopped) => {
        // The hub may have ended since.
        assertRuns(stopped !== undefined);
        if (stopped) await journal.write("stopping", { ...mark, stopped });
        emitStep("setup.stopping");
      },
      onArmed: () => emitStep("setup.armed"),
      recover: (failed) =>
        startAsBefore(window, journal, failed, failed.downtime?.startFailure !== undefined),
    },
    async (stopped) => {
      emitStep("setup.stopped");
      await window.createContainer?.();
      await removeCopyOfCompose(storePath);
      await window.work();
      await renewCopyOfCompose(storePath);
      emitStep("setup.worked");
      return stopped;
    },
  );
  emitStep("setup.started");
  await orRecover(
    async () => restart && window.waitUntilServing(service.service, restart),
    ({ failure }) => startAsBefore(window, journal, { failure, downtime }, true),
  );
  await journal.remove();
  return toOutage(await reportService(service, restart, reporter));
}

/**
 * Reverts `work`, and starts the hub as before.
 *
 * @param wasStarted - whether the hub was started on the new database, or failed to start on it
 * @returns the error to throw
 */
async function startAsBefore(
  { revert, lock }: HubWindow,
  journal: Journal,
  failed: OperationFailure,
  wasStarted: boolean,
): Promise<unknown> {
  const { failure, downtime } = failed;
  const { storePath } = lock;
  let outcome: string | undefined;
  try {
    if (wasStarted && downtime) await stopAgain(downtime);
    await removeCopyOfCompose(storePath);
    outcome = await revert();
    await renewCopyOfCompose(storePath);
  } catch (error) {
    outcome = systemError(error, "the former database could not be restored").message;
  }
  const recovery = await recoverStop(journal, storePath, failed);
  return withRecovery(failure, recovery, outcome);
}

/**
 * Removes the copy, which names the database that the hub leaves: if no other copy can be written,
 * the container must not start on that database. New clients there would be missing from the other.
 */
async function removeCopyOfCompose(storePath: string): Promise<void> {
  if (hubContainer()?.compose) await removeFile(copyUnitOf(storePath).copy);
}

/** Writes the copy for a container of compose. A quadlet's unit writes it at each start. */
async function renewCopyOfCompose(storePath: string): Promise<void> {
  if (hubContainer()?.compose) await renewCopy(storePath);
}

/** Stops the unit, which may be waiting for its next start after a failed start. */
async function stopAgain(downtime: Downtime): Promise<void> {
  await downtime.stop().catch((error: unknown) => {
    if (!isKind(error, "service")) throw error;
  });
}
