/**
 * The hubs that use a `server.json`, whatever their units are called: running processes and systemd
 * units. A hub of another `server.json` on the same machine is not among them.
 */
import { readdirSync, readFileSync, realpathSync } from "node:fs";
import { basename } from "node:path";
import type { Environment } from "../config/paths.js";
import { hasCode, StoreError } from "../errors.js";
import { isInGroup } from "../process/cgroup.js";
import { type Manager, scopeOf, systemctl } from "../service/systemctl.js";
import { startsByRun } from "./password-delivery.js";
import { serverJsonPath } from "./server-json.js";

/** A process that runs `hivemind-core listen`. */
export interface HubProcess {
  readonly pid: number;
  /** The unit that the process belongs to, if it belongs to one. */
  readonly unit: { readonly manager: Manager; readonly name: string } | undefined;
}

/** A unit whose `ExecStart` runs `hivemind-core listen`, directly or through `run`. */
export interface HubUnit {
  readonly manager: Manager;
  readonly name: string;
  readonly args: readonly string[];
  readonly isActive: boolean;
  /** Whether the unit gives the hub the passphrase: it starts the hub through `run`. */
  readonly usesRun: boolean;
}

/**
 * Finds the running hubs by their command lines, which every user of the machine may read. A hub
 * whose environment cannot be read may use this `server.json`, so it is among them.
 *
 * A hub that keeps its clients in JSON does not hold its file open, so open files cannot tell.
 */
export async function findHubProcesses(serverJson: string): Promise<HubProcess[]> {
  const pids = readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number)
    .filter((pid) => pid !== process.pid && isHub(readProc(pid, "cmdline").split("\0")))
    .filter((pid) => mayUse(serverJson, parseEnvironment(readProc(pid, "environ"), "\0")));
  return Promise.all(pids.map(async (pid) => ({ pid, unit: await unitOf(pid) })));
}

/**
 * Finds the units of both managers that start a hub. A manager that does not answer has none.
 *
 * @throws {@link StoreError} service - a manager fails in the middle of its answer
 */
export async function findHubUnits(serverJson: string): Promise<HubUnit[]> {
  const found: HubUnit[] = [];
  for (const manager of ["systemd-user", "systemd"] as const) {
    const names = await unitNames(manager);
    if (names.length > 0) found.push(...(await hubUnitsAmong(manager, names, serverJson)));
  }
  return found;
}

/** Returns a command that stops the hub, for a hint. */
export function stopCommandOf({ pid, unit }: HubProcess): string {
  return unit === undefined ? `kill ${pid}` : unitCommandLine(unit, "stop");
}

/** Returns a `systemctl` command line about a unit, for a hint. */
export function unitCommandLine(
  { manager, name }: Pick<HubUnit, "manager" | "name">,
  verb: "stop" | "mask",
): string {
  return ["systemctl", ...scopeOf(manager), verb, name].join(" ");
}

function isHub(args: readonly string[]): boolean {
  const index = args.findIndex((arg) => basename(arg) === "hivemind-core");
  return index >= 0 && args.slice(index + 1).includes("listen");
}

/** A process that has ended since it was listed reads as an empty file. */
function readProc(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, "utf8");
  } catch {
    return "";
  }
}

/** The cgroup names the unit; which manager it belongs to, the managers know. */
async function unitOf(pid: number): Promise<HubProcess["unit"]> {
  const name = /\/([^/\n]+\.service)(?:\n|$)/.exec(readProc(pid, "cgroup"))?.[1];
  if (name === undefined) return undefined;
  for (const manager of ["systemd-user", "systemd"] as const) {
    const args = ["show", "--property=ControlGroup", "--value", "--", name];
    const { stdout } = await systemctl(manager, args);
    if (isInGroup(pid, stdout.trim())) return { manager, name };
  }
  return undefined;
}

/** Stands for the instances of a template in a question to systemd; never started. */
const sampleInstance = "@hivemind-sqlcipher-sample.";

