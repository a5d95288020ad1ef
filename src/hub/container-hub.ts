/**
 * The hub of a container: its files as paths of this machine, and its Python.
 *
 * Such a hub gets its password from a copy of `server.json` in memory: the container mounts it
 * over the hub's own file. `run --prepare` writes the copy. `rotate` and other changes of the
 * passphrase write it, too, before they start the container.
 */
import type { Stats } from "node:fs";
import { stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import {
  type ContainerFiles,
  type HubAccount,
  type ManagedContainer,
  toMachine,
} from "../config/hub-account.js";
import { StoreError } from "../errors.js";
import { realPathIfExists, statIfExists } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import { argsOf } from "../process/cgroup.js";
import { type Container, inspectContainer, isEngine, runEngine } from "../service/engine.js";
import { findHubProcess, listAllContainers } from "../service/find-container.js";
import { type ServiceName, show, type UnitName } from "../service/systemctl.js";
import { findContainersOf } from "../service/unit-containers.js";
import { shellQuote } from "../text/escape.js";
import { type HubPython, isPython } from "./interpreter.js";
import { isInMemory } from "./memory.js";

/** A container of an engine, and the files of its hub. */
export interface InspectedHub extends ContainerFiles {
  readonly container: Container;
  /** The copy in memory, mounted over the hub's own file. It may not exist. */
  readonly copy: string | undefined;
}

/** Finds the files of a container's hub by the mounts of the container. */
export async function readContainerHub(container: Container): Promise<InspectedHub> {
  const { mounts, environment } = container;
  const configHome = configHomeOf(container);
  const pathInside = join(configHome, "hivemind-core", "server.json");
  const mounted = mounts.find(({ destination }) => destination === pathInside)?.source;
  const isCopy = mounted !== undefined && (await isInMemory(mounted).catch(() => false));
  const directory = toMachine(mounts, dirname(pathInside));
  return {
    container,
    pathInside,
    serverJson:
      mounted === undefined || isCopy ? directory && join(directory, "server.json") : mounted,
    copy: isCopy ? mounted : undefined,
    dataHome: environment.XDG_DATA_HOME ?? join(dirname(configHome), ".local", "share"),
    mounts,
  };
}

/** Returns the hub's `$XDG_CONFIG_HOME`. Prefers the mounts: an image may omit the variables. */
function configHomeOf({ mounts, environment }: Container): string {
  const destinations = mounts.map(({ destination }) => destination);
  const file = destinations.find((path) => path.endsWith("/hivemind-core/server.json"));
  if (file !== undefined) return dirname(dirname(file));
  const directory = destinations.find((path) => path.endsWith("/.config/hivemind-core"));
  if (directory !== undefined) return dirname(directory);
  const config = destinations.find((path) => path.endsWith("/.config"));
  return config ?? environment.XDG_CONFIG_HOME ?? join(environment.HOME ?? "/root", ".config");
}

/**
 * Returns the directory of the hub's identity if it is on no volume; undefined if it is on a
 * volume, or if the hub has no identity or does not run.
 *
 * A container that is created again makes another identity. HiveMind's satellites remember the key
 * of the first one, and refuse a hub with another key.
 */
export async function findLosableIdentity(container: Container): Promise<string | undefined> {
  const directory = join(configHomeOf(container), "hivemind");
  const file = join(directory, "_identity.json");
  if (toMachine(container.mounts, file) !== undefined) return undefined;
  return (await existsInside(container, file)) ? directory : undefined;
}

/** Returns whether a running container has a file. */
export async function existsInside(
  { engine, id, status }: Container,
  path: string,
): Promise<boolean> {
  if (status !== "running") return false;
  return (await runEngine(engine, ["exec", id, "test", "-e", path])).code === 0;
}

/**
 * Returns the command to copy a directory out of a container. The copied files belong to the caller
 * of the engine, so for root the command gives them to the hub's user.
 */
export async function copyOutLine(
  container: Container,
  directory: string,
  target: string,
): Promise<string> {
  const { engine, name } = container;
  const from = shellQuote(`${name}:${directory}/.`);
  const copy = `mkdir -m 700 ${target} && ${engine} cp ${from} ${target}`;
  const hub = isRoot() ? await statHubProcess(container) : undefined;
  return hub?.uid ? `${copy} && chown -R ${hub.uid}:${hub.gid} ${target}` : copy;
}

/**
 * Checks that no container of another hub mounts the file at the path of a copy: it would start
 * with the settings and the password of this hub.
 *
 * @throws {@link StoreError} refused - if one does
 */
export async function assertOwnCopy(
  { container, serverJson }: InspectedHub,
  path: string,
): Promise<void> {
  const target = realPathIfExists(path);
  for (const other of await listAllContainers()) {
    if (other.id === container.id) continue;
    if (other.mounts.every(({ source }) => source !== target)) continue;
    // Another container of the same hub, such as hivemind_cli, may use the same copy.
    if ((await readContainerHub(other)).serverJson === serverJson) continue;
    throw new StoreError("refused", `the container ${other.name} mounts ${path} for another hub`, {
      hint: `Name a file of its own for ${container.name}, in another directory in memory.`,
    });
  }
}

/**
 * Returns the account on this machine that the hub of a container has, for a process of root: that
 * of its process, or, while it does not run, of its `server.json`.
 */
export async function findContainerAccount({
  unit,
  serverJson,
}: ManagedContainer): Promise<HubAccount> {
  const container = await findContainerOfService(unit);
  const hub = container && (await statHubProcess(container));
  const { uid, gid } = hub ?? (await stat(serverJson));
  return { uid, gid, environment: process.env };
}

/** Returns the owner of the hub's process; undefined unless the hub runs. */
async function statHubProcess(container: Container): Promise<Stats | undefined> {
  const pid = findHubProcess(container);
  return pid === undefined ? undefined : statIfExists(`/proc/${pid}`);
}

/** Returns the container of a service: the running container of a unit, or the named container. */
export async function findContainerOfService({
  manager,
  name,
}: ServiceName): Promise<Container | undefined> {
  return isEngine(manager)
    ? inspectContainer(manager, name)
    : findContainerOfUnit({ manager, name });
}

/** Returns the running container of a unit; undefined if the unit has none. */
export async function findContainerOfUnit({
  manager,
  name,
}: UnitName): Promise<Container | undefined> {
  const [unit = {}] = await show(manager, ["MainPID", "ControlGroup"], [name]);
  const [id] = findContainersOf(unit);
  return id === undefined ? undefined : inspectContainer("podman", id);
}

/**
 * Returns a command that runs the Python of a container's hub in the container; undefined unless
 * the hub runs.
 */
export function findContainerPython(container: Container): HubPython | undefined {
  const { engine, id, status } = container;
  const pid = status === "running" ? findHubProcess(container) : undefined;
  const [program = ""] = pid === undefined ? [] : argsOf(pid);
  if (!isPython(program)) return undefined;
  const python = shellQuote(program);
  // The last argument is a temporary directory of this machine, absent in the container.
  const script = `home=$(mktemp -d) || exit; ${python} "$1" "$2" "$home"; code=$?; rm -rf "$home"; exit $code`;
  return [engine, "exec", "--interactive", id, "sh", "-c", script, "sh"];
}
