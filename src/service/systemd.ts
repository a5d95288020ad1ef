/**
 * systemd units, of the user's manager and of the system's, through `systemctl` and `systemd-run`.
 *
 * Between stop and start every call of `systemctl` is time that the hub is away (5 to 10 ms each), so whatever can be known
 * beforehand is asked beforehand: `stop` is one call, and so is `start`.
 */
import { statSync } from "node:fs";
import { basename } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { StoreError } from "../errors.js";
import { isInGroup, listProcesses, openStore, pointedAt } from "../process/cgroup.js";
import { findHolders } from "../process/holders.js";
import { type Outcome, run } from "../process/run.js";
import { shellQuote } from "../text/shell.js";
import { type Properties, timespanMs } from "./properties.js";
import {
  newRestartName,
  type RestartTimer,
  recoveryLimitSeconds,
  type Service,
  type ServiceState,
  type Started,
} from "./service.js";
import { inManager, type Manager, queryLimitMs, scopeOf, show, systemctl } from "./systemctl.js";

/** For the manager itself, above what the unit is given: 10 s. */
const managerSlackMs = 10_000;

/**
 * How long a started unit must stay up to count as started: 1 s. Long enough for a program that cannot be executed, has a
 * broken setting or finds its port taken; a hub that imports for longer and fails then is the caller's to watch
 * for, since no fixed time covers it.
 */
const settleMs = 1_000;

/** How often a starting unit is looked at, so that one that dies is reported at once: every 100 ms. */
const pollMs = 100;

/** Units that start another one: they must not run while it is stopped, and are started before it. */
const wakes = /\.(socket|timer|path|automount)$/;

const serviceName = /^[\w:.\\@][\w:.\\@-]*$/;
const otherUnit = /\.(socket|timer|path|automount|target|slice|scope|mount|swap|device)$/;

/** Stopping a unit stops those that are named in these properties of it. */
const stopsAlong = ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"];

export class SystemdUnit implements Service {
  readonly kind: Manager;
  readonly name: string;
  readonly stopTimeoutMs: number;
  /** Whether the manager has such a unit. One that is masked and does not run is as good as none. */
  readonly usable: boolean;
  readonly #startTimeoutMs: number;
  /** The last control group that it ran in: afterwards, nothing must be left there. */
  #controlGroup: string;
  /** What must be stopped with it lest it be woken. */
  #waking: readonly string[] = [];
  /** What is started again with it. */
  #dependents: readonly string[] = [];

  private constructor(kind: Manager, name: string, unit: Properties, group: readonly Properties[]) {
    this.kind = kind;
    this.name = name;
    this.usable = unit.LoadState !== "not-found" && (unit.LoadState !== "masked" || isActive(unit));
    this.#controlGroup = unit.ControlGroup ?? "";
    // One may wait for another, so their limits add up; and a start waits for a stop that is not over.
    const members = group.filter((member, index) => index === 0 || isActive(member));
    this.stopTimeoutMs = managerSlackMs + sum(members.map(stopLimitMs));
    this.#startTimeoutMs =
      this.stopTimeoutMs + sum(members.map((member) => timespanMs(member.TimeoutStartUSec)));
  }

  /**
   * Asks the manager about a unit, which need not exist.
   *
   * @throws StoreError `usage` if the name cannot be a service's, `service` if there is no such manager here.
   */
  static async find(kind: Manager, name: string): Promise<SystemdUnit> {
    if (!serviceName.test(name) || otherUnit.test(name)) {
      throw new StoreError("usage", `${name} is not the name of a systemd service`, {
        hint: "name the service, as in --unit hivemind-core",
      });
    }
    const [unit = {}] = await show(kind, unitProperties, [name]);
    const group = unit.LoadState === "loaded" ? await stopGroup(kind, name) : [];
    return new SystemdUnit(kind, name, unit, group);
  }

