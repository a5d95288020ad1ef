/**
 * Finds the processes and systemd units of hubs. The units may have any name. Distinguishes several
 * hubs on a machine by their `server.json`.
 */
import type { Environment } from "../config/paths.js";
import { realPathIfExists } from "../fs/read.js";
import { argsOf } from "../process/cgroup.js";
import { listAllProcesses, readProc } from "../process/proc.js";
import { type HubUnit, listHubUnits, parseEnvironment, runsHub } from "../service/hub-units.js";
import { findUnitOf } from "../service/origin.js";
import { systemctlLine, type UnitName } from "../service/systemctl.js";
import { shellQuote } from "../text/escape.js";
import { serverJsonPath } from "./server-json.js";

/** A process that runs `hivemind-core listen`. */
export interface RunningHub {
  readonly pid: number;
  readonly unit: UnitName | undefined;
  /** Empty if it cannot be read. */
  readonly environment: Environment;
}

/**
 * Returns the running hubs with this `server.json`. Includes a hub with an unreadable environment,
 * because it may use this `server.json`.
 *
 * Recognises a hub by its command line, which all users can read, and not by its open files: a hub
 * with a JSON database does not keep its file open.
 */
export async function findHubProcesses(serverJson: string): Promise<RunningHub[]> {
  const hubs = await findAllHubProcesses();
  return hubs.filter(({ environment }) => mayUseServerJson(serverJson, environment));
}

/** Returns the running hubs of every `server.json`. */
export async function findAllHubProcesses(): Promise<RunningHub[]> {
  const hubs = listAllProcesses().flatMap((pid) => {
    if (pid === process.pid || !isHubProcess(pid)) return [];
    const environment = readProc(pid, "environ");
    // The environment of a just ended process is empty, too.
    if (environment === "" && !isHubProcess(pid)) return [];
    return { pid, environment: parseEnvironment(environment.split("\0")) };
  });
  return Promise.all(hubs.map(async (hub) => ({ ...hub, unit: await findUnitOf(hub.pid) })));
}

function isHubProcess(pid: number): boolean {
  return runsHub(argsOf(pid));
}

/**
 * Returns the units that start a hub with this `server.json`, without templates. Includes a unit
 * with an unreadable environment file, because it may use this `server.json`.
 */
export async function findHubUnits(serverJson: string): Promise<HubUnit[]> {
  return (await findHubUnitsAndTemplates(serverJson)).filter(({ isTemplate }) => !isTemplate);
}

/** Returns also templates: their instances may start a hub later. */
export async function findHubUnitsAndTemplates(serverJson: string): Promise<HubUnit[]> {
  const units = await listHubUnits();
  return units.filter(
    ({ environment, isEnvironmentKnown }) =>
      !isEnvironmentKnown || mayUseServerJson(serverJson, environment),
  );
}

/** Returns the command line that stops the hub, for a hint. */
export function formatStopCommand({ pid, unit }: RunningHub): string {
  return unit === undefined
    ? `kill ${pid}`
    : systemctlLine(unit.manager, `stop ${shellQuote(unit.name)}`);
}

/**
 * Returns whether a hub with this environment may use a `server.json`; true if it is unreadable.
 */
export function mayUseServerJson(serverJson: string, environment: Environment): boolean {
  if (!environment.XDG_CONFIG_HOME && !environment.HOME) return true;
  return realPathIfExists(serverJsonPath(environment)) === realPathIfExists(serverJson);
}
