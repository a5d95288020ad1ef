/**
 * Stops the hub for a part of setup.
 *
 * A kill leaves nothing but the stopped service, which the journal names: while the record says
 * that setup is in progress, the hub's unit starts on the database that `server.json` names.
 */
import { isKind, StoreError, systemError } from "../errors.js";
import type { Downtime, Restart } from "../operation/downtime.js";
import { Journal, setupOperation } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import { type OperationFailure, recoverStop, withRecovery } from "../operation/recovery.js";
import { resolveService } from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import { reportService, withServiceStopped } from "../operation/window.js";
import type { Reporter } from "../reporter.js";
import type { ServiceChoice } from "../service/select.js";
import type { Service } from "../service/service.js";
import { type Outage, toOutage } from "./serving.js";

/** The restart timer allows this much for the work, beyond the stop itself. */
const budgetMs = 60_000;

export interface HubWindow {
  readonly lock: OperationLock;
  readonly service: ServiceChoice;
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
  /** What is done while the hub is stopped. The last thing it does lets the hub use the result. */
  readonly work: () => Promise<void>;
  /**
   * Takes back what `work` did, so that the hub starts as before.
   *
   * @returns the state, for the error message; undefined if nothing had to be taken back
   */
  readonly revert: () => Promise<string | undefined>;
  /**
   * Waits until the started hub works.
   *
   * @throws {@link StoreError} service - if it does not
   */
  readonly waitUntilServing: (service: Service, restart: Restart) => Promise<void>;
  /** Whether to work although the hub does not run; it is not started then. */
  readonly mayBeStopped: boolean;
}

/**
 * Stops the hub, works, and starts it again, whatever failed. If the hub does not serve then, takes
 * back the work and starts it as it was.
 *
 * @returns null if the hub did not run
 * @throws {@link StoreError} service - if the hub did not serve, or did not start
 * @throws what `work` throws
 */
export async function withHubStopped(window: HubWindow): Promise<Outage | null> {
  const { lock, reporter, recoveryCommand, signal } = window;
  const { storePath } = lock;
  // The hub does not use the store yet, which `check` would report.
  const service = await resolveService(window.service, { ...reporter, notice: reporter.detail });
  if (!service.wasActive && !window.mayBeStopped) {
    throw new StoreError("service", `${service.service.name ?? "the hub"} is not running`, {
      hint: "Start it, then run setup again.",
    });
  }
  const journal = await Journal.begin(storePath, setupOperation, "stopping", {});
  const { result: downtime, restart } = await withServiceStopped(
    {
      ...{ service, budgetMs, recoveryCommand, reporter, signal },
      // A hub that something else started during the work may use its former database.
      restartIfUp: true,
      journalStop: async (stopped) => {
        if (stopped) await journal.write("stopping", { stopped });
        emitStep("setup.stopping");
      },
      onArmed: () => emitStep("setup.armed"),
      recover: (failed) =>
        startAsBefore(window, journal, failed, failed.downtime?.startFailure !== undefined),
    },
    async (stopped) => {
      emitStep("setup.stopped");
      await window.work();
      emitStep("setup.worked");
      return stopped;
    },
  );
  emitStep("setup.started");
  try {
    if (restart) await window.waitUntilServing(service.service, restart);
  } catch (failure) {
    throw await startAsBefore(window, journal, { failure, downtime }, true);
  }
  await journal.remove();
  return toOutage(await reportService(service, restart, reporter));
}

/**
 * Takes back the work and starts the hub as it was before.
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
  let outcome: string | undefined;
  try {
    if (wasStarted && downtime) await stopAgain(downtime);
    outcome = await revert();
  } catch (error) {
    outcome = systemError(error, "the former database could not be restored").message;
  }
  const recovery = await recoverStop(journal, lock.storePath, failed);
  return withRecovery(failure, recovery, outcome);
}

/** A start that failed may leave the unit waiting for its next start. */
async function stopAgain(downtime: Downtime): Promise<void> {
  await downtime.stop().catch((error: unknown) => {
    if (!isKind(error, "service")) throw error;
  });
}
