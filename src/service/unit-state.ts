/** The state of a systemd unit and of the units to be stopped with it. */
import { type Properties, parseLimitMs } from "./properties.js";
import type { ServiceState } from "./service.js";
import { type Manager, show } from "./systemctl.js";

/** Properties that list units to be stopped together with this unit. */
const stopsWith = ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"];

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
  ...stopsWith,
];

/**
 * Returns the unit, followed by all units that a stop must include: units stopped by the manager,
 * and units that could start this unit again.
 */
export async function findStopGroup(manager: Manager, name: string): Promise<Properties[]> {
  const group: Properties[] = [];
  const known = new Set<string>();
  let names = [name];
  while (names.length > 0) {
    const members = await show(manager, groupProperties, names);
    for (const member of members) known.add(member.Id ?? "");
    group.push(...members);
    const further = members.flatMap((member) =>
      ["TriggeredBy", ...stopsWith].flatMap((property) => (member[property] ?? "").split(" ")),
    );
    names = [...new Set(further)].filter((next) => next !== "" && !known.has(next));
  }
  return group;
}

/** Returns whether a unit runs, starts, or waits to be restarted after a crash ("activating"). */
export function isActive(unit: Properties): boolean {
  return !["inactive", "failed", "deactivating", undefined].includes(unit.ActiveState);
}

/**
 * Returns whether a unit only starts and stops something outside of its control group, such as the
 * containers of a compose file: a oneshot unit with a stop command, which stays active.
 */
export function isLauncher(unit: Properties): boolean {
  return unit.Type === "oneshot" && unit.RemainAfterExit === "yes" && Boolean(unit.ExecStop);
}

/** Returns whether a unit has ended and waits for its next start, as in a crash loop. */
export function isRestarting({ SubState }: Properties): boolean {
  return SubState === "auto-restart" || SubState === "auto-restart-queued";
}

/** Returns whether a unit has finished starting. */
export function isUp(unit: Properties): boolean {
  return unit.ActiveState === "active" || unit.ActiveState === "reloading";
}

export function toServiceState(unit: Properties): ServiceState {
  const mainPid = Number(unit.MainPID);
  return {
    active: isActive(unit),
    ...(isRestarting(unit) && { restarting: true }),
    ...(Number(unit.Job) > 0 && { hasJob: true }),
    ...(unit.InvocationID ? { invocation: unit.InvocationID } : {}),
    ...(mainPid > 0 ? { mainPid } : {}),
  };
}

/**
 * Returns how long a unit may take to stop. The manager applies TimeoutStopSec to each stage: the
 * ExecStop commands, the processes after SIGTERM, ExecStopPost, and processes exempt from SIGKILL.
 */
export function stopLimitMs(unit: Properties): number {
  const further = [unit.ExecStop, unit.ExecStopPost, unit.SendSIGKILL === "no"].filter(Boolean);
  return (1 + further.length) * parseLimitMs(unit.TimeoutStopUSec);
}

export function startLimitMs(unit: Properties): number {
  return parseLimitMs(unit.TimeoutStartUSec);
}
