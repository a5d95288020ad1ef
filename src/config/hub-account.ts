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

/** A container with a hub. In `server.json`, the hub uses the container's paths. */
export interface HubContainer {
  readonly name: string;
  /** The unit that starts the container, or the container itself. */
  readonly unit: {
    readonly manager: "systemd-user" | "systemd" | "podman" | "docker";
    readonly name: string;
  };
  /** Set if compose has created the container. */
  readonly compose?: ComposeService | undefined;
  /** The hub's `server.json` on this machine. */
  readonly serverJson: string;
  /** The path of `server.json` in the container. */
  readonly inside: string;
  /** The hub's `$XDG_DATA_HOME`, a path in the container. */
  readonly dataHome: string;
  readonly mounts: readonly Mount[];
}

export interface Mount {
  /** The path on this machine, with symbolic links resolved. */
  readonly source: string;
  /** The path in the container. */
  readonly destination: string;
}

let account: HubAccount | undefined;
let container: HubContainer | undefined;

/**
 * Makes this process work for the hub of an account. Call it before any file of the hub is read.
 */
export function workFor(hub: HubAccount): void {
  account = hub;
}

/**
 * Makes this process work for the hub of a container. Call it before any file of the hub is read.
 */
export function workForContainer(hub: HubContainer): void {
  container = hub;
}

export function hubContainer(): HubContainer | undefined {
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

/** Returns a path of the hub as a path of this machine; undefined if it is on no volume. */
export function toMachine(path: string): string | undefined {
  return container === undefined ? path : throughMounts(container.mounts, path);
}

/**
 * Returns the path on this machine of a file in the hub's data directory.
 *
 * @param names - the path below the data directory, or an absolute path
 * @throws {@link StoreError} refused - if the file is on no volume of the hub's container
 */
export function fileOfHub(...names: string[]): string {
  const path = resolve(hubDataHome(), ...names);
  const found = toMachine(path);
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
  return throughMounts(reversed, path);
}

/**
 * Replaces the destination of a mount at the beginning of a path by the source of the mount. Uses
 * the innermost mount. Returns undefined if the path is below no destination.
 */
export function throughMounts(mounts: readonly Mount[], path: string): string | undefined {
  const [mount] = mounts
    .filter(({ destination }) => `${path}/`.startsWith(`${destination.replace(/\/$/, "")}/`))
    .sort((a, b) => b.destination.length - a.destination.length);
  return mount && join(mount.source, path.slice(mount.destination.length));
}
