/**
 * The service's absence during an operation: what is tried before it, what the journal says of it, and what ends one
 * that was left by a kill.
 */
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { holdersOf, lastingHolders, nameHolders } from "../service/holders.js";
import { type ServiceChoice, selectService } from "../service/select.js";
import type { RestartTimer, Service, Started } from "../service/service.js";
import * as z from "../zod.js";
import type { Reporter } from "./reporter.js";

/**
 * A process that is ending may hold the store for a moment longer than its unit, and so may a command that was at work
 * before the stop: looked at 60 times, 50 ms apart.
 */
const holderLooks = 60;
const holderPauseMs = 50;

/** A hub that was started just now opens its store seconds later on a small board: looked for 300 times, 100 ms apart. */
const openingLooks = 300;
const openingPauseMs = 100;

/** The service that has the store open, and what is known of it before anything is begun. */
export interface KnownService {
  readonly service: Service;
  readonly choice: ServiceChoice;
  readonly wasActive: boolean;
}

/** What `--json` says about the service. */
export interface ServiceReport {
  readonly unit: string | null;
  readonly was_active: boolean;
  readonly active: boolean;
  /** Milliseconds from asking it to stop until it was up again; null if it was not stopped. */
  readonly stopped_ms: number | null;
}

/** A service as a journal names it, from before it is stopped until it was seen to run again. */
export const stoppedSchema = z.strictObject({
  service: z.enum(["systemd-user", "systemd", "launchd", "command", "none"]),
  unit: z.string(),
  stop_command: z.optional(z.string()),
  start_command: z.optional(z.string()),
  dependents: z.array(z.string()),
  /** The dead-man timer's name, from before it is armed. */
  timer: z.optional(z.string()),
});

export type Stopped = z.infer<typeof stoppedSchema>;

/**
 * Finds the store's service and tries everything that stopping and starting it will need.
 *
 * @throws StoreError what `selectService` and `Service.check` throw; `inUse` if anybody else has the store open.
 */
export async function knowService(
  choice: ServiceChoice,
  reporter: Reporter,
): Promise<KnownService> {
  const { storePath } = choice;
  const service = await selectService(choice);
  for (const notice of await service.check(storePath)) reporter.notice(notice);
  const { active } = await service.state();
  const { holders: others, complete } = await lastingHolders(
    storePath,
    async ({ pid }) => !(await service.owns(pid)),
  );
  if (others.length > 0) {
    throw new StoreError("inUse", `${storePath} is open in ${nameHolders(others)}`, {
      hint: "stop that first, or name the service that it belongs to (--unit); nothing was stopped",
    });
  }
  if (!complete) {
    reporter.notice(
      `other users' processes cannot be looked into: if one of them has ${storePath} open, this does not know`,
    );
  }
  return { service, choice, wasActive: active };
}

/** What a journal says of a service that is about to be stopped. */
export function stoppedOf(
  { service, choice }: KnownService,
  dependents: readonly string[],
  timer?: string | null,
): Stopped {
  return {
    service: service.kind,
    unit: choice.unit,
    stop_command: choice.stopCommand,
    start_command: choice.startCommand,
    dependents: [...dependents],
    ...(timer && { timer }),
  };
}

/** The service of a journal. */
export function stoppedService(stopped: Stopped, storePath: string): Promise<Service> {
  return selectService({
    service: stopped.service,
    unit: stopped.unit,
    stopCommand: stopped.stop_command,
    startCommand: stopped.start_command,
    storePath,
  });
}

/**
 * Starts a service that was stopped, unless its timer has done so where starting twice would start two of it. The timer is
 * to be disarmed afterwards: that tells whether it went off.
 *
 * That somebody has the store open does not say that the service runs: it may be a program that came in between, because of
 * which the work failed, and the service would stay down. So it is the watcher that is asked. One that is at it is waited
 * for; its start command may have failed, and then nobody opens the store.
 *
 * @throws StoreError `service` if it did not start.
 */
export async function startOnce(
  service: Service,
  storePath: string,
  dependents: readonly string[],
  timer: RestartTimer | undefined,
): Promise<Started> {
  if (service.kind === "command" && timer && (await timer.disarm()).fired) {
    for (let looks = 0; looks < openingLooks; looks++) {
      if (await isBack(service, storePath)) return { upAt: performance.now(), wasUp: true };
      await delay(openingPauseMs);
    }
  }
  return service.start(dependents);
}

/**
 * Ends an absence that was left by a kill: starts the service unless it runs (its timer may have come first), and takes
 * back the timer.
 *
 * @returns whether it was started here.
 * @throws StoreError `service` if it did not start.
 */
export async function endAbsence(stopped: Stopped, storePath: string): Promise<boolean> {
  const service = await stoppedService(stopped, storePath);
  const active = await isBack(service, storePath);
  if (!active) await service.start(stopped.dependents);
  // Left armed, it might start the service in the middle of the next operation.
  if (stopped.timer !== undefined) await service.disarmRestart(stopped.timer);
  return !active;
}

/**
 * Whether a service that was stopped runs again. Of one with commands of its own, to which whoever cannot be looked into
 * counts as running, somebody must be seen to have the store open: it would stay down for good otherwise.
 */
async function isBack(service: Service, storePath: string): Promise<boolean> {
  if (service.kind === "command") return (await holdersOf(storePath)).holders.length > 0;
  return (await service.state()).active;
}

/**
 * Stops a service that may be down already, which a stop command may call a failure: whoever is seen to have the store
 * open counts.
 *
 * @throws StoreError `service` if it does not stop.
 */
export async function stopIfUp(service: Service, storePath: string): Promise<void> {
  try {
    await service.stop();
  } catch (error) {
    if (service.kind !== "command" || (await isBack(service, storePath))) throw error;
  }
}

/** @throws StoreError `inUse` if anybody still has the store open although its service is stopped. */
export async function refuseHolders(
  storePath: string,
  options: { except?: readonly number[] } = {},
): Promise<void> {
  for (let looks = 1; ; looks++) {
    const { holders } = await holdersOf(storePath, options);
    if (holders.length === 0) return;
    if (looks === holderLooks) {
      throw new StoreError(
        "inUse",
        `${storePath} is open in ${nameHolders(holders)} although its service is stopped`,
        { hint: "stop that too, then try again" },
      );
    }
    await delay(holderPauseMs);
  }
}
