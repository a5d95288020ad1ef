/**
 * The service's downtime during an operation: what is tried before it, what the journal says of it, and what ends one
 * that was left by a kill.
 */
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { findHolders, findLastingHolders, formatHolders } from "../process/holders.js";
import type { Reporter } from "../reporter.js";
import * as z from "../schema.js";
import { hintForHolders, type ServiceChoice, selectService } from "../service/select.js";
import {
  defaultUnit,
  newRestartName,
  type RestartTimer,
  type Service,
  type Started,
} from "../service/service.js";
import { downStep, Journal } from "./journal.js";

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
export interface ResolvedService {
  readonly service: Service;
  readonly choice: ServiceChoice;
  readonly wasActive: boolean;
  /** It is down because an interrupted operation has stopped it: whoever works now has to start it. */
  readonly pendingRestart?: PendingRestart | undefined;
}

/** A service that could not be started yet, and the journal in which that is all. */
export interface PendingRestart {
  readonly journal: Journal;
  readonly stopped: Stopped;
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
  service: z.enum(["systemd-user", "systemd", "command", "none"]),
  unit: z.string(),
  stop_command: z.optional(z.string()),
  start_command: z.optional(z.string()),
  dependents: z.array(z.string()),
  /** The dead-man timer's name, from before it is armed. */
  timer: z.optional(z.string()),
});

export type Stopped = z.infer<typeof stoppedSchema>;

const pendingRestartSchema = z.strictObject({ stopped: stoppedSchema });

/** What settling has left: a service that it could not start, if that is all. Hold the operation lock. */
export async function findPendingRestart(storePath: string): Promise<PendingRestart | undefined> {
  const journal = await Journal.read(storePath);
  if (journal?.entry.step !== downStep) return undefined;
  return { journal, ...journal.dataAs(pendingRestartSchema) };
}

/**
 * Finds the store's service and tries everything that stopping and starting it will need.
 *
 * @param pendingRestart one that is down is the store's, whatever the choice.
 * @throws StoreError what `selectService` and `Service.check` throw; `inUse` if anybody else has the store open.
 */
