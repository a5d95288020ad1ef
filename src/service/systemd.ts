/**
 * User units and system units of systemd.
 *
 * Each call of `systemctl` between stop and start adds 5 to 10 ms of downtime. So all queries are
 * made before the stop, and a successful `stop` or `start` is a single call until the unit is up.
 */
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { isInGroup, listGroupProcesses } from "../process/cgroup.js";
import type { Outcome } from "../process/run.js";
import { ManagedService } from "./managed.js";
import { isInContainer } from "./origin.js";
import type { Properties } from "./properties.js";
import { armTimer, disarmTimer } from "./restart-timer.js";
import type { RestartOptions, RestartTimer, Service, ServiceState, Started } from "./service.js";
import {
  formatFailure,
  type Manager,
  scopeOf,
  show,
  systemctl,
  type UnitName,
  unitError,
} from "./systemctl.js";
import { checkUnit, unitProperties } from "./unit-checks.js";
import { findContainersOf, isInContainers } from "./unit-containers.js";
import {
  findStopGroup,
  isActive,
  isLauncher,
  isUp,
  startLimitMs,
  stopLimitMs,
  toServiceState,
} from "./unit-state.js";

/** Time for the manager itself, in addition to the limits of the units. */
const managerSlackMs = 10_000;

/**
 * How long a started unit must stay up: long enough to notice a program without execute permission,
 * a broken setting or a port in use. A later failure, after the hub's imports, is not
 * detected here, because no fixed time covers it.
 */
const watchMs = 1_000;

const pollMs = 100;

/** Units that start other units. They are stopped first and started first. */
const starters = /\.(socket|timer|path|automount)$/;

const serviceName = /^[\w:.\\@][\w:.\\@-]*$/;
const otherUnit = /\.(socket|timer|path|automount|target|slice|scope|mount|swap|device)$/;
const template = /@(\.service)?$/;

export class SystemdUnit extends ManagedService implements Service {
  readonly kind: Manager;
  readonly name: string;
  readonly stopTimeoutMs: number;
  /** Whether the manager has the unit. A masked unit counts as absent unless it runs. */
  readonly isUsable: boolean;
  readonly isDiscovered: boolean;
  /** Whether the unit only starts and stops containers or a daemon outside of its control group. */
  readonly #isLauncher: boolean;
  readonly #startTimeoutMs: number;
  /** The control group of the last run, in which no process may be left after a stop. */
  #controlGroup = "";
  /** The containers of the last run, outside of its control group. */
  #containers: readonly string[] = [];
  /** Active sockets, timers and paths of the unit, which are stopped with it. */
  #starters: readonly string[] = [];
  /** Active units to be started again with the unit. */
  #dependents: readonly string[] = [];

  private constructor(
    { manager, name }: UnitName,
    unit: Properties,
    group: readonly Properties[],
    isDiscovered: boolean,
  ) {
    super();
    this.kind = manager;
    this.name = name;
    this.isDiscovered = isDiscovered;
    this.#isLauncher = isLauncher(unit);
    this.isUsable =
      unit.LoadState !== "not-found" && (unit.LoadState !== "masked" || isActive(unit));
    this.#remember(unit);
    // The limits add up: a unit may wait for another, and a start waits for a stop in progress.
    const members = group.filter((member, index) => index === 0 || isActive(member));
    this.stopTimeoutMs = managerSlackMs + sum(members.map(stopLimitMs));
    this.#startTimeoutMs = this.stopTimeoutMs + sum(members.map(startLimitMs));
  }

  /**
   * Queries a unit, which may not exist.
   *
   * @param options.isDiscovered - see {@link Service.isDiscovered}
   * @throws {@link StoreError} usage - if this cannot be the name of a service
   * @throws {@link StoreError} service - if the manager does not respond
   */
  static async find(
    manager: Manager,
    name: string,
    { isDiscovered = false } = {},
  ): Promise<SystemdUnit> {
    if (!serviceName.test(name) || otherUnit.test(name)) {
      throw new StoreError("usage", `${name} is not the name of a systemd service`, {
        hint: "Name a service, as in --unit hivemind-core.",
      });
    }
    if (template.test(name)) throw await templateError({ manager, name });
    const [unit = {}] = await show(manager, unitProperties, [name]);
    const group = unit.LoadState === "loaded" ? await findStopGroup(manager, name) : [];
    return new SystemdUnit({ manager, name }, unit, group, isDiscovered);
  }

