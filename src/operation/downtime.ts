/** The downtime of the store's service during an operation. */
import { setTimeout as delay } from "node:timers/promises";
import { type StoreError, systemError } from "../errors.js";
import { findHolders } from "../process/holders.js";
import { listListeningPorts, waitUntilListening } from "../process/ports.js";
import { selectService } from "../service/select.js";
import {
  defaultUnit,
  newRestartName,
  type RestartTimer,
  type Service,
  type Started,
} from "../service/service.js";
import { assertNoHolders, type ResolvedService, type Stopped, toServiceChoice } from "./service.js";

/**
 * How long to wait until a hub started by the restart timer opens the store: 300 attempts, 100 ms
 * apart, because a hub on a small board needs seconds.
 */
const openingAttempts = 300;
const openingPauseMs = 100;
/** How long to wait until a started hub listens on its ports. */
const listeningLimitMs = 30_000;

/** How a downtime ended. */
export interface Restart {
  /** Whether the service was down when {@link Downtime.end} was called, and is started now. */
  readonly isStarted: boolean;
  /** Whether something else started the service during a downtime that this process began. */
  readonly wasUp: boolean;
  /** Whether the restart timer of this process started the service. */
  readonly timerFired: boolean;
  /** Milliseconds from the request to stop until the service was up again; 0 if it was not down. */
  readonly downtimeMs: number;
  /** The TCP ports on which the service listened before it was stopped. */
  readonly ports: readonly number[];
  /**
   * Resolves with the milliseconds from the request to stop until all of these ports were listened
   * on again. Resolves with undefined if there are no ports, or after 30 s.
   */
  readonly listeningMs: Promise<number | undefined>;
}

/**
 * `running`: the service was not stopped, its stop was denied, or it was started again. `unknown`:
 * another process journaled the stop. `stopped`: a stop was requested, and may have failed.
 */
type State = "running" | "unknown" | "stopped";

/** Stops a service and starts it again. */
export class Downtime {
  readonly stopped: Stopped;
  readonly #service: Service;
  readonly #storePath: string;
  #state: State;
  #timer: RestartTimer | undefined;
  /** The name of the timer armed by another process for an earlier stop. It may have fired. */
  #earlierTimer: string | undefined;
  /** To be started with the service. */
  #dependents: readonly string[];
  #ports: readonly number[] = [];
  #stoppedAt = performance.now();
  #startFailure: StoreError | undefined;

  private constructor(
    service: Service,
    storePath: string,
    stopped: Stopped,
    state: State,
    earlierTimer?: string,
  ) {
    this.#service = service;
    this.#storePath = storePath;
    this.stopped = stopped;
    this.#dependents = stopped.dependents;
    this.#state = state;
    this.#earlierTimer = earlierTimer;
  }

  /**
   * Prepares the downtime of a service. Returns undefined if it is down and stays down.
   *
   * Reads the state again, because a copy or a question may have taken minutes since the service
   * was resolved: a service stopped by the operator since then stays down, and a service started
   * since then is stopped.
   */
  static async prepare({
    service,
    choice,
    wasActive,
    pendingRestart,
  }: ResolvedService): Promise<Downtime | undefined> {
    if (!pendingRestart && !(await service.mustStop(wasActive))) return undefined;
    const earlier = pendingRestart?.stopped.dependents ?? [];
    const stopped: Stopped = {
      service: service.kind,
      unit: service.name ?? choice.unit ?? defaultUnit,
      stop_command: choice.stopCommand,
      start_command: choice.startCommand,
      dependents: [...new Set([...earlier, ...(await service.prepareStop())])],
      timer: newRestartName(),
    };
    if (pendingRestart) {
      const { timer } = pendingRestart.stopped;
      return new Downtime(service, choice.storePath, stopped, "unknown", timer);
    }
    const invocation = await service.identifyRun();
    const running = { ...stopped, ...(invocation !== undefined && { invocation }) };
    const downtime = new Downtime(service, choice.storePath, running, "running");
    downtime.#ports = await listServicePorts(service);
    return downtime;
  }