export async function resolveService(
  chosen: ServiceChoice,
  reporter: Reporter,
  pendingRestart?: PendingRestart,
): Promise<ResolvedService> {
  const { storePath } = chosen;
  const choice = pendingRestart ? choiceOf(pendingRestart.stopped, storePath) : chosen;
  const service = await selectService(choice);
  for (const notice of await service.check(storePath)) reporter.notice(notice);
  const { active } = await service.state();
  const { holders: others, complete } = await findLastingHolders(
    storePath,
    async ({ pid }) => !(await service.owns(pid)),
  );
  if (others.length > 0) {
    throw new StoreError("inUse", `${storePath} is open in ${formatHolders(others)}`, {
      hint: `${await hintForHolders(others)} Nothing was stopped.`,
    });
  }
  if (!complete && !active && (await mayOthersOpen(storePath))) {
    reporter.notice(
      `processes of other users cannot be inspected: if one of them has ${storePath} open, it is not stopped`,
    );
  }
  if (service.isDiscovered) {
    reporter.notice(`the hub of ${storePath} is the unit ${service.name} (${service.kind})`);
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
 * A service's downtime while an operation is at work. Whoever makes one journals what is stopped, arms, stops, and starts and
 * disarms again, whatever has failed since.
 */
export class Downtime {
  /** What the journal has to say before `arm`. */
  readonly stopped: Stopped;
  readonly #service: Service;
  readonly #storePath: string;
  readonly #isOwed: boolean;
  readonly #timerName = newRestartName();
  /** The run of the service before the stop; undefined if its kind does not identify runs. */
  readonly #invocation: string | undefined;
  #timer: RestartTimer | undefined;
  #stoppedAt = 0;
  #isStopBegun = false;

  private constructor(
    { service, choice, pendingRestart }: ResolvedService,
    dependents: readonly string[],
    invocation: string | undefined,
  ) {
    this.#service = service;
    this.#invocation = invocation;
    this.#isOwed = pendingRestart !== undefined;
    this.#storePath = choice.storePath;
    this.stopped = {
      service: service.kind,
      unit: service.name ?? choice.unit ?? defaultUnit,
      stop_command: choice.stopCommand,
      start_command: choice.startCommand,
      dependents: [...dependents],
      timer: this.#timerName,
    };
  }

  /** That of a service which runs, or is pendingRestart: looks at what is stopped with it. Nothing has happened to it yet. */
  static async of(known: ResolvedService): Promise<Downtime> {
    const dependents = await known.service.activeDependents();
    const { invocation } = await known.service.state();
    const all = new Set([...(known.pendingRestart?.stopped.dependents ?? []), ...dependents]);
    return new Downtime(known, [...all], invocation);
  }

  /**
   * Arms the dead-man timer.
   *
   * @param workMs what the work may take, beyond the stop itself.
   * @param recoveryCommand a program and its arguments that finish or undo the operation.
   * @throws StoreError `service` if that is not possible.
   */
  async arm(workMs: number, recoveryCommand: readonly string[]): Promise<void> {
    this.#timer = await this.#service.armRestart({
      afterMs: this.#service.stopTimeoutMs + workMs,
      command: recoveryCommand,
      name: this.#timerName,
    });
  }

  /** Whether this or an earlier operation has begun a stop that was not denied. */
  get hasBegun(): boolean {
    return this.#isOwed || this.#isStopBegun;
  }

  /** @throws StoreError `service` if it does not stop; it may be half stopped then. */
  async stop(): Promise<void> {
    this.#stoppedAt = performance.now();
    this.#isStopBegun = true;
    if (this.#isOwed) return stopIfActive(this.#service, this.#storePath);
    try {
      await this.#service.stop();
    } catch (error) {
      this.#isStopBegun = !(await this.#isUntouched());
      throw error;
    }
  }

  /**
   * Returns whether the stop was denied: the same run goes on, and no stop is queued that ends it
   * later. A manager that denies the stop to this user also denies the start, so no start is owed
   * then. With dependents, some may be stopped already.
   */
  async #isUntouched(): Promise<boolean> {
    if (this.#invocation === undefined || this.stopped.dependents.length > 0) return false;
    const state = await this.#service.state().catch(() => undefined);
    return state?.active === true && !state.hasJob && state.invocation === this.#invocation;
  }

  /**
   * Starts the service, unless its timer has done so where starting twice would start two of it. `disarm` is to follow.
   *
   * That somebody has the store open does not say that the service runs: it may be a program that came in between, because
   * of which the work failed, and the service would stay down. So it is the watcher that is asked. One that is at it is
   * waited for; its start command may have failed, and then nobody opens the store.
   *
   * @throws StoreError `service` if it did not start.
   */
  async start(): Promise<Started> {
    if (!this.hasBegun) return { upAt: performance.now(), wasUp: false };
    if (this.#service.kind === "command" && (await this.disarm())) {
      for (let looks = 0; looks < openingLooks; looks++) {
        if (await isRunningAgain(this.#service, this.#storePath)) {
          return { upAt: performance.now(), wasUp: true };
        }
        await delay(openingPauseMs);
      }
    }
    return this.#service.start(this.stopped.dependents);
  }

  /** Stops it once more, and starts it: what runs may have begun on a file that is gone. */
  async restart(): Promise<Started> {
    await this.#service.stop();
    return this.#service.start(this.stopped.dependents);
  }

  /** Takes back the timer. @returns whether it went off before. */
  async disarm(): Promise<boolean> {
    return (await this.#timer?.disarm())?.fired ?? false;
  }

  /** Whether something has started it since it was stopped. */
  hasEnded(): Promise<boolean> {
    return isRunningAgain(this.#service, this.#storePath);
  }

  /** How long it took until the service was up again, in whole milliseconds. */
  durationMs({ upAt }: Started): number {
    return Math.round(upAt - this.#stoppedAt);
  }
}

function choiceOf(stopped: Stopped, storePath: string): ServiceChoice {
  return {
    service: stopped.service,
    unit: stopped.unit,
    stopCommand: stopped.stop_command,
    startCommand: stopped.start_command,
    storePath,
  };
}

/** The service of a journal. */
export function resolveStoppedService(stopped: Stopped, storePath: string): Promise<Service> {
  return selectService(choiceOf(stopped, storePath));
}

/**
 * Ends an downtime that was left by a kill: starts the service unless it runs (its timer may have come first), and takes
 * back the timer.
 *
 * @returns what was started here, by the name that a message gives it; undefined if it ran already.
 * @throws StoreError `service` if it did not start.
 */
export async function endDowntime(
  stopped: Stopped,
  storePath: string,
): Promise<string | undefined> {
  const service = await resolveStoppedService(stopped, storePath);
  const active = await isRunningAgain(service, storePath);
  if (!active) await service.start(stopped.dependents);
  // Left armed, it might start the service in the middle of the next operation.
  if (stopped.timer !== undefined) await service.disarmRestart(stopped.timer);
  return active ? undefined : (service.name ?? "the service");
}

/**
 * Whether a service that was stopped runs again. Of one with commands of its own, to which whoever cannot be looked into
 * counts as running, somebody must be seen to have the store open: it would stay down for good otherwise.
 */
async function isRunningAgain(service: Service, storePath: string): Promise<boolean> {
  if (service.kind === "command") return (await findHolders(storePath)).holders.length > 0;
  return (await service.state()).active;
}

/**
 * Stops a service that may be down already, which a stop command may call a failure: whoever is seen to have the store
 * open counts.
 *
 * @throws StoreError `service` if it does not stop.
 */
export async function stopIfActive(service: Service, storePath: string): Promise<void> {
  try {
    await service.stop();
  } catch (error) {
    if (service.kind !== "command" || (await isRunningAgain(service, storePath))) throw error;
  }
}

/** @throws StoreError `inUse` if anybody still has the store open although its service is stopped. */
export async function assertNoHolders(
  storePath: string,
  options: { except?: readonly number[] } = {},
): Promise<void> {
  for (let looks = 1; ; looks++) {
    const { holders } = await findHolders(storePath, options);
    if (holders.length === 0) return;
    if (looks === holderLooks) {
      throw new StoreError(
        "inUse",
        `${storePath} is open in ${formatHolders(holders)} although its service is stopped`,
        { hint: "stop that too, then try again" },
      );
    }
    await delay(holderPauseMs);
  }
}