  async state(): Promise<ServiceState> {
    const deadline = performance.now() + this.stopTimeoutMs;
    for (;;) {
      const [unit = {}] = await this.#show(
        ["ActiveState", "SubState", "InvocationID", "MainPID", "ControlGroup", "Job"],
        [this.name],
      );
      this.#remember(unit);
      if (unit.ActiveState !== "deactivating") return toServiceState(unit);
      if (performance.now() > deadline) {
        throw this.#error(`${this.name} has been stopping for too long`);
      }
      await delay(pollMs);
    }
  }

  check(storePath: string): Promise<string[]> {
    return checkUnit({ manager: this.kind, name: this.name }, storePath);
  }

  async owns(pid: number): Promise<boolean> {
    if (this.#isLauncher && isInContainer(pid)) return true;
    // A launcher has no processes of its own, so its group stays unknown.
    if (!this.#controlGroup && !this.#isLauncher) await this.state();
    return isInGroup(pid, this.#controlGroup) || isInContainers(pid, this.#containers);
  }

  /** Unlike an engine, systemd shows whether a stop is in progress. */
  override async mayBeStopping(run: string): Promise<boolean> {
    const { active, hasJob, invocation } = await this.state();
    return active && invocation === run && hasJob === true;
  }

  async prepareStop(): Promise<string[]> {
    const [unit = {}, ...others] = await findStopGroup(this.kind, this.name);
    if (unit.ControlGroup) this.#controlGroup = unit.ControlGroup;
    const names = others.filter(isActive).map(({ Id = "" }) => Id);
    this.#starters = names.filter((name) => starters.test(name));
    this.#dependents = [...this.#starters, ...names.filter((name) => !starters.test(name))];
    return [...this.#dependents];
  }

  async stop(): Promise<void> {
    const outcome = await systemctl(
      this.kind,
      ["stop", "--", ...this.#starters, this.name],
      this.stopTimeoutMs,
    );
    // The manager removes the control group of a stopped unit. After exit code 0 without a
    // remaining process, no further query is needed.
    const left = listGroupProcesses(this.#controlGroup);
    if (outcome.code === 0 && left.length === 0) return;
    const [unit = {}] = await this.#show(["ActiveState", "SubState"], [this.name]);
    const isDown = unit.ActiveState === "inactive" || unit.ActiveState === "failed";
    if (isDown && left.length === 0) return;
    throw this.#error(
      isDown
        ? `${this.name} stopped, but left processes behind: ${left.join(", ")}`
        : `${this.name} did not stop: it is ${unit.ActiveState} (${unit.SubState})${formatFailure(outcome)}`,
    );
  }

  async start(dependents: readonly string[]): Promise<Started> {
    const units = this.#startOrder(dependents);
    // The clock of the manager's monotonic timestamps, in microseconds.
    const calledAt = Number(process.hrtime.bigint() / 1000n);
    const outcome = await this.#startUnits(units, calledAt);
    const upAt = performance.now();
    if (outcome.code !== 0) {
      throw this.#error(`${units.join(", ")} could not be started${formatFailure(outcome)}`);
    }
    const leftInactiveAt = await this.#watch(units, upAt + watchMs);
    return { upAt, wasUp: leftInactiveAt > 0 && leftInactiveAt < calledAt };
  }

  async startDependents(dependents: readonly string[]): Promise<void> {
    const found = await this.#show(["Id", "ActiveState"], dependents);
    const down = found.filter((unit) => !isActive(unit)).map(({ Id = "" }) => Id);
    if (down.length === 0) return;
    const outcome = await systemctl(this.kind, ["start", "--no-block", "--", ...down]);
    if (outcome.code === 0) return;
    throw this.#error(
      `${this.name} is up, but ${down.join(", ")} could not be started${formatFailure(outcome)}`,
    );
  }

  /**
   * Starts units. Frequent backups use up a unit's start limit, which is meant for crashes, so this
   * resets the limit if the manager refused without an attempt. `Result` does not show such a
   * refusal, because it keeps the value of an earlier failure.
   */
  async #startUnits(units: readonly string[], calledAt: number): Promise<Outcome> {
    const start = () => systemctl(this.kind, ["start", "--", ...units], this.#startTimeoutMs);
    const outcome = await start();
    if (outcome.code === 0) return outcome;
    const found = await this.#show(["ActiveState", "InactiveExitTimestampMonotonic"], units);
    const isUntried = found.some(
      (unit) => !isUp(unit) && Number(unit.InactiveExitTimestampMonotonic) < calledAt,
    );
    if (!isUntried) return outcome;
    await systemctl(this.kind, ["reset-failed", "--", ...units]);
    return start();
  }

  armRestart(options: RestartOptions): Promise<RestartTimer> {
    const units = this.#startOrder(this.#dependents);
    const start = ["systemctl", ...scopeOf(this.kind), "start", "--", ...units];
    return armTimer(this.kind, { ...options, subject: this.name, start });
  }

  async disarmRestart(name: string): Promise<void> {
    await disarmTimer(this.kind, name);
  }

  /**
   * Watches the started units up to the time `deadline`, and throws as soon as a unit is down.
   *
   * @returns when the unit's start began, in microseconds of the manager's monotonic clock; 0 if
   *   unknown
   */
  async #watch(units: readonly string[], deadline: number): Promise<number> {
    let invocation: string | undefined;
    for (;;) {
      const states = await this.#show(watchedProperties, units);
      const own = states[units.indexOf(this.name)] ?? {};
      invocation ??= own.InvocationID;
      if (!isUp(own) || own.InvocationID !== invocation) {
        const how = isUp(own)
          ? "it was restarted at once"
          : `it is ${own.ActiveState} (${own.SubState}), result ${own.Result}, exit status ${own.ExecMainStatus}`;
        throw this.#error(`${this.name} started but did not stay up: ${how}`);
      }
      const down = states.find((unit) => !isUp(unit) && !hasEnded(unit));
      if (down) {
        throw this.#error(`${this.name} is up, but ${down.Id} did not stay up with it`, down.Id);
      }
      const left = deadline - performance.now();
      if (left <= 0) return Number(own.InactiveExitTimestampMonotonic ?? 0);
      await delay(Math.min(pollMs, left));
    }
  }

  /** Puts sockets and timers before the unit: a socket refuses to start while its service runs. */
  #startOrder(dependents: readonly string[]): string[] {
    return [
      ...dependents.filter((name) => starters.test(name)),
      this.name,
      ...dependents.filter((name) => !starters.test(name)),
    ];
  }

  #remember(unit: Properties): void {
    if (!unit.ControlGroup) return;
    this.#controlGroup = unit.ControlGroup;
    this.#containers = findContainersOf(unit);
  }

  #show(properties: readonly string[], units: readonly string[]): Promise<Properties[]> {
    return show(this.kind, properties, units);
  }

  #error(message: string, unit = this.name): StoreError {
    return unitError(this.kind, message, unit);
  }
}

/**
 * Returns whether a unit is down as intended: a dependent may end after its work, also without
 * `Type=oneshot`.
 */
function hasEnded({ Type, ActiveState, Result }: Properties): boolean {
  const isEnding = ActiveState === "inactive" || ActiveState === "deactivating";
  return Type === "oneshot" || (isEnding && Result === "success");
}

const watchedProperties = [
  "Id",
  "ActiveState",
  "SubState",
  "InvocationID",
  "Result",
  "ExecMainStatus",
  "Type",
  "InactiveExitTimestampMonotonic",
];

/** Returns the error for a template, which is not a unit itself. */
async function templateError({ manager, name }: UnitName): Promise<StoreError> {
  const stem = name.replace(template, "@");
  const { stdout } = await systemctl(manager, [
    "list-units",
    "--all",
    "--plain",
    "--no-legend",
    "--full",
    `${stem}*.service`,
  ]);
  const instances = stdout.match(/^\S+(?=\.service )/gm) ?? [];
  const names = instances.length > 0 ? instances : [`${stem}INSTANCE`];
  return new StoreError("usage", `${name} is a template unit, and only its instances run`, {
    hint: `Name an instance: --unit ${names.join(" or --unit ")}.`,
  });
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
