/** Finds the containers of hubs, the container that uses a store, and the unit that starts it. */
import { basename } from "node:path";
import { ignoreKind, StoreError } from "../errors.js";
import { argsOf, findOpenStore, readGroups } from "../process/cgroup.js";
import type { Holder } from "../process/holders.js";
import { readProc } from "../process/proc.js";
import {
  type Container,
  type Engine,
  engines,
  inspectContainer,
  isContainerActive,
  listContainerProcesses,
  listContainers,
  mayHaveContainers,
  mountsStore,
} from "./engine.js";
import { runsHub } from "./hub-units.js";
import { findOrigin } from "./origin.js";
import { managers, show, type UnitName } from "./systemctl.js";
import { isActive } from "./unit-state.js";

/**
 * Returns the container of a process; undefined if it runs in none.
 *
 * @throws {@link StoreError} service - if this user may not use the engine, or another user started
 *   the container
 */
export async function findContainerOf(pid: number): Promise<Container | undefined> {
  const origin = findOrigin(pid);
  if (origin === undefined || !("id" in origin)) return undefined;
  const { kind: engine, id } = origin;
  const container = await inspectContainer(engine, id);
  if (container !== undefined) return container;
  const [, uid = "0"] = /\/user(?:@|-)(\d+)\.s(?:ervice|lice)/.exec(readGroups(pid)) ?? [];
  throw new StoreError(
    "service",
    `${engine} does not show the container ${id.slice(0, 12)} to this user`,
    { hint: findEngineHint(engine, uid) },
  );
}

function findEngineHint(engine: Engine, uid: string): string {
  if (uid === "0") return "Run this as root.";
  if (engine === "docker" && uid === `${process.geteuid?.()}`) {
    return "Let docker use your own Docker: docker context use rootless.";
  }
  return `Run this as user ${uid}, who started it.`;
}

/**
 * Returns whether a holder of the store is the container's hub, and not a program started by
 * `podman exec` or `docker exec`: such a program is not a descendant of the main process.
 */
export function isHubOfContainer({ pid }: Holder, container: Container): boolean {
  if (runsHub(argsOf(pid))) return true;
  for (let ancestor = pid; ancestor > 1; ancestor = readParent(ancestor)) {
    if (ancestor === container.pid) return true;
  }
  return false;
}

/** Returns the parent of a process; 0 if the process has ended. */
function readParent(pid: number): number {
  return Number(/^PPid:\s*(\d+)$/m.exec(readProc(pid, "status"))?.[1] ?? 0);
}

/** Returns the hub's process in a container; undefined unless the hub runs. It may be paused. */
export function findHubProcess(container: Container): number | undefined {
  return listContainerProcesses(container).find((pid) => runsHub(argsOf(pid)));
}

/** Returns whether a container is a hub's, by its command or a process in it. */
function containsHub(container: Container): boolean {
  return runsHub(container.args) || findHubProcess(container) !== undefined;
}

/** Returns the containers of hubs, by their command or a process in them, of all engines. */
export async function findHubContainers(): Promise<Container[]> {
  return (await listAllContainers()).filter(containsHub);
}

/** Returns the containers of engines, also stopped ones. Omits an unusable engine. */
export async function listAllContainers(
  searched: readonly Engine[] = engines,
): Promise<Container[]> {
  const found: Container[] = [];
  for (const engine of searched.filter((each) => mayHaveContainers(each))) {
    const containers = listContainers(engine, { all: true });
    found.push(...(await containers.catch(ignoreKind("service", []))));
  }
  return found;
}

/** The candidates for the hub of a store. */
export interface ConfiguredContainers {
  /**
   * Hubs without another open store, also those paused or about to be restarted by their engine.
   */
  readonly active: readonly Container[];
  /** The containers without a running process: of hubs only, if there are any. */
  readonly stopped: readonly Container[];
}

/**
 * Finds the containers with a mount of the store. A running hub need not have the store open: a hub
 * on JSON opens its file only to write, and any hub needs seconds until it has opened its store.
 * Without a hub among the stopped containers, omits those with the command `sleep`, because they
 * only serve `exec`.
 */
export async function findConfiguredContainers(
  storePath: string,
  searched: readonly Engine[],
): Promise<ConfiguredContainers> {
  const found = (await listAllContainers(searched)).filter((each) => mountsStore(each, storePath));
  const usesOtherStore = (container: Container) =>
    findOpenStore(listContainerProcesses(container), storePath)?.isOther === true;
  const stopped = found.filter((each) => !isRunning(each));
  const hubs = stopped.filter(containsHub);
  return {
    active: found.filter(
      (each) => isContainerActive(each) && containsHub(each) && !usesOtherStore(each),
    ),
    stopped:
      hubs.length > 0 ? hubs : stopped.filter(({ args }) => basename(args[0] ?? "") !== "sleep"),
  };
}

const isRunning = ({ status }: Container) => status === "running" || status === "paused";

/**
 * Finds a container by name in all engines. Omits an unusable engine.
 *
 * @param hint - how to name one of two containers
 * @throws {@link StoreError} refused - if both engines have it
 */
export async function findNamedContainer(
  name: string,
  hint: string,
): Promise<Container | undefined> {
  const found: Container[] = [];
  for (const engine of engines.filter((each) => mayHaveContainers(each))) {
    const container = await inspectContainer(engine, name).catch(ignoreKind("service", undefined));
    if (container !== undefined) found.push(container);
  }
  if (found.length < 2) return found[0];
  throw new StoreError("refused", `both engines have a container ${name}`, { hint });
}

/**
 * Returns the systemd unit of a Podman container. The container's label names the unit, or the
 * unit's main process is the container's monitor. Ignores a stopped unit while the container runs:
 * the container was then started without the unit.
 */
export async function findUnitOfContainer(container: Container): Promise<UnitName | undefined> {
  if (container.engine !== "podman") return undefined;
  const named = container.unit === undefined ? [] : [container.unit];
  for (const manager of managers) {
    const properties = ["Id", "LoadState", "ActiveState", "MainPID"];
    // The pattern matches the units that the manager has loaded.
    const units = await show(manager, properties, [...named, "*.service"]).catch(() => []);
    const unit = units.find(
      ({ Id, LoadState, MainPID }, index) =>
        (index < named.length && LoadState === "loaded") ||
        (Id !== undefined && container.monitorPid > 0 && MainPID === `${container.monitorPid}`),
    );
    if (unit?.Id && (isActive(unit) || !isContainerActive(container))) {
      return { manager, name: unit.Id };
    }
  }
  return undefined;
}
