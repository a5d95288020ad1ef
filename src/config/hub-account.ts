/**
 * The hub that this process works for: its account, if root works for the hub of a system unit or
 * of a container, and its container, if it runs in one. With an account, the hub's files are found
 * by the environment of its unit, its Python runs as its user, and the timers are system units.
 */
import { dirname, join, resolve } from "node:path";
import { StoreError } from "../errors.js";
import { dataHome, type Environment } from "./paths.js";

export interface HubAccount {
  readonly environment: Environment;
  readonly uid: number;
  readonly gid: number;
}

/** A service of a compose file, and the file that setup adds to it. */
export interface ComposeService {
  readonly engine: "podman" | "docker";
  readonly project: string;
  readonly directory: string;
  readonly service: string;
  readonly override: string;
}

/** The files of a hub in a container. In `server.json`, the hub uses the container's paths. */
export interface ContainerFiles {
  /** The hub's own `server.json` on this machine; undefined if it is on no volume. */
  readonly serverJson: string | undefined;
  /** The path in the container at which the hub reads its `server.json`. */
  readonly pathInside: string;
  /** The hub's `$XDG_DATA_HOME`, a path in the container. */
  readonly dataHome: string;
  readonly mounts: readonly Mount[];
}

/** The container of a hub for this process to work on, and what starts it. */
export interface ManagedContainer extends ContainerFiles {
  readonly name: string;
  /** The unit that starts the container, or the container itself. */
  readonly unit: {
    readonly manager: "systemd-user" | "systemd" | "podman" | "docker";
    readonly name: string;
  };
  /** Set if compose has created the container. */
  readonly compose?: ComposeService | undefined;
  readonly serverJson: string;
}

export interface Mount {
  /** The path on this machine, with symbolic links resolved. */
  readonly source: string;
  /** The path in the container. */
  readonly destination: string;
}

let account: HubAccount | undefined;
let container: ManagedContainer | undefined;

/**
 * Makes this process work for the hub of an account. Call it before any file of the hub is read.
 */
export function workFor(hub: HubAccount): void {
  account = hub;
}

/**
 * Makes this process work for the hub of a container. Call it before any file of the hub is read.
 */
export function workForContainer(hub: ManagedContainer): void {
  container = hub;
}

export function hubContainer(): ManagedContainer | undefined {
  return container;
}

export function hubAccount(): HubAccount | undefined {
  return account;
}

/** Returns the environment of the hub's account, or else of this process. */
export function hubEnvironment(): Environment {
  return account?.environment ?? process.env;
}

/** Returns the hub's `$XDG_DATA_HOME`, in a container as a path of the container. */
export function hubDataHome(): string {
  return container?.dataHome ?? dataHome(hubEnvironment());
}

/**
 * Returns the path on this machine of a file in the hub's data directory.
 *
 * @param names - the path below the data directory, or an absolute path
 * @throws {@link StoreError} refused - if the file is on no volume of the hub's container
 */
export function fileOfHub(...names: string[]): string {
  const path = resolve(hubDataHome(), ...names);
  const found = container === undefined ? path : toMachine(container.mounts, path);
  if (found !== undefined) return found;
  throw new StoreError("refused", `the container ${container?.name} has no volume with ${path}`, {
    hint: `Mount a directory of this machine over ${dirname(path)}: docs/guide/containers.md shows how.`,
  });
}

/** Returns a path of this machine as a path of the hub; undefined if the hub does not see it. */
export function toHub(path: string): string | undefined {
  if (container === undefined) return path;
  const reversed = container.mounts.map(({ source, destination }) => ({
    source: destination,
    destination: source,
  }));
  return toMachine(reversed, path);
}

/**
 * Returns a path of a container as a path of this machine, by the innermost mount; undefined if it
 * is on no volume.
 */
export function toMachine(mounts: readonly Mount[], path: string): string | undefined {
  const [mount] = mounts
    .filter(({ destination }) => `${path}/`.startsWith(`${destination.replace(/\/$/, "")}/`))
    .sort((a, b) => b.destination.length - a.destination.length);
  return mount && join(mount.source, path.slice(mount.destination.length));
}
