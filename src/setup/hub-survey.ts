/** Inspects the units that may be the hub. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { userInfo } from "node:os";
import { dirname } from "node:path";
import { hubAccount, hubContainer } from "../config/hub-account.js";
import { realPath } from "../config/paths.js";
import { readMountPoints } from "../fs/mount.js";
import {
  findContainerOfService,
  findContainerOfUnit,
  readContainerHub,
} from "../hub/container-hub.js";
import { dropInPath, readHubCommands } from "../hub/existing-unit.js";
import { findAllHubProcesses, findHubProcesses, findHubUnits } from "../hub/find-hubs.js";
import { startsByRun } from "../hub/password-delivery.js";
import { serverJsonPath } from "../hub/server-json.js";
import { argsOf, isInGroup } from "../process/cgroup.js";
import { findHolders } from "../process/holders.js";
import { copyUnitOf } from "../service/copy-unit.js";
import type { Container } from "../service/engine.js";
import { findContainerOf, findHubContainers } from "../service/find-container.js";
import { isRootName, prefer, startsEngine } from "../service/hub-units.js";
import { isInContainer } from "../service/origin.js";
import { type Properties, parseList } from "../service/properties.js";
import { findQuadlet } from "../service/quadlet.js";
import {
  fullUnitName,
  isUnit,
  type Manager,
  managers,
  type ServiceName,
  show,
  systemctl,
  type UnitName,
} from "../service/systemctl.js";
import { readCommandLines } from "../service/unit-commands.js";
import { isInContainers } from "../service/unit-containers.js";
import { isRestarting } from "../service/unit-state.js";
import { hasRunCommand } from "./container.js";
import { findExistingAncestor, isWritable } from "./files.js";
import { findProblem, type Problem } from "./problem.js";

export type HubState = "running" | "stopped" | "failed" | "restarting" | "masked" | "paused";

/** A unit that may be the hub, or a container of compose. */
export interface HubSurvey extends ServiceName {
  readonly state: HubState;
  /** The account of the hub, if it is not this user. */
  readonly otherUser: string | undefined;
  /** The account in `User=` of a system unit, unless it is root. */
  readonly systemUser: string | undefined;
  /** How the unit starts the hub, without `run`. */
  readonly command: readonly string[];
  /** Whether the next start of the hub goes through `run`. */
  readonly startsByRun: boolean;
  /** As {@link isHubServing} returns it. */
  readonly isServing: boolean;
  /** The path of this program's drop-in, or of its override for compose. */
  readonly dropIn: string;
  readonly isDropInWritable: boolean;
  /** Whether the drop-in starts another hub than the unit itself names. */
  readonly isDropInOutdated: boolean;
  /**
   * A drop-in of another author that sets the unit's command; for compose, a unit that writes the
   * copy for this store.
   */
  readonly otherDropIn: string | undefined;
}

interface Wanted {
  readonly storePath: string;
  readonly unit: string | undefined;
  readonly manager: Manager | undefined;
}

const properties = [
  ...["Id", "LoadState", "UnitFileState", "ActiveState", "SubState", "MainPID", "ControlGroup"],
  ...["User", "DropInPaths", "NRestarts", "ActiveEnterTimestampMonotonic"],
];

/** A restarted hub counts as in a crash loop if it has been up for less than 20 s. */
const crashLoopMicroseconds = 20_000_000;

/**
 * Returns the units that may be the hub of this user's `server.json`. If any of them runs, leaves
 * out those that do not run, which may be left by earlier installations.
 *
 * @param known - the unit of a setup in progress
 */
export async function surveyHubs(
  wanted: Wanted,
  known?: ServiceName,
): Promise<readonly HubSurvey[]> {
  const names = await findNames(wanted, known);
  const found = await Promise.all(
    names.map((hub) =>
      isUnit(hub)
        ? surveyUnit(hub, wanted.storePath)
        : surveyComposed(hub, wanted.storePath, known !== undefined),
    ),
  );
  const hubs = found.filter((hub) => hub !== undefined);
  return prefer(hubs, ({ state }) => state === "running" || state === "restarting");
}

async function findNames({ unit, manager }: Wanted, known?: ServiceName): Promise<ServiceName[]> {
  const container = hubContainer();
  if (container !== undefined) return [container.unit];
  const isWanted = (each: Manager) => manager === undefined || manager === each;
  if (unit !== undefined) {
    const name = fullUnitName(unit);
    return managers.filter(isWanted).map((each) => ({ manager: each, name }));
  }
  if (known !== undefined) return [known];
  const units = (await findHubUnits(serverJsonPath())).filter(
    (each) => !startsEngine(each) && isWanted(each.manager),
  );
  return units.length > 0 ? units : findMasked(isWanted);
}

