/**
 * The moment in which setup has stopped the hub.
 *
 * A kill in it needs no undoing: while the record says that setup is in progress, the hub's unit
 * starts on whichever database `server.json` names. So its journal holds only the stopped service.
 */
import { setTimeout as delay } from "node:timers/promises";
import { isKind, StoreError, systemError } from "../errors.js";
import type { Downtime } from "../operation/downtime.js";
import { Journal, setupOperation } from "../operation/journal.js";
import type { OperationLock } from "../operation/lock.js";
import { type OperationFailure, recoverStop, withRecovery } from "../operation/recovery.js";
import { type ResolvedService, resolveService } from "../operation/service.js";
import { emitStep } from "../operation/step.js";
import { withServiceStopped } from "../operation/window.js";
import type { Reporter } from "../reporter.js";
import type { ServiceChoice } from "../service/select.js";

/** The restart timer allows this much for the work, beyond the stop itself. */
const budgetMs = 60_000;

/** A hub opens its database after Python's imports, which take seconds on a small board. */
const servingLimitMs = 120_000;
const servingPauseMs = 100;

export interface Window {
  readonly lock: OperationLock;
  readonly service: ServiceChoice;
  readonly recoveryCommand: readonly string[];
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
  /** What is done while the hub is stopped. The last thing it does lets the hub use the result. */
  readonly work: () => Promise<void>;
  /** Takes back what `work` did, so that the hub starts as before. */
  readonly putBack: () => Promise<void>;
  /** Returns whether the hub serves; always true where that cannot be seen. */
  readonly isServing: () => Promise<boolean>;
  /** Whether to work although the hub does not run; it is not started then. */
  readonly mayBeStopped: boolean;
}

/** How long the hub was away, in milliseconds. */
export interface Outage {
  /** From the request to stop until the unit was started again. */
  readonly stopped_ms: number;
  /** From the request to stop until the hub had opened its database. */
  readonly serving_ms: number;
}

/**
 * Stops the hub, works, and starts it again, whatever failed. If the hub does not serve then, takes
 * back the work and starts it as it was.
 *
 * @returns undefined if the hub did not run
 * @throws {@link StoreError} service - if the hub did not serve, or did not start
 * @throws what `work` throws
 */
export async function whileStopped(window: Window): Promise<Outage | undefined> {
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
  const begun = performance.now();
  emitStep("setup.started");
  try {
    if (restart) await assertServing(window, service);
  } catch (failure) {
    throw await startAsBefore(window, journal, { failure, downtime }, true);
  }
  await journal.remove();
  if (!restart) return undefined;
  const { downtimeMs } = restart;
  return { stopped_ms: downtimeMs, serving_ms: downtimeMs + Math.round(performance.now() - begun) };
}

/** @throws {@link StoreError} service - if the hub ends, or has not opened its database in time */
async function assertServing({ isServing }: Window, { service }: ResolvedService): Promise<void> {
  const name = service.name ?? "the hub";
  const deadline = performance.now() + servingLimitMs;
  while (!(await isServing())) {
    const { active, restarting } = await service.state();
    if (!active || restarting) throw new StoreError("service", `${name} started and ended again`);
    if (performance.now() > deadline) {
      throw new StoreError(
        "service",
        `${name} runs, but did not open the encrypted store in ${servingLimitMs / 1000} s`,
      );
    }
    await delay(servingPauseMs);
  }
}

/**
 * Takes back the work and starts the hub as it was before.
 *
 * @param wasStarted - whether the hub was started on the new database, or failed to start on it
 * @returns the error to throw
 */
async function startAsBefore(
  { putBack, lock }: Window,
  journal: Journal,
  failed: OperationFailure,
  wasStarted: boolean,
): Promise<unknown> {
  const { failure, downtime } = failed;
  let problem: unknown;
  try {
    if (wasStarted && downtime) await stopAgain(downtime);
    await putBack();
  } catch (error) {
    problem = error;
  }
  const recovery = await recoverStop(journal, lock.storePath, failed);
  const outcome =
    problem === undefined
      ? "the hub uses its former database"
      : systemError(problem, "the former database could not be restored").message;
  return withRecovery(failure, recovery, outcome);
}

/** A start that failed may leave the unit waiting for its next start. */
async function stopAgain(downtime: Downtime): Promise<void> {
  await downtime.stop().catch((error: unknown) => {
    if (!isKind(error, "service")) throw error;
  });
}
