/** Finds the service or container of a process by its control groups. */
import { existsSync } from "node:fs";
import { isInGroup, parseGroups, readGroups } from "../process/cgroup.js";
import { type Engine, isEngine } from "./engine.js";
import { managers, show, type UnitName } from "./systemctl.js";

/** The service or container of a process. */
export type Origin =
  /** A container, with its full identifier. */
  | { readonly kind: Engine; readonly id: string }
  /** A container of another engine, which this program cannot stop and start. */
  | { readonly kind: "container"; readonly engine: string }
  /** A user unit, in the manager of user `uid`. */
  | { readonly kind: "systemd-user"; readonly unit: string; readonly uid: number }
  /** A system unit. */
  | { readonly kind: "systemd"; readonly unit: string };

const id = "([0-9a-f]{64})(?:\\.scope)?(?=/|$)";
const otherEngine = (engine: string) => () => ({ kind: "container", engine }) as const;

/** Patterns of the control groups of containers, each with the origin for the matched id. */
const containers: readonly (readonly [RegExp, (id: string) => Origin])[] = [
  // "payload" is podman's group with --cgroups=split, below the group of the unit.
  [new RegExp(`/libpod-(?:payload-)?${id}`), (id) => ({ kind: "podman", id })],
  // Rootless Docker uses "runc" if no controllers are delegated to the user.
  [new RegExp(`/(?:docker[/-]|runc-)${id}`), (id) => ({ kind: "docker", id })],
  [/\/kubepods(?=[./-])/, otherEngine("Kubernetes")],
  [/\/(?:nerdctl|containerd|cri-containerd|crio)-/, otherEngine("containerd")],
  [/\/(?:machine-[^/]+\.scope|systemd-nspawn@[^/]+)(?=\/|$)/, otherEngine("systemd-machined")],
  [/\/lxc(?:\.payload)?[./]/, otherEngine("LXC")],
];

/**
 * Parses `/proc/PID/cgroup` of a unified, hybrid or legacy system. Returns undefined for a process
 * of a login session.
 *
 * A container takes precedence over the units in its path: units above it belong to the engine,
 * units below it to a manager inside. The outermost of nested containers belongs to this machine's
 * engine.
 */
export function parseOrigin(text: string): Origin | undefined {
  const paths = parseGroups(text);
  const found = paths.flatMap((path) =>
    containers.flatMap(([pattern, toOrigin]) => {
      const match = pattern.exec(path);
      return match ? [{ index: match.index, origin: toOrigin(match[1] ?? "") }] : [];
    }),
  );
  const [outermost] = found.sort((a, b) => a.index - b.index);
  return outermost?.origin ?? paths.map(findUnitIn).find((unit) => unit !== undefined);
}

/** Returns the last service in the path of a control group. */
function findUnitIn(path: string): Origin | undefined {
  const [, uid, below = path] = /\/user@(\d+)\.service(\/.*|$)/.exec(path) ?? [];
  const unit = below
    .split("/")
    .filter((name) => name.endsWith(".service"))
    .pop();
  if (unit === undefined) return undefined;
  return uid === undefined
    ? { kind: "systemd", unit }
    : { kind: "systemd-user", unit, uid: Number(uid) };
}

/** Returns the origin of a process; undefined for a login session, or if the process has ended. */
export function findOrigin(pid: number): Origin | undefined {
  return parseOrigin(readGroups(pid));
}

export function isInContainer(pid: number): boolean {
  const kind = findOrigin(pid)?.kind;
  return isEngine(kind) || kind === "container";
}

/**
 * Returns whether this process runs in a container without a service manager, such as a sidecar of
 * the hub's container. Processes outside of such a container cannot be found.
 */
export function isSidecar(): boolean {
  if (existsSync("/run/systemd/system")) return false;
  return existsSync("/run/.containerenv") || existsSync("/.dockerenv") || isInContainer(1);
}

/**
 * Returns the unit of a process, confirmed by its manager. The path does not suffice: a user
 * manager may run below any group, and a unit in a container has a path like a unit of this
 * machine.
 */
export async function findUnitOf(pid: number): Promise<UnitName | undefined> {
  const origin = findOrigin(pid);
  if (origin === undefined || !("unit" in origin)) return undefined;
  for (const manager of managers) {
    const [unit] = await show(manager, ["ControlGroup"], [origin.unit]).catch(() => []);
    if (isInGroup(pid, unit?.ControlGroup ?? "")) return { manager, name: origin.unit };
  }
  return undefined;
}
