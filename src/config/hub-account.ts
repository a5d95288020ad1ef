/**
 * The account of the hub, if it is not the account of this process: root works for the hub of a
 * system unit. The hub's files are then found by the environment of its unit, its Python runs as
 * its user, and the timers are system units.
 */
import { join, resolve } from "node:path";
import { StoreError } from "../errors.js";
import { dataHome, type Environment } from "./paths.js";

export interface HubAccount {
  readonly environment: Environment;
  readonly uid: number;
  readonly gid: number;
}

/** The hub in the container of a unit. It names its files by its own paths. */
export interface HubContainer {
  readonly name: string;
  readonly unit: { readonly manager: "systemd-user" | "systemd"; readonly name: string };
  /** The hub's `server.json` on this machine. */
  readonly serverJson: string;
  /** The path at which the hub reads it. */
  readonly inside: string;
  /** The hub's `$XDG_DATA_HOME`. */
  readonly dataHome: string;
  readonly mounts: readonly Mount[];
}

export interface Mount {
  /** The path on this machine, with symbolic links resolved. */
  readonly source: string;
  readonly destination: string;
}

let account: HubAccount | undefined;
let container: HubContainer | undefined;

/** Lets this process work on the hub of an account, before it reads any file of the hub. */
export function workFor(hub: HubAccount): void {
  account = hub;
}

/** Lets this process work on the hub of a container, before it reads any file of the hub. */
export function workForContainer(hub: HubContainer): void {
  container = hub;
}

export function hubContainer(): HubContainer | undefined {
  return container;
}

export function hubAccount(): HubAccount | undefined {
  return account;
}

/** Returns the environment of the hub, by default of this process. */
export function hubEnvironment(): Environment {
  return account?.environment ?? process.env;
}

/** Returns the data directory of the hub, as the hub names it. */
export function hubDataHome(): string {
  return container?.dataHome ?? dataHome(hubEnvironment());
}

/** Returns a path of the hub as a path of this machine; undefined if it is on no volume. */
export function toMachine(path: string): string | undefined {
  return container === undefined ? path : throughMounts(container.mounts, path);
}

/**
 * Returns the path on this machine of a file in the data directory of the hub.
 *
 * @throws {@link StoreError} refused - if it is on no volume of the hub's container
 */
export function fileOfHub(...names: string[]): string {
  const path = resolve(hubDataHome(), ...names);
  const found = toMachine(path);
  if (found !== undefined) return found;
  throw new StoreError("refused", `the container ${container?.name} has no volume with ${path}`, {
    hint: `Mount a directory at ${path}: docs/guide/containers.md shows how.`,
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

/** Returns where a path below the destination of a mount lies; undefined if it is below none. */
export function throughMounts(mounts: readonly Mount[], path: string): string | undefined {
  const [mount] = mounts
    .filter(({ destination }) => `${path}/`.startsWith(`${destination.replace(/\/$/, "")}/`))
    .sort((a, b) => b.destination.length - a.destination.length);
  return mount && join(mount.source, path.slice(mount.destination.length));
}