/** Finds masked units by name, because a masked unit has no command. */
async function findMasked(isWanted: (manager: Manager) => boolean): Promise<UnitName[]> {
  const found: UnitName[] = [];
  const args = ["list-unit-files", "--state=masked", "--type=service", "--no-legend", "--plain"];
  for (const manager of managers.filter(isWanted)) {
    const { stdout } = await systemctl(manager, args);
    const names = stdout.match(/^hivemind\S*\.service(?= )/gm) ?? [];
    found.push(...names.map((name) => ({ manager, name })));
  }
  return found;
}

/** Returns the hub in a container of compose. */
async function surveyComposed(
  hub: ServiceName,
  storePath: string,
  isKnown: boolean,
): Promise<HubSurvey | undefined> {
  const override = hubContainer()?.compose?.override;
  if (override === undefined) return undefined;
  const container = await findContainerOfService(hub);
  const { file } = copyUnitOf(storePath);
  return {
    ...hub,
    state: containerState(container?.status),
    otherUser: undefined,
    systemUser: undefined,
    otherDropIn: !isKnown && existsSync(file) ? file : undefined,
    command: [],
    startsByRun: (await isStartedByRun(hub)) && existsSync(override),
    isServing: await isHubServing(hub, storePath),
    dropIn: override,
    isDropInWritable: await isWritable(dirname(override)),
    isDropInOutdated: false,
  };
}

function containerState(status: string | undefined): HubState {
  return status === "running" || status === "paused" || status === "restarting"
    ? status
    : "stopped";
}

async function surveyUnit(unit: UnitName, storePath: string): Promise<HubSurvey | undefined> {
  const { manager, name } = unit;
  const [found] = await show(manager, properties, [name]).catch(() => []);
  if (found === undefined || found.LoadState === "not-found") return undefined;
  const isMasked = found.LoadState === "masked" || /^masked/.test(found.UnitFileState ?? "");
  const common = { manager, name: found.Id ?? name };
  if (isMasked) {
    return {
      ...common,
      state: "masked",
      otherUser: undefined,
      systemUser: undefined,
      otherDropIn: undefined,
      command: [],
      startsByRun: false,
      isServing: false,
      dropIn: "",
      isDropInWritable: false,
      isDropInOutdated: false,
    };
  }
  const quadlet = hubContainer() && (await findQuadlet(common));
  const { hub: command, isOutdated } = quadlet
    ? { hub: [], isOutdated: false }
    : await readHubCommands(common);
  const dropIn = quadlet?.dropIn ?? (await dropInPath(common));
  const byRun = await hasRunCommand(common);
  return {
    ...common,
    state: (await isPaused(common)) ? "paused" : toHubState(found),
    otherUser: findOtherUser(manager, found),
    systemUser: findSystemUser(manager, found),
    command,
    startsByRun: byRun,
    isDropInOutdated: isOutdated,
    isServing: await isHubServing(common, storePath),
    dropIn,
    isDropInWritable: await isWritable(await findExistingAncestor(dirname(dropIn))),
    otherDropIn: byRun ? undefined : await findOtherDropIn(found, dropIn),
  };
}

async function isPaused(unit: UnitName): Promise<boolean> {
  if (hubContainer() === undefined) return false;
  return (await findContainerOfUnit(unit))?.status === "paused";
}

/** Returns whether the running hub was started through `run`, and has the store open. */
export async function isHubServing(hub: ServiceName, storePath: string): Promise<boolean> {
  const { holders } = await findHolders(storePath);
  if (!isUnit(hub) || hubContainer() !== undefined) {
    const container = await findContainerWithCopy(hub);
    return holders.some(({ pid }) => isInContainers(pid, container ? [container.id] : []));
  }
  const [found = {}] = await show(hub.manager, ["MainPID", "ControlGroup"], [hub.name]);
  const pid = Number(found.MainPID);
  const inUnit = holders.filter((holder) => isInGroup(holder.pid, found.ControlGroup ?? ""));
  // The process of `run` itself may have the store open for a moment.
  if (isRunProcess(pid)) return inUnit.some((holder) => holder.pid !== pid);
  return inUnit.length > 0 && (await hasMountedServerJson(pid));
}

