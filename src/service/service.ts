/**
 * The service that has the store open: a systemd unit, a container, commands of the operator, or
 * none.
 *
 * Every kind is used in the same order: `check` while the service runs, `prepareStop`,
 * `armRestart`, `stop`, the work, `start`, `disarm`.
 */
import { randomBytes } from "node:crypto";

export type ServiceKind = "systemd-user" | "systemd" | "podman" | "docker" | "command" | "none";

/** The default name of the unit, as in HiveMind's own instructions. */
export const defaultUnit = "hivemind-core";

export interface ServiceState {
  /**
   * Whether the service must be stopped: it runs, starts, or waits to be restarted after a crash.
   */
  readonly active: boolean;
  /** Whether the service has ended and waits for its next start. */
  readonly restarting?: boolean;
  /** Whether a start or stop is queued or in progress. */
  readonly hasJob?: boolean;
  /** Identifies this run of the service. Absent if the kind has no such identifier. */
  readonly invocation?: string;
  readonly mainPid?: number;
}

export interface RestartOptions {
  /** Milliseconds until the restart fires. */
  readonly afterMs: number;
  /**
   * The argument list to recover the operation and start the service. The command must fail if it
   * cannot, and must contain no secret.
   */
  readonly command: readonly string[];
  /** The timer's name, for a journal written before the timer exists. */
  readonly name?: string | undefined;
}

export interface RestartTimer {
  /** The name of the timer or watcher for the operation's journal; null if nothing was armed. */
  readonly name: string | null;
  /**
   * Cancels the restart and cleans up. Safe at any time, also after the restart fired.
   *
   * @returns whether the restart fired; it has then started the service, perhaps during the work
   * @throws {@link StoreError} service - if the manager does not respond; the restart may still
   *   fire
   */
  disarm(): Promise<{ fired: boolean }>;
}

export interface Started {
  /**
   * When the service was up, on the clock of `performance.now()`: before the second of watching.
   */
  readonly upAt: number;
  /** Whether something else started the service before this call. Absent if unknown. */
  readonly wasUp?: boolean;
}

export interface Service {
  readonly kind: ServiceKind;
  /** The unit's or container's name as the operator wrote it; null where there is none. */
  readonly name: string | null;
  /** Whether the service was found by the store's path and not by its name. Absent means no. */
  readonly isDiscovered?: boolean;
  /** The time limit of `stop` in milliseconds. A restart timer must not fire earlier. */
  readonly stopTimeoutMs: number;
  /** Whether a start of the running service may start a second hub. Absent means no. */
  readonly mayStartTwice?: boolean;

  /**
   * Returns the service's state. Waits for the end of a stop in progress.
   *
   * @throws {@link StoreError} service - if the manager does not respond
   */
  state(): Promise<ServiceState>;

  /**
   * Checks the requirements of stop and start in advance: the service exists, can be stopped and
   * started again, and belongs to this store.
   *
   * @param storePath - the store's resolved path
   * @returns notices for the operator
   * @throws {@link StoreError} notFound - if there is no such service
   * @throws {@link StoreError} refused - if it cannot be stopped and started, or uses another store
   * @throws {@link StoreError} service - if the manager does not respond
   */
  check(storePath: string): Promise<string[]>;

  owns(pid: number): Promise<boolean>;

  /** Returns the service's processes, to find the ports on which it listens. */
  listProcesses(): Promise<number[]>;

  /**
   * Returns whether the service runs, or a start of it is queued.
   *
   * @param wasActive - {@link ServiceState.active} of an earlier call of `state`
   */
  mustStop(wasActive: boolean): Promise<boolean>;

  /** Returns whether the service is up for certain, so it needs no start. */
  isRunning(): Promise<boolean>;

  /** Returns an identifier of the present run, for a journal; undefined if the service is down. */
  identifyRun(): Promise<string | undefined>;

  /**
   * Returns whether a run is still up, and a stop of it may be in progress. During a stop, Docker
   * reports the container as running, and systemd reports a unit as active while its dependents
   * stop.
   *
   * @param run - the result of an earlier `identifyRun`
   */
  mayBeStopping(run: string): Promise<boolean>;

  /**
   * Finds the active units to be stopped with the service: its dependents, and the sockets, timers
   * and paths by which it could be started again. For a container, finds the containers to be
   * restarted after it. `stop` and `armRestart` include what the last call has found.
   *
   * @returns the units in the order for `start`
   */
  prepareStop(): Promise<string[]>;

  /**
   * Stops the service and its sockets, timers and paths. Returns when all its processes have ended.
   *
   * @param options.mayBeDown - whether an earlier stop may have stopped it already
   * @throws {@link StoreError} service - if it did not stop; call `start`, because a part may have
   *   stopped
   */
  stop(options?: { mayBeDown?: boolean }): Promise<void>;

  /**
   * Starts the service and these dependents, and watches units and containers for a second.
   *
   * @throws {@link StoreError} service - if any of them did not start or did not stay up
   */
  start(dependents: readonly string[]): Promise<Started>;

  /**
   * Starts the dependents of a service that something else has started, as far as they are down.
   * Does not wait for units: the service may be this process, which they wait for.
   *
   * @throws {@link StoreError} service - if one of them cannot be started
   */
  startDependents(dependents: readonly string[]): Promise<void>;

  /**
   * Arms a restart of the service in case this process is killed. Call it after `prepareStop`
   * and before `stop`. Disarm it after `start`, also after an error.
   *
   * After `afterMs` milliseconds the restart runs `command`, for {@link recoveryLimitSeconds} at
   * most. It then starts the service and its dependents. A watcher, used without systemd, also runs
   * `command` as soon as this process ends, and starts the service only if `command` failed:
   * running a start command twice could start two hubs.
   *
   * @throws {@link StoreError} service - if this is not possible; nothing has been stopped
   */
  armRestart(options: RestartOptions): Promise<RestartTimer>;

  /**
   * Cancels a restart left behind by a killed process, as {@link RestartTimer.disarm} does. If the
   * restart's own recovery command calls this, the command keeps running.
   *
   * @param name - {@link RestartTimer.name}
   */
  disarmRestart(name: string): Promise<void>;
}

/**
 * The time limit of a restart's recovery command, in seconds. The service is then started without a
 * recovery, because this is better than no service.
 */
export const recoveryLimitSeconds = 60;

export function newRestartName(): string {
  return `hivemind-sqlcipher-restart-${randomBytes(6).toString("hex")}`;
}