  async state(): Promise<ServiceState> {
    const deadline = performance.now() + this.stopTimeoutMs;
    for (;;) {
      const [unit = {}] = await this.#show(
        ["ActiveState", "InvocationID", "MainPID", "ControlGroup"],
        [this.name],
      );
      if (unit.ControlGroup) this.#controlGroup = unit.ControlGroup;
      if (unit.ActiveState !== "deactivating") return stateOf(unit);
      if (performance.now() > deadline) {
        throw this.#error(`${this.name} has been stopping for too long`);
      }
      await delay(pollMs);
    }
  }

  async check(storePath: string): Promise<string[]> {
    const [unit = {}] = await this.#show(unitProperties, [this.name]);
    this.#checkLoaded(unit);
    this.#checkStartable(unit);
    await this.#checkUpholders(unit);
    const notices: string[] = [];
    if (unit.NeedDaemonReload === "yes") {
      notices.push(
        `the file of ${this.name} has changed since the manager read it; it will be started as it was read (${this.#command("daemon-reload")} makes it current)`,
      );
    }
    await this.#checkUser(unit, storePath);
    if (isActive(unit)) notices.push(...(await this.#checkStore(unit, storePath)));
    return notices;
  }

  async owns(pid: number): Promise<boolean> {
    if (!this.#controlGroup) await this.state();
    return this.#controlGroup !== "" && isInGroup(pid, this.#controlGroup);
  }

  async activeDependents(): Promise<string[]> {
    const group = await stopGroup(this.kind, this.name);
    const [unit = {}] = group;
    const names = group
      .slice(1)
      .filter(isActive)
      .map((member) => member.Id ?? "");
    if (unit.ControlGroup) this.#controlGroup = unit.ControlGroup;
    this.#waking = names.filter((name) => wakes.test(name));
    this.#dependents = [...this.#waking, ...names.filter((name) => !wakes.test(name))];
    return [...this.#dependents];
  }

  async stop(): Promise<void> {
    const outcome = await systemctl(
      this.kind,
      ["stop", "--", ...this.#waking, this.name],
      this.stopTimeoutMs,
    );
    // The manager removes the control group of a unit that is down: a finished stop job and no group need no more
    // questions.
    const left = listProcesses(this.#controlGroup);
    if (outcome.code === 0 && left.length === 0) return;
    const [unit = {}] = await this.#show(["ActiveState", "SubState"], [this.name]);
    const down = unit.ActiveState === "inactive" || unit.ActiveState === "failed";
    if (down && left.length === 0) return;
    if (down) {
      throw this.#error(`${this.name} stopped, but left processes behind: ${left.join(", ")}`);
    }
    throw this.#error(
      `${this.name} did not stop: it is ${unit.ActiveState} (${unit.SubState})${this.#words(outcome)}`,
    );
  }

  async start(dependents: readonly string[]): Promise<Started> {
    const units = this.#startOrder(dependents);
    // The clock that the manager's monotonic timestamps are of, in its microseconds.
    const calledAt = Number(process.hrtime.bigint() / 1000n);
    let outcome = await systemctl(this.kind, ["start", "--", ...units], this.#startTimeoutMs);
    if (outcome.code !== 0) {
      // Several backups in a short time use up the unit's start limit, which is meant for crashes. Its result need not say
      // so: that of an earlier failure stays.
      const found = await this.#show(["ActiveState", "InactiveExitTimestampMonotonic"], units);
      const untried = found.some(
        (unit) => !isUp(unit) && Number(unit.InactiveExitTimestampMonotonic) < calledAt,
      );
      if (untried) {
        await systemctl(this.kind, ["reset-failed", "--", ...units]);
        outcome = await systemctl(this.kind, ["start", "--", ...units], this.#startTimeoutMs);
      }
    }
    const upAt = performance.now();
    if (outcome.code !== 0) {
      throw this.#error(`${units.join(", ")} could not be started${this.#words(outcome)}`);
    }
    const leftInactiveAt = await this.#settle(units, upAt + settleMs);
    return { upAt, wasUp: leftInactiveAt > 0 && leftInactiveAt < calledAt };
  }

  async armRestart(options: {
    afterMs: number;
    command: readonly string[];
    name?: string;
  }): Promise<RestartTimer> {
    const { name = newRestartName() } = options;
    const units = this.#startOrder(this.#dependents);
    const outcome = await run(
      "systemd-run",
      [
        ...scopeOf(this.kind),
        "--quiet",
        "--no-ask-password",
        "--collect",
        `--unit=${name}`,
        `--description=Start ${this.name} again if the program that stopped it was killed`,
        `--on-active=${Math.ceil(options.afterMs)}ms`,
        "--timer-property=AccuracySec=1s",
        "/bin/sh",
        "-c",
        // In base64, since the manager garbles "$" and ";" in the arguments of a transient unit when it is told to
        // reload (seen in systemd 252): the settle command would fail whenever somebody does that meanwhile.
        `echo ${Buffer.from(this.#restartScript(options.command, units)).toString("base64")} | base64 -d | sh`,
      ],
      { timeoutMs: queryLimitMs },
    );
    if (outcome.code !== 0) {
      throw this.#error(
        `could not arrange that ${this.name} is started again if this program is killed${this.#words(outcome)}`,
      );
    }
    return { name, disarm: () => this.disarmRestart(name) };
  }

  async disarmRestart(name: string): Promise<{ fired: boolean }> {
    const stopped = await systemctl(this.kind, ["stop", "--", `${name}.timer`]);
    const gone = /not loaded/.test(stopped.stderr);
    if (stopped.code !== 0 && !gone) {
      throw this.#error(`could not take back the timer ${name}${this.#words(stopped)}`);
    }
    const [action = {}] = await this.#show(["InvocationID"], [`${name}.service`]);
    // Its action may be under way. What that has asked the manager to start, goes on starting.
    if (action.InvocationID && action.InvocationID !== process.env.INVOCATION_ID) {
      await systemctl(this.kind, ["stop", "--", `${name}.service`]);
    }
    return { fired: gone || Boolean(action.InvocationID) };
  }

  #restartScript(command: readonly string[], units: readonly string[]): string {
    const settle = ["timeout", "--kill-after=5", `${recoveryLimitSeconds}`, ...command];
    const start = ["systemctl", ...scopeOf(this.kind), "start", "--", ...units];
    // The shell reads this from its standard input, which is therefore not the commands'.
    return [
      ...passedOn().map((variable) => `export ${shellQuote(variable)}`),
      `${settle.map(shellQuote).join(" ")} </dev/null`,
      `exec ${start.map(shellQuote).join(" ")} </dev/null`,
      "",
    ].join("\n");
  }

  /**
   * Waits until it has been up for long enough, or throws as soon as it is not.
   *
   * @returns when its start began, on the manager's monotonic clock, in microseconds; 0 if that is not known.
   */
  async #settle(units: readonly string[], until: number): Promise<number> {
    let invocation: string | undefined;
    for (;;) {
      const states = await this.#show(
        [
          ...["Id", "ActiveState", "SubState", "InvocationID", "Result", "ExecMainStatus", "Type"],
          "InactiveExitTimestampMonotonic",
        ],
        units,
      );
      const own = states[units.indexOf(this.name)] ?? {};
      invocation ??= own.InvocationID;
      if (!isUp(own) || own.InvocationID !== invocation) {
        const how = isUp(own)
          ? "it was restarted at once"
          : `it is ${own.ActiveState} (${own.SubState}), result ${own.Result}, exit status ${own.ExecMainStatus}`;
        throw this.#error(`${this.name} started but did not stay up: ${how}`);
      }
      const fallen = states.find((unit) => !isUp(unit) && unit.Type !== "oneshot");
      if (fallen) {
        throw this.#error(
          `${this.name} is up, but ${fallen.Id} did not stay up with it`,
          fallen.Id,
        );
      }
      const left = until - performance.now();
      if (left <= 0) return Number(own.InactiveExitTimestampMonotonic ?? 0);
      await delay(Math.min(pollMs, left));
    }
  }

  #checkLoaded(unit: Properties): void {
    switch (unit.LoadState) {
      case "loaded":
        break;
      case "not-found":
        throw new StoreError("notFound", `no unit ${this.name} ${inManager(this.kind)}`, {
          hint: `--unit names another one (${this.#command("list-units --type=service")} lists them), --service none uses none`,
        });
      case "masked":
        throw this.#maskedError();
      default:
        throw new StoreError(
          "refused",
          `the manager could not load ${this.name} (${unit.LoadState}: ${unit.LoadError})`,
          { hint: `${this.#command(`status ${this.name}`)} says more` },
        );
    }
  }

  #maskedError(): StoreError {
    return new StoreError("refused", `${this.name} is masked, so it could not be started again`, {
      hint: `${this.#command(`unmask ${this.name}`)}, or --service none if nothing uses the store`,
    });
  }

  #checkStartable(unit: Properties): void {
    // A unit can be masked, or its file deleted, while it runs and the manager still has it in memory.
    if (unit.UnitFileState?.startsWith("masked")) throw this.#maskedError();
    for (const [property, word] of [
      ["RefuseManualStop", "stopped"],
      ["RefuseManualStart", "started"],
    ] as const) {
      if (unit[property] === "yes") {
        throw new StoreError(
          "refused",
          `${this.name} may not be ${word} by hand (${property}=yes in its file)`,
          { hint: "name the unit that it belongs to, or use --stop-command and --start-command" },
        );
      }
    }
    if (unit.Transient === "yes") {
      throw new StoreError(
        "refused",
        `${this.name} was made by systemd-run and has no file: once stopped it could not be started again`,
        { hint: "write a unit file for it, or use --stop-command and --start-command" },
      );
    }
    const path = unit.FragmentPath ?? "";
    if (path && !statSync(path, { throwIfNoEntry: false })) {
      throw new StoreError(
        "refused",
        `the file of ${this.name}, ${path}, is gone: once stopped it could not be started again`,
        { hint: `put the file back, then ${this.#command("daemon-reload")}` },
      );
    }
  }

  async #checkUpholders(unit: Properties): Promise<void> {
    const names = (unit.UpheldBy ?? "").split(" ").filter(Boolean);
    if (names.length === 0) return;
    const upholder = (await this.#show(["Id", "ActiveState"], names)).find(isActive);
    if (upholder) {
      throw new StoreError(
        "refused",
        `${this.name} would be started again at once by ${upholder.Id}, which upholds it`,
        { hint: `--unit ${upholder.Id}, or ${this.#command(`stop ${upholder.Id}`)} first` },
      );
    }
  }

  async #checkUser(unit: Properties, storePath: string): Promise<void> {
    const owner = statSync(storePath, { throwIfNoEntry: false })?.uid;
    const user = await this.#userOf(unit);
    if (owner === undefined || user === undefined || owner === user) return;
    throw new StoreError(
      "refused",
      `${this.name} runs as user ${user}, but ${storePath} belongs to user ${owner}`,
      {
        hint: "name the unit that uses this store (--unit), or the store that this unit uses (--db)",
      },
    );
  }

  /** The user id that it runs as, or will run as; undefined if that is known only once it runs (DynamicUser). */
  async #userOf(unit: Properties): Promise<number | undefined> {
    const pid = Number(unit.MainPID);
    if (pid > 0) {
      const uid = statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid;
      if (uid !== undefined) return uid;
    }
    if (this.kind === "systemd-user") return process.geteuid?.();
    if (unit.DynamicUser === "yes") return undefined;
    const user = unit.User || "root";
    const { code, stdout } = await run("id", ["-u", "--", user], { timeoutMs: queryLimitMs });
    return code === 0 ? Number(stdout) : undefined;
  }

  /** Whether a running unit is this store's. */
  async #checkStore(unit: Properties, storePath: string): Promise<string[]> {
    const group = unit.ControlGroup ?? "";
    const holds = async () =>
      (await findHolders(storePath)).holders.some(({ pid }) => isInGroup(pid, group));
    if (await holds()) return [];
    const pids = listProcesses(group);
    const names = [basename(storePath), "clients.db"];
    const other =
      openStore(pids, names) ?? pointedAt(Number(unit.MainPID) || pids[0], storePath, names);
    // One that has only just been started opens it in between.
    if (other === storePath && (await holds())) return [];
    if (other) {
      throw new StoreError("refused", `the unit ${this.name} uses ${other}, not ${storePath}`, {
        hint: `--db ${other} if that store was meant, --unit for another unit, --service none if nothing uses this store`,
      });
    }
    return [`${this.name} runs, but does not have ${storePath} open at the moment`];
  }

  /** What wakes the unit comes before it: a socket refuses to start once its service is up. */
  #startOrder(dependents: readonly string[]): string[] {
    return [
      ...dependents.filter((name) => wakes.test(name)),
      this.name,
      ...dependents.filter((name) => !wakes.test(name)),
    ];
  }

  async #show(properties: readonly string[], units: readonly string[]): Promise<Properties[]> {
    return show(this.kind, properties, units);
  }

  #command(rest: string): string {
    return ["systemctl", ...scopeOf(this.kind), rest].join(" ");
  }

  #words(outcome: Outcome): string {
    if (outcome.failure === "timeout") return ": it took too long, and may go on";
    return outcome.stderr
      ? `: ${outcome.stderr
          .split("\n")
          .map((line) => line.trim())
          .join(" ")}`
      : "";
  }

  #error(message: string, unit = this.name): StoreError {
    return new StoreError("service", message, {
      hint: `${["journalctl", ...scopeOf(this.kind)].join(" ")} -u ${unit}`,
    });
  }
}