/**
 * Returns whether the running hub was started through `run`, or reads the `server.json` that `run`
 * prepared.
 */
export async function isStartedByRun(hub: ServiceName): Promise<boolean> {
  if (!isUnit(hub) || hubContainer() !== undefined) {
    return (await findContainerWithCopy(hub)) !== undefined;
  }
  const [found = {}] = await show(hub.manager, ["MainPID"], [hub.name]);
  const pid = Number(found.MainPID);
  return isRunProcess(pid) || (await hasMountedServerJson(pid));
}

/** Returns the container of a hub, if it mounts a copy of `server.json` in memory. */
async function findContainerWithCopy(hub: ServiceName): Promise<Container | undefined> {
  const container = await findContainerOfService(hub);
  return container && (await readContainerHub(container)).copy ? container : undefined;
}

function isRunProcess(pid: number): boolean {
  return startsByRun(argsOf(pid).join(" "));
}

/** Returns whether a file is mounted over `server.json` for a process, as for a system unit. */
async function hasMountedServerJson(pid: number): Promise<boolean> {
  return pid > 0 && (await readMountPoints(pid)).has(await realPath(serverJsonPath()));
}

function toHubState(unit: Properties): HubState {
  if (unit.ActiveState === "failed") return "failed";
  if (unit.ActiveState === "inactive") return "stopped";
  return isRestarting(unit) || isLooping(unit) ? "restarting" : "running";
}

/** Returns whether a unit that is up for some seconds each time is in a crash loop. */
function isLooping({ NRestarts, ActiveEnterTimestampMonotonic }: Properties): boolean {
  const now = Number(process.hrtime.bigint() / 1000n);
  const upFor = now - Number(ActiveEnterTimestampMonotonic ?? 0);
  return Number(NRestarts ?? 0) >= 2 && upFor < crashLoopMicroseconds;
}

function findOtherUser(manager: Manager, { User }: Properties): string | undefined {
  if (manager === "systemd-user") return undefined;
  // As root, this process works in the account of the hub.
  if (hubAccount() !== undefined) return undefined;
  const own = userInfo();
  const user = User || "root";
  return user === own.username || user === `${own.uid}` ? undefined : user;
}

/**
 * Returns the file that starts a unit through `run` even without the drop-in at `dropIn`; undefined
 * if there is none. A later file can clear the commands of earlier files with an empty value.
 */
export async function findOtherRun(unit: UnitName, dropIn: string): Promise<string | undefined> {
  // The generated file contains the drop-in.
  const quadlet = hubContainer() && (await findQuadlet(unit));
  const found = new Map<string, string>();
  for (const { file, key, value } of await readCommandLines(unit, {
    without: dropIn,
    file: quadlet?.file,
  })) {
    if (value === "") found.delete(key);
    else if (startsByRun(value.replaceAll(/["']/g, ""))) found.set(key, file);
  }
  return [...found.values()][0];
}

function findSystemUser(manager: Manager, { User }: Properties): string | undefined {
  return manager === "systemd-user" || isRootName(User) ? undefined : User;
}

async function findOtherDropIn(
  { DropInPaths }: Properties,
  own: string,
): Promise<string | undefined> {
  for (const path of parseList(DropInPaths)) {
    if (path === own) continue;
    const text = await readFile(path, "utf8").catch(() => "");
    if (/^[ \t]*ExecStart[ \t]*=/m.test(text)) return path;
  }
  return undefined;
}

/** A hub in a container may use this `server.json` at another path. */
export async function findOtherHub(): Promise<Problem | undefined> {
  const [own] = await findHubProcesses(serverJsonPath());
  if (own !== undefined && !isInContainer(own.pid)) {
    return { message: `process ${own.pid} is a hub that no unit of yours starts`, hint: undefined };
  }
  const hub = (await findAllHubProcesses()).find(({ pid }) => isInContainer(pid));
  if (hub === undefined) return undefined;
  const names = (await findHubContainers()).map(({ name }) => name);
  if (names.length > 1) {
    return {
      message: `several containers have a hub: ${names.join(", ")}`,
      hint: `Name one: --unit ${names.join(", or --unit ")}; with --db for the store of a second hub.`,
    };
  }
  const message = `process ${hub.pid} is a hub in a container`;
  const problem = await findProblem(() => findContainerOf(hub.pid));
  return problem
    ? { message: `${message}, but ${problem.message}`, hint: problem.hint }
    : { message, hint: undefined };
}
