/** The store's service, for operations and their journals. */
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { findHolders, findLastingHolders, formatHolders } from "../process/holders.js";
import type { Reporter } from "../reporter.js";
import * as z from "../schema.js";
import { isEngine } from "../service/engine.js";
import { hintForHolders, type ServiceChoice, selectService } from "../service/select.js";
import type { Service } from "../service/service.js";
import { downStep, Journal } from "./journal.js";

/**
 * 60 attempts, 50 ms apart: a process of the service, or a command begun before the stop, may have
 * the store open for a moment after it.
 */
const holderAttempts = 60;
const holderPauseMs = 50;

/** The service of a store, and its state before the operation. */
export interface ResolvedService {
  readonly service: Service;
  readonly choice: ServiceChoice;
  readonly wasActive: boolean;
  /** Set if an interrupted operation left the service down: this operation has to start it. */
  readonly pendingRestart?: PendingRestart | undefined;
}

/** A journal in which nothing is left but to start a service, and the service in it. */
export interface PendingRestart {
  readonly journal: Journal;
  readonly stopped: Stopped;
}

/** The service in the result of an operation. */
export interface ServiceReport {
  readonly unit: string | null;
  readonly wasActive: boolean;
  readonly active: boolean;
  /** Milliseconds from the request to stop until the service was up again; null without a stop. */
  readonly stoppedMs: number | null;
  /**
   * Milliseconds from the request to stop until the service listened on its TCP ports again; null
   * if it was not stopped, if its ports are unknown, or if it does not listen after 30 s.
   */
  readonly listeningMs: number | null;
}

/** The service in a journal, from before the stop until the service runs again. */
export const stoppedSchema = z.strictObject({
  service: z.enum(["systemd-user", "systemd", "podman", "docker", "command", "none"]),
  unit: z.string(),
  stop_command: z.optional(z.string()),
  start_command: z.optional(z.string()),
  dependents: z.array(z.string()),
  /** The name of the restart timer. It is journaled before the timer is armed. */
  timer: z.optional(z.string()),
  /**
   * The run to be stopped. For a `command` service: the ids of the processes that have the store
   * open. Absent if the service was down already.
   */
  invocation: z.optional(z.string()),
});

export type Stopped = z.infer<typeof stoppedSchema>;

const pendingRestartSchema = z.strictObject({ stopped: stoppedSchema });

/** Returns the pending restart, if the journal has nothing else. Requires the operation lock. */
export async function findPendingRestart(storePath: string): Promise<PendingRestart | undefined> {
  const journal = await Journal.read(storePath);
  if (journal?.entry.step !== downStep) return undefined;
  return { journal, ...journal.dataAs(pendingRestartSchema) };
}

/** Converts the service in a journal to a choice. */
export function toServiceChoice(stopped: Stopped, storePath: string): ServiceChoice {
  return {
    service: stopped.service,
    unit: stopped.unit,
    stopCommand: stopped.stop_command,
    startCommand: stopped.start_command,
    storePath,
  };
}

/**
 * Finds the store's service and checks in advance that it can be stopped and started.
 *
 * @param pendingRestart - its service takes precedence over `chosen`: it must be started again
 * @throws {@link StoreError} inUse - if a process outside the service keeps the store open
 * @throws {@link StoreError} - what `selectService` and `Service.check` throw
 */
export async function resolveService(
  chosen: ServiceChoice,
  reporter: Reporter,
  pendingRestart?: PendingRestart,
): Promise<ResolvedService> {
  const { storePath } = chosen;
  const choice = pendingRestart ? toServiceChoice(pendingRestart.stopped, storePath) : chosen;
  const service = await selectService(choice);
  for (const notice of await service.check(storePath)) reporter.notice(notice);
  const { active } = await service.state();
  const { holders: others, isComplete } = await findLastingHolders(
    storePath,
    async ({ pid }) => !(await service.owns(pid)),
  );
  if (others.length > 0) {
    throw new StoreError("inUse", `${storePath} is open in ${formatHolders(others)}`, {
      hint: `${await hintForHolders(others)} Nothing was stopped.`,
    });
  }
  if (!isComplete && !active && (await mayOthersOpen(storePath))) {
    reporter.notice(
      `processes of other users cannot be inspected: if one of them has ${storePath} open, it is not stopped`,
    );
  }
  if (service.isDiscovered) {
    const what = isEngine(service.kind) ? "container" : "unit";
    reporter.notice(`the hub of ${storePath} is the ${what} ${service.name} (${service.kind})`);
    await choice.remember?.(service);
  }
  return { service, choice, wasActive: active, pendingRestart };
}

/** Returns whether a process of another user, root excepted, may open the store. */
async function mayOthersOpen(storePath: string): Promise<boolean> {
  const stats = await lstatIfExists(storePath);
  if (stats === undefined) return false;
  return (Number(stats.mode) & 0o077) !== 0 || Number(stats.uid) !== process.geteuid?.();
}

/**
 * Waits until no process has the store open, after its service has stopped.
 *
 * @throws {@link StoreError} inUse - if a process keeps the store open
 */
export async function assertNoHolders(
  storePath: string,
  options: { except?: readonly number[] } = {},
): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    const { holders } = await findHolders(storePath, options);
    if (holders.length === 0) return;
    if (attempt === holderAttempts) {
      throw new StoreError(
        "inUse",
        `${storePath} is open in ${formatHolders(holders)} although its service is stopped`,
        { hint: "Stop that program too, then try again." },
      );
    }
    await delay(holderPauseMs);
  }
}
