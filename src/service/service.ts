/**
 * The service: what holds the store open, and must let go of it for a moment.
 *
 * Each kind is one file: `systemd.ts` (user and system units), `launchd.ts` (macOS), `commands.ts` (the operator's own
 * commands) and `none.ts`. All are used in one order: `check` while everything still runs, `activeDependents`,
 * `armRestart`, `stop`, the work, `start`, `disarm`.
 */
import { randomBytes } from "node:crypto";

export type ServiceKind = "systemd-user" | "systemd" | "launchd" | "command" | "none";

/** The unit's name where none is given: what HiveMind's own instructions call it. */
export const defaultUnit = "hivemind-core";

export interface ServiceState {
  /** It runs, or is on its way up, or is being restarted after a crash: it has to be stopped and started again. */
  readonly active: boolean;
  /** Names this run of the service; a restart has another one. Absent where the kind knows no such thing. */
  readonly invocation?: string;
  readonly mainPid?: number;
}

export interface RestartTimer {
  /** What the timer or the watcher is called, for the journal of the operation; null if nothing was armed. */
  readonly name: string | null;
  /**
   * Takes the restart back and leaves nothing of it behind. Safe at any time, also after it went off.
   *
   * @returns whether it went off before: then the service was started by it, perhaps in the middle of the work.
   * @throws StoreError `service` if the manager does not answer; the restart may then still go off.
   */
  disarm(): Promise<{ fired: boolean }>;
}

export interface Started {
  /** When the service was up, in the milliseconds of `performance.now()`: the settle time is not in it. */
  readonly upAt: number;
  /** Whether something else had started it before this call. Absent where the kind cannot tell. */
  readonly wasUp?: boolean;
}

export interface Service {
  readonly kind: ServiceKind;
  /** The unit or label as the operator named it; null where there is none. */
  readonly name: string | null;
  /** How long `stop` may take at most, in milliseconds: a dead-man timer must not go off before. */
  readonly stopTimeoutMs: number;

  /**
   * Whether it is running now. A stop or a restart that somebody else has begun is waited for.
   *
   * @throws StoreError `service` if the manager does not answer.
   */
  state(): Promise<ServiceState>;

  /**
   * Tries beforehand everything that stopping and starting will need: that the service exists, may be stopped and can
   * be started again, and is the one that belongs to this store.
   *
   * @param storePath the store's resolved path.
   * @returns notices for the operator, most often none.
   * @throws StoreError `notFound` if there is no such service, `refused` if it cannot be stopped and started or is
   *   another store's, `service` if the manager does not answer.
   */
  check(storePath: string): Promise<string[]>;

  /** Whether this process is the service's own. */
  owns(pid: number): Promise<boolean>;

  /**
   * What stopping the service takes down with it, and what could wake it while it is stopped (its sockets, timers and
   * paths): all that runs now, in the order in which it is to be started again.
   */
  activeDependents(): Promise<string[]>;

  /**
   * Stops it, with what could wake it, and returns when none of its processes is left.
   *
   * @throws StoreError `service` if it did not stop; it may be half stopped then, so `start` must follow.
   */
  stop(): Promise<void>;

  /**
   * Starts it and these dependents, and waits until it has stayed up for a settle time.
   *
   * @throws StoreError `service` if it, or one of them, did not start or did not stay up.
   */
  start(dependents: readonly string[]): Promise<Started>;

  /**
   * Arranges that the service is started even if this process is killed: after `afterMs` milliseconds `command` is run
   * (for `settleLimitSeconds` at most), then the service and its active dependents are started, whatever its result;
   * where starting twice would start two of it (own commands), only if it failed. To be called after `activeDependents`
   * and before `stop`; the timer must be disarmed once the service is up again, also after an error.
   *
   * @param options.command an argument list that finishes or undoes the operation, the service's downtime included, and
   *   fails if it could not; it is not given to a shell, and must hold no secret.
   * @param options.name what a timer is to be called, so that a journal can name it before there is one.
   * @throws StoreError `service` if it could not be arranged: then nothing has been stopped yet.
   */
  armRestart(options: {
    afterMs: number;
    command: readonly string[];
    name?: string;
  }): Promise<RestartTimer>;

  /**
   * Takes back a restart that a killed process left behind, as `RestartTimer.disarm` does. Called by the restart's own
   * settle command, it leaves that running.
   *
   * @param name the name of the `RestartTimer`.
   */
  disarmRestart(name: string): Promise<{ fired: boolean }>;
}

/** How long the command that a restart runs first may take: the service matters more than a tidy folder. */
export const recoveryLimitSeconds = 60;

/** A name for a timer that nobody else uses. */
export function newRestartName(): string {
  return `hivemind-sqlcipher-restart-${randomBytes(6).toString("hex")}`;
}
