/**
 * Containers of Podman and Docker.
 *
 * A container is identified by its name, because an update replaces it with another container of
 * the same name. Each call of an engine adds 50 to 150 ms of downtime, so all queries are made
 * before the stop: `stop` and `start` are a single call each.
 */
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { listGroupProcesses } from "../process/cgroup.js";
import { withInheritedUmask } from "../process/privacy.js";
import { type Outcome, run } from "../process/run.js";
import { checkContainer } from "./container-checks.js";
import {
  type Container,
  type ContainerName,
  type Engine,
  engineLine,
  findGroups,
  inspectContainer,
  isContainerActive,
  listDependents,
  runEngine,
} from "./engine.js";
import { ManagedService } from "./managed.js";
import { findOrigin } from "./origin.js";
import { armTimer, disarmTimer } from "./restart-timer.js";
import type { RestartTimer, Service, ServiceState, Started } from "./service.js";
import { formatFailure, isManagerRunning, type Manager, ownManager, scopeOf } from "./systemctl.js";
import { armWatcher } from "./watcher.js";

/** Time for the engine itself, in addition to a container's time limit of a stop. */
const engineSlackMs = 20_000;

/** The time limit of a start or restart, for each container: it includes network and mounts. */
const startLimitMs = 60_000;

/** How long a started container is observed, as a unit is in systemd.ts. */
const watchMs = 1_000;

const pollMs = 50;

const containerName = /^[a-zA-Z0-9][\w.-]*$/;

export class ContainerService extends ManagedService implements Service {
  readonly kind: Engine;
  readonly name: string;
  readonly isDiscovered: boolean;
  readonly stopTimeoutMs: number;
  /** As last inspected; undefined if the engine does not have the container. */
  #container: Container | undefined;
  /** The control groups of the container's last run: after a stop, they must be empty. */
  #groups: readonly string[] = [];
  #dependents: readonly string[] = [];
  #manager: Promise<Manager | undefined> | undefined;

  private constructor(
    { engine, name }: ContainerName,
    container: Container | undefined,
    isDiscovered: boolean,
  ) {
    super();
    this.kind = engine;
    this.name = name;
    this.isDiscovered = isDiscovered;
    this.stopTimeoutMs = engineSlackMs + (container?.stopTimeoutMs ?? 0);
    this.#remember(container);
  }

  /**
   * Queries a container. It need not exist.
   *
   * @param options.isDiscovered - see {@link Service.isDiscovered}
   * @throws {@link StoreError} usage - if this cannot be the name of a container
   * @throws {@link StoreError} service - if the engine does not respond to this user
   */
  static async find(
    engine: Engine,
    name: string,
    { isDiscovered = false } = {},
  ): Promise<ContainerService> {
    if (!containerName.test(name)) {
      throw new StoreError("usage", `${name} is not the name of a container`, {
        hint: `Name a container, as in --service ${engine} --unit hivemind_listener.`,
      });
    }
    const container = await inspectContainer(engine, name);
    return new ContainerService({ engine, name: container?.name ?? name }, container, isDiscovered);
  }

  async state(): Promise<ServiceState> {
    const deadline = performance.now() + this.stopTimeoutMs;
    for (;;) {
      const container = await this.#inspect();
      if (container?.status !== "stopping") return toServiceState(container);
      if (performance.now() > deadline) {
        throw this.#error(`the container ${this.name} has been stopping for too long`);
      }
      await delay(pollMs);
    }
  }