const unitProperties = [
  "LoadState",
  "LoadError",
  "ActiveState",
  "MainPID",
  "ControlGroup",
  "UnitFileState",
  "FragmentPath",
  "Transient",
  "NeedDaemonReload",
  "RefuseManualStart",
  "RefuseManualStop",
  "UpheldBy",
  "User",
  "DynamicUser",
];

const groupProperties = [
  "Id",
  "ActiveState",
  "ControlGroup",
  "TimeoutStartUSec",
  "TimeoutStopUSec",
  "ExecStop",
  "ExecStopPost",
  "SendSIGKILL",
  "TriggeredBy",
  ...stopsAlong,
];

/** The unit itself, then all that is stopped by stopping it or could start it again. */
async function stopGroup(kind: Manager, name: string): Promise<Properties[]> {
  const group: Properties[] = [];
  const known = new Set<string>();
  let names = [name];
  while (names.length > 0) {
    const members = await show(kind, groupProperties, names);
    for (const member of members) known.add(member.Id ?? "");
    group.push(...members);
    const further = members.flatMap((member) =>
      ["TriggeredBy", ...stopsAlong].flatMap((property) => (member[property] ?? "").split(" ")),
    );
    names = [...new Set(further)].filter((next) => next !== "" && !known.has(next));
  }
  return group;
}

