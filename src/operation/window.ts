/** The service window: the part of an operation while the store's service is stopped. */
import { throwIfAborted } from "../process/abort.js";
import type { Reporter } from "../reporter.js";
import { Downtime, type Restart } from "./downtime.js";
import { type OperationFailure, orRecover } from "./recovery-parts.js";
import type { ResolvedService, ServiceReport, Stopped } from "./service.js";

/**
 * Time for the work of most operations until the restart timer starts the service, in addition to
 * the time limit of its stop.
 */
export const baseBudgetMs = 60_000;

export interface ServiceWindow {
  readonly service: ResolvedService;
  /**
   * Time limit of the work in milliseconds. The restart timer fires after the time limit of the
   * stop and this limit.
   */
  readonly budgetMs: number;
  /** The argument list of the restart timer's command, to recover. */
  readonly recoveryCommand: readonly string[];
  readonly reporter: Pick<Reporter, "detail">;
  readonly signal: AbortSignal | undefined;
  /** Whether a service started by something else during the work is restarted. */
  readonly restartIfUp?: boolean;
  /**
   * Journals the stop before anything happens to the service. Gets undefined if there is nothing to
   * stop.
   */
  readonly journalStop: (stopped: Stopped | undefined) => Promise<void>;
  readonly onArmed?: () => void;
  /**
   * Recovers the operation after a failure, with the same code as after a kill. It starts the
   * service as soon as the store's file allows it.
   *
   * @returns the error to throw
   */
  readonly recover: (failed: OperationFailure) => Promise<unknown>;
}

/**
 * Stops the service, runs `work`, starts the service and cancels the restart timer.
 *
 * If the service is down and no restart is pending, only journals this and runs the work.
 *
 * @param work - gets the downtime; undefined if there is nothing to stop
 * @returns the result of `work`, and how the downtime ended; undefined without a downtime
 * @throws what `window.recover` returns
 */
export async function withServiceStopped<Result>(
  window: ServiceWindow,
  work: (downtime: Downtime | undefined) => Promise<Result>,
): Promise<{ result: Result; restart: Restart | undefined }> {
  const { service, budgetMs, recoveryCommand, reporter, signal, restartIfUp = false } = window;
  let downtime: Downtime | undefined;
  const run = async () => {
    throwIfAborted(signal);
    downtime = await Downtime.prepare(service);
    await window.journalStop(downtime?.stopped);
    if (downtime) {
      await downtime.arm(budgetMs, recoveryCommand);
      window.onArmed?.();
      throwIfAborted(signal);
      reporter.detail(`stopping ${downtime.name}`);
      // The stop is not interruptible: an abandoned stop could take effect after the start.
      await downtime.stop();
    }
    const result = await work(downtime);
    return { result, restart: await downtime?.end({ restartIfUp }) };
  };
  return await orRecover(run, ({ failure }) => window.recover({ failure, downtime }));
}

/**
 * Waits until the service listens on its ports again, and returns the report about it. Without a
 * downtime, the service was down.
 *
 * Call it when the operation is complete: a hub takes seconds until it listens.
 */
export async function reportService(
  { service, wasActive }: Pick<ResolvedService, "service" | "wasActive">,
  restart: Restart | undefined,
  reporter: Pick<Reporter, "notice">,
): Promise<ServiceReport> {
  // The timers of `listeningMs` do not keep the process alive.
  const keepAlive = setInterval(() => undefined, 60_000);
  const listeningMs = await restart?.listeningMs;
  clearInterval(keepAlive);
  if (restart && restart.ports.length > 0 && listeningMs === undefined) {
    reporter.notice(
      `${service.name ?? "the service"} runs, but does not listen on ${restart.ports.map((port) => `port ${port}`).join(" and ")} as before`,
    );
  }
  return {
    unit: service.name,
    wasActive,
    active: restart !== undefined,
    stoppedMs: restart?.downtimeMs ?? null,
    listeningMs: listeningMs ?? null,
  };
}
