/**
 * The Podman containers of a systemd unit: of a quadlet, or of `podman generate systemd`.
 *
 * Podman may put a container's processes into a scope outside the unit's control group. Only its
 * monitor, conmon, stays in the unit. The argument `-c` of the monitor is the container's id.
 */
import { basename } from "node:path";
import { argsOf, listGroupProcesses } from "../process/cgroup.js";
import { findOrigin } from "./origin.js";
import { type Properties, parseCommands } from "./properties.js";

/** Returns the ids of the containers that a running unit has started. */
export function findContainersOf({ MainPID, ControlGroup }: Properties): string[] {
  const pids = new Set([Number(MainPID ?? 0), ...listGroupProcesses(ControlGroup ?? "")]);
  return [...pids].flatMap((pid) => {
    const args = pid > 0 ? argsOf(pid) : [];
    const id = basename(args[0] ?? "") === "conmon" ? args[args.indexOf("-c") + 1] : undefined;
    return id !== undefined && /^[0-9a-f]{64}$/.test(id) ? [id] : [];
  });
}

/** Returns whether a process runs in one of these containers. */
export function isInContainers(pid: number, ids: readonly string[]): boolean {
  const origin = findOrigin(pid);
  return origin !== undefined && "id" in origin && ids.includes(origin.id);
}

/** Returns whether a unit starts its program through a container engine. */
export function startsContainers({ ExecStart }: Properties): boolean {
  return parseCommands("ExecStart", ExecStart).some(({ path }) =>
    ["podman", "docker"].includes(basename(path)),
  );
}