/** It runs or is about to: "activating" is also a unit that waits to be restarted after a crash. */
function isActive(unit: Properties): boolean {
  return !["inactive", "failed", "deactivating", undefined].includes(unit.ActiveState);
}

function isUp(unit: Properties): boolean {
  return unit.ActiveState === "active" || unit.ActiveState === "reloading";
}

function stateOf(unit: Properties): ServiceState {
  const mainPid = Number(unit.MainPID);
  return {
    active: isActive(unit),
    ...(unit.InvocationID ? { invocation: unit.InvocationID } : {}),
    ...(mainPid > 0 ? { mainPid } : {}),
  };
}

/**
 * What a unit may take to stop. The manager grants TimeoutStopSec anew to each stage: to the ExecStop commands, to the
 * processes after SIGTERM, to ExecStopPost; and once more to what it may not end with SIGKILL.
 */
function stopLimitMs(unit: Properties): number {
  const further = [unit.ExecStop, unit.ExecStopPost, unit.SendSIGKILL === "no"].filter(Boolean);
  return (1 + further.length) * timespanMs(unit.TimeoutStopUSec);
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}

/**
 * What the settle command needs to find the same places and the same keyring, as NAME=VALUE: paths and the names of
 * sources, never secrets.
 */
function passedOn(): string[] {
  return Object.entries(process.env).flatMap(([name, value]) =>
    /^(HOME|PATH|XDG_\w+|DBUS_SESSION_BUS_ADDRESS|HIVEMIND_SQLCIPHER_\w+)$/.test(name)
      ? [`${name}=${value}`]
      : [],
  );
}