  /**
   * Takes over the downtime that a journal records.
   *
   * @throws {@link StoreError} service - if the service manager does not respond
   */
  static async fromJournal(stopped: Stopped, storePath: string): Promise<Downtime> {
    const service = await selectService(toServiceChoice(stopped, storePath));
    return new Downtime(service, storePath, stopped, "unknown", stopped.timer);
  }

  /** The service's name for messages. */
  get name(): string {
    return this.#service.name ?? "the service";
  }

  /** Why the last attempt to start the service failed. */
  get startFailure(): StoreError | undefined {
    return this.#startFailure;
  }

  /** Whether the service may be down, and no attempt to start it has failed. */
  get isPending(): boolean {
    return this.#state !== "running" && this.#startFailure === undefined;
  }

  /**
   * Arms the restart timer, to start the service if this process is killed. Then cancels the timer
   * of an earlier stop, or it would start the service during the work.
   *
   * @param workMs - time limit of the work in milliseconds, without the time to stop
   * @param recoveryCommand - the argument list of the timer's first command
   * @throws {@link StoreError} service - if the manager does not accept the timer
   */
  async arm(workMs: number, recoveryCommand: readonly string[]): Promise<void> {
    const name = this.stopped.timer;
    try {
      this.#timer = await this.#service.armRestart({
        afterMs: this.#service.stopTimeoutMs + workMs,
        command: recoveryCommand,
        name,
      });
      await this.#cancelEarlierTimer();
    } catch (error) {
      // After a timeout the manager may still arm the timer.
      if (name !== undefined) await this.#service.disarmRestart(name).catch(() => undefined);
      this.#timer = undefined;
      throw error;
    }
  }

  /**
   * Stops the service.
   *
   * @throws {@link StoreError} service - if it does not stop; `end` is required all the same
   * @throws {@link StoreError} inUse - if this process belongs to the service, so that a stop is
   *   impossible, and another process has the store open
   */
  async stop(): Promise<void> {
    this.#startFailure = undefined;
    const wasRunning = this.#state === "running";
    // `run` recovers in its own unit before it starts the hub. A stop would kill this process.
    if (!wasRunning && (await this.#service.owns(process.pid)))
      return await assertNoHolders(this.#storePath);
    // Another process prepared the stop, and other units may be active now.
    if (this.#state === "unknown") {
      const found = await this.#service.prepareStop();
      this.#dependents = [...new Set([...this.#dependents, ...found])];
    }
    this.#state = "stopped";
    this.#stoppedAt = performance.now();
    try {
      await this.#service.stop({ mayBeDown: !wasRunning });
    } catch (error) {
      if (await this.#isUntouched()) this.#state = "running";
      throw error;
    }
  }

  /**
   * Returns whether the same run of the service continues and no job is queued. No start is needed
   * then, and after a denied stop the manager would deny the start, too. Returns false if there
   * are dependents, because some of them may be stopped.
   */
  async #isUntouched(): Promise<boolean> {
    if (this.stopped.invocation === undefined || this.#dependents.length > 0) return false;
    const state = await this.#service.state().catch(() => undefined);
    return state?.active === true && !state.hasJob && state.invocation === this.stopped.invocation;
  }

  /**
   * Returns whether the run that a killed process was to stop is still up. Its stop may be in
   * progress, because a stop survives the process that requested it.
   */
  async #isStillUp(): Promise<boolean> {
    const { invocation } = this.stopped;
    if (this.#state !== "unknown" || invocation === undefined) return false;
    return await this.#service.mayBeStopping(invocation);
  }

  /** Completes the stop of another process, or repeats it. Returns if it is denied. */
  async #completeStop(): Promise<void> {
    try {
      await this.stop();
    } catch (error) {
      if (this.#state !== "running") throw error;
    }
  }

  /**
   * Starts the service unless it runs, and cancels the timer. Safe at any time.
   *
   * @param options.restartIfUp - restarts a service that something else started after this process
   *   stopped it: the service may have opened the replaced file
   * @throws {@link StoreError} service - if the service does not start
   */
  async end(options: { restartIfUp?: boolean } = {}): Promise<Restart> {
    try {
      const restart = await this.#end(options.restartIfUp ?? false);
      this.#state = "running";
      this.#startFailure = undefined;
      return restart;
    } catch (error) {
      this.#startFailure = systemError(error, `cannot start ${this.name}`, "service");
      throw this.#startFailure;
    }
  }

  async #end(restartIfUp: boolean): Promise<Restart> {
    if (await this.#isStillUp()) await this.#completeStop();
    const isUp =
      this.#state === "running" || (this.#state === "unknown" && (await this.isServiceUp()));
    const dependents = this.#dependents;
    if (isUp) {
      // Something else may have started the service without its dependents.
      if (this.#state === "unknown" && dependents.length > 0) {
        await this.#service.startDependents(dependents);
      }
      await this.#cancelTimer();
      const listeningMs = Promise.resolve(undefined);
      return {
        isStarted: false,
        wasUp: false,
        timerFired: false,
        downtimeMs: 0,
        ports: [],
        listeningMs,
      };
    }
    // The timer is cancelled first: its start command and the start below could start two hubs.
    const hasFired = this.#service.mayStartTwice === true && (await this.#cancelTimer());
    const found = hasFired ? await this.#waitUntilUp() : undefined;
    let started = found ?? (await this.#service.start(dependents));
    const { wasUp = false } = started;
    if (wasUp && restartIfUp && this.#state === "stopped") {
      await this.#service.stop();
      started = await this.#service.start(dependents);
    }
    const timerFired = (await this.#cancelTimer()) || hasFired;
    const downtimeMs = Math.round(started.upAt - this.#stoppedAt);
    const ports = this.#ports;
    const listeningMs = this.#waitUntilListening();
    return { isStarted: !wasUp, wasUp, timerFired, downtimeMs, ports, listeningMs };
  }

  async #waitUntilListening(): Promise<number | undefined> {
    if (this.#ports.length === 0) return undefined;
    const listeningAt = await waitUntilListening(this.#ports, listeningLimitMs);
    return listeningAt && Math.round(listeningAt - this.#stoppedAt);
  }

  /** Waits until the hub started by the timer opens the store. Returns undefined after 30 s. */
  async #waitUntilUp(): Promise<Started | undefined> {
    for (let attempt = 0; attempt < openingAttempts; attempt++) {
      const { holders } = await findHolders(this.#storePath);
      if (holders.length > 0) return { upAt: performance.now(), wasUp: true };
      await delay(openingPauseMs);
    }
    return undefined;
  }

  /**
   * Cancels the timer, or it would start the service during the next operation.
   *
   * @returns whether a timer of this process had fired
   */
  async #cancelTimer(): Promise<boolean> {
    const timer = this.#timer;
    this.#timer = undefined;
    const hasFired = timer !== undefined && (await timer.disarm()).fired;
    await this.#cancelEarlierTimer();
    return hasFired;
  }

  async #cancelEarlierTimer(): Promise<void> {
    const name = this.#earlierTimer;
    if (name !== undefined) await this.#service.disarmRestart(name);
    this.#earlierTimer = undefined;
  }

  /** Returns whether the service runs, also if something else has started it. */
  async isServiceUp(): Promise<boolean> {
    return await this.#service.isRunning();
  }
}

/** Returns the ports on which the service listens. */
async function listServicePorts(service: Service): Promise<number[]> {
  const processes = await service.listProcesses();
  return [...new Set(processes.flatMap((pid) => listListeningPorts(pid)))];
}