  async check(storePath: string): Promise<string[]> {
    return checkContainer(this.#container, { engine: this.kind, name: this.name }, storePath);
  }

  async owns(pid: number): Promise<boolean> {
    const origin = findOrigin(pid);
    return origin?.kind === this.kind && origin.id === this.#container?.id;
  }

  /**
   * Returns the running containers that use this container's namespaces. They keep running while
   * this container is stopped, and must be restarted to join its new namespaces.
   */
  async prepareStop(): Promise<string[]> {
    const id = this.#container?.id;
    this.#dependents = await listDependents({ engine: this.kind, name: this.name, id });
    return [...this.#dependents];
  }

  async stop(): Promise<void> {
    const outcome = await runEngine(this.kind, ["stop", "--", this.name], {
      timeoutMs: this.stopTimeoutMs,
    });
    if (outcome.code !== 0) {
      throw this.#error(`the container ${this.name} did not stop${formatFailure(outcome)}`);
    }
    const deadline = performance.now() + engineSlackMs;
    for (;;) {
      const left = this.#groups.flatMap(listGroupProcesses);
      if (left.length === 0) return;
      if (performance.now() > deadline) {
        const pids = [...new Set(left)].join(", ");
        throw this.#error(`the container ${this.name} stopped, but left processes behind: ${pids}`);
      }
      await delay(pollMs);
    }
  }

  async start(dependents: readonly string[]): Promise<Started> {
    const calledAt = Date.now();
    const outcome = await this.#start(["start", "--", this.name], startLimitMs);
    const upAt = performance.now();
    if (outcome.code !== 0) {
      throw this.#error(`the container ${this.name} could not be started${formatFailure(outcome)}`);
    }
    const wasUp = await this.#watch(upAt + watchMs, calledAt);
    await this.#restartDependents(dependents);
    return { upAt, wasUp };
  }

  /** Restarts those that use the namespaces of an earlier run of this container. */
  async startDependents(dependents: readonly string[]): Promise<void> {
    const { startedAt = 0 } = (await this.#inspect()) ?? {};
    const older: string[] = [];
    for (const name of dependents) {
      const dependent = await inspectContainer(this.kind, name);
      if (dependent && dependent.startedAt < startedAt) older.push(name);
    }
    await this.#restartDependents(older);
  }

  async #restartDependents(names: readonly string[]): Promise<void> {
    if (names.length === 0) return;
    const limitMs = startLimitMs * names.length;
    const restart = await this.#start(["restart", "--", ...names], limitMs);
    if (restart.code === 0) return;
    throw this.#error(
      `the container ${this.name} is up, but ${names.join(", ")} could not be restarted with it${formatFailure(restart)}`,
    );
  }

  /**
   * Waits until `deadline`, and throws if the started container is down then.
   *
   * @returns whether it was started before `calledAt`
   */
  async #watch(deadline: number, calledAt: number): Promise<boolean> {
    const started = await this.#inspect();
    await delay(Math.max(0, deadline - performance.now()));
    const later = await this.#inspect();
    if (later?.status === "running" && later.startedAt === started?.startedAt) {
      return later.startedAt < calledAt;
    }
    const how =
      later === undefined
        ? "it is gone"
        : later.status === "running"
          ? "it was restarted at once"
          : `it is ${later.status}, exit code ${later.exitCode}`;
    throw this.#error(`the container ${this.name} started but did not stay up: ${how}`);
  }

  async armRestart(options: {
    afterMs: number;
    command: readonly string[];
    name?: string;
  }): Promise<RestartTimer> {
    const manager = await this.#findManager();
    const lines = [
      this.#startLine(["start", "--", this.name], manager),
      ...(this.#dependents.length > 0
        ? [this.#startLine(["restart", "--", ...this.#dependents], manager)]
        : []),
    ];
    const start = ["/bin/sh", "-c", lines.join(" && ")];
    if (manager === undefined) return armWatcher({ ...options, start });
    return armTimer(manager, { ...options, subject: this.name, start });
  }

  /** Cancels a timer. A watcher acts as soon as the process that armed it ends. */
  async disarmRestart(name: string): Promise<void> {
    const manager = await this.#findManager();
    if (manager !== undefined) await disarmTimer(manager, name);
  }

  /** Runs the engine to start containers. */
  async #start(args: readonly string[], timeoutMs: number): Promise<Outcome> {
    const origin = findOrigin(process.pid);
    const isInUnit = origin !== undefined && "unit" in origin;
    const line = this.#startLine(args, isInUnit ? await this.#findManager() : undefined);
    return run("/bin/sh", ["-c", withInheritedUmask(line)], { timeoutMs });
  }

  /**
   * Returns the command line that starts containers, from within a service of `manager` if given.
   *
   * Podman's monitor and its network programs are children of the command. At the end of the
   * service, such as a scheduled backup, they would be killed, so they get their own scope.
   */
  #startLine(args: readonly string[], manager: Manager | undefined): string {
    const line = engineLine(this.kind, args);
    if (this.kind !== "podman" || manager === undefined) return line;
    const scope = ["systemd-run", ...scopeOf(manager), "--scope", "--quiet", "--collect", "--"];
    return `${scope.join(" ")} ${line}`;
  }

  /** Searches for the manager once. The first call is before the stop, to shorten the downtime. */
  #findManager(): Promise<Manager | undefined> {
    this.#manager ??= findManager();
    return this.#manager;
  }

  async #inspect(): Promise<Container | undefined> {
    const container = await inspectContainer(this.kind, this.name);
    this.#remember(container);
    return container;
  }

  #remember(container: Container | undefined): void {
    this.#container = container;
    if (!container || container.pid === 0) return;
    this.#groups = findGroups(container);
  }

  #error(message: string): StoreError {
    return new StoreError("service", message, {
      hint: `Run ${this.kind} logs ${this.name} to see its log.`,
    });
  }
}

function toServiceState(container: Container | undefined): ServiceState {
  if (container === undefined || !isContainerActive(container)) return { active: false };
  const { id, status, pid, startedAt } = container;
  return {
    active: true,
    ...(status === "restarting" && { restarting: true }),
    invocation: `${id} ${startedAt}`,
    ...(pid > 0 && { mainPid: pid }),
  };
}

/** Returns the systemd manager for this user's restart timers; undefined if it does not run. */
async function findManager(): Promise<Manager | undefined> {
  const manager = ownManager();
  return (await isManagerRunning(manager)) ? manager : undefined;
}