async function unitNames(manager: Manager): Promise<string[]> {
  const options = ["--type=service", "--no-legend", "--plain", "--full"];
  const lists = await Promise.all([
    systemctl(manager, ["list-unit-files", ...options]),
    // Instances of templates and transient units have no file of their own.
    systemctl(manager, ["list-units", "--all", ...options]),
  ]);
  const names = lists.flatMap(({ stdout }) => stdout.match(/^\S+\.service(?=\s|$)/gm) ?? []);
  // A template has no properties; those of its instances are the same but for the instance's name.
  return [...new Set(names.map((name) => name.replace("@.", sampleInstance)))];
}

async function hubUnitsAmong(
  manager: Manager,
  names: readonly string[],
  serverJson: string,
): Promise<HubUnit[]> {
  const properties =
    "--property=Id,ActiveState,ExecStartPre,ExecStart,Environment,EnvironmentFiles,User";
  const inherited = await environmentOf(manager);
  const { code, stdout } = await systemctl(manager, ["show", properties, "--", ...names]);
  if (code !== 0) throw new StoreError("service", "systemd does not answer about its units");
  return stdout.split("\n\n").flatMap((block) => {
    const args = [...block.matchAll(/argv\[\]=((?:(?!argv\[\]=).)*?) ; /g)].flatMap(
      ([, line = ""]) => line.split(" "),
    );
    if (!isHub(args)) return [];
    const value = (key: string) => new RegExp(`^${key}=(.*)$`, "m").exec(block)?.[1] ?? "";
    const own = parseEnvironment(value("Environment"), " ");
    const home = manager === "systemd" ? { HOME: homeOf(value("User") || "root") } : {};
    const fromFiles = environmentFiles(block);
    const environment = { ...inherited, ...home, ...own, ...fromFiles };
    if (fromFiles !== undefined && !mayUse(serverJson, environment)) return [];
    return {
      manager,
      name: value("Id").replace(sampleInstance, "@."),
      args,
      isActive: !["inactive", "failed"].includes(value("ActiveState")),
      usesRun: startsByRun(args.join(" ")),
    };
  });
}

/**
 * Returns the variables in the files that a unit names by `EnvironmentFile=`; undefined if a file
 * cannot be read, so that the unit's environment is not known.
 */
function environmentFiles(block: string): Environment | undefined {
  const files = [...block.matchAll(/^EnvironmentFiles=(.*) \(ignore_errors=(yes|no)\)$/gm)];
  try {
    return Object.assign({}, ...files.map(([, path = ""]) => readEnvironmentFile(path)));
  } catch {
    return undefined;
  }
}

/** An absent file has no variables: the unit starts without it, or does not start. */
function readEnvironmentFile(path: string): Environment {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (hasCode(error, "ENOENT")) return {};
    throw error;
  }
  const lines = text.matchAll(/^[ \t]*([A-Za-z_]\w*)=(["']?)(.*)\2[ \t]*$/gm);
  return Object.fromEntries([...lines].map(([, name = "", , value = ""]) => [name, value]));
}

/** Whether a program with this environment uses a `server.json`; a program without one may. */
function mayUse(serverJson: string, environment: Environment): boolean {
  if (!environment.XDG_CONFIG_HOME && !environment.HOME) return true;
  return resolved(serverJsonPath(environment)) === resolved(serverJson);
}

function resolved(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

function parseEnvironment(text: string, separator: string): Environment {
  return Object.fromEntries(
    text.split(separator).map((entry) => {
      const [name = "", ...value] = entry.split("=");
      return [name, value.join("=")];
    }),
  );
}

async function environmentOf(manager: Manager): Promise<Environment> {
  if (manager === "systemd") return {};
  const { stdout } = await systemctl(manager, ["show-environment"]);
  return parseEnvironment(stdout, "\n");
}

function homeOf(user: string): string {
  const entry = new RegExp(`^${user}:(?:[^:\\n]*:){4}([^:\\n]*)`, "m");
  return entry.exec(readFileSync("/etc/passwd", "utf8"))?.[1] ?? "";
}
