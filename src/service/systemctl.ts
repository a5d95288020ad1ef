/** Calls `systemctl` for the user manager and the system manager. */
import { StoreError } from "../errors.js";
import { isRoot } from "../fs/user.js";
import { type Outcome, run } from "../process/run.js";
import { shellQuote } from "../text/escape.js";
import { type Properties, parseProperties } from "./properties.js";

export const managers = ["systemd-user", "systemd"] as const;

export type Manager = (typeof managers)[number];

/** Returns whether a kind of service, such as `systemd` or `podman`, is a manager of units. */
export function isManager(kind: string): kind is Manager {
  return (managers as readonly string[]).includes(kind);
}

export const systemUnits = "/etc/systemd/system";

export interface UnitName {
  readonly manager: Manager;
  readonly name: string;
}

/** A unit, or a container that no unit starts. */
export interface ServiceName {
  readonly manager: Manager | "podman" | "docker";
  readonly name: string;
}

export function isUnit<Name extends ServiceName>(service: Name): service is Name & UnitName {
  return isManager(service.manager);
}

/** A manager that is reloading many units takes seconds to respond. */
export const queryLimitMs = 30_000;

export function systemctl(
  manager: Manager,
  args: readonly string[],
  timeoutMs = queryLimitMs,
): Promise<Outcome> {
  return run("systemctl", [...scopeOf(manager), "--no-pager", "--no-ask-password", ...args], {
    timeoutMs,
  });
}

/**
 * Returns properties of units, a record for each in the given order. A unit need not exist.
 *
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function show(
  manager: Manager,
  properties: readonly string[],
  units: readonly string[],
): Promise<Properties[]> {
  const args = ["show", `--property=${properties.join(",")}`, "--", ...units];
  const outcome = await systemctl(manager, args);
  if (outcome.code !== 0) throw managerError(manager, outcome);
  return parseProperties(outcome.stdout);
}

export async function isManagerRunning(manager: Manager): Promise<boolean> {
  return (await systemctl(manager, ["show", "--property=Version"])).code === 0;
}

export function managerError(manager: Manager, outcome: Outcome): StoreError {
  return new StoreError(
    "service",
    `${describeManager(manager)} of systemd does not respond${formatFailure(outcome)}`,
    {
      hint:
        manager === "systemd-user"
          ? "Run this in a login session of the hub's user; loginctl enable-linger USER keeps the manager running."
          : "Use --service none, or --stop-command and --start-command.",
    },
  );
}

/** Returns an error about a unit, with the command for the unit's log as the hint. */
export function unitError(manager: Manager, message: string, unit: string): StoreError {
  return new StoreError("service", message, {
    hint: `Run ${journalctlLine({ manager, name: unit })} to see its log.`,
  });
}

/** Formats the failure of a call of a manager or an engine as the end of a message. */
export function formatFailure({ failure, stderr }: Outcome): string {
  if (failure === "timeout") return ": timed out, and may still be in progress";
  const lines = stderr.split("\n").map((line) => line.trim());
  const text = lines.filter(Boolean).join(" ");
  return text && `: ${text}`;
}

/** Returns the option to select a manager in `systemctl`, `systemd-run` and `journalctl`. */
export function scopeOf(manager: Manager): string[] {
  return manager === "systemd-user" ? ["--user"] : [];
}

/** Returns a `systemctl` command line for a hint. */
export function systemctlLine(manager: Manager, rest: string): string {
  return ["systemctl", ...scopeOf(manager), rest].join(" ");
}

/** Returns a service unit's name with its ending, as in the name of its drop-in directory. */
export function fullUnitName(name: string): string {
  return name.endsWith(".service") ? name : `${name}.service`;
}

/**
 * Returns a service unit's name without its ending, as a user gives it to `--unit`. Keeps the
 * ending of a name with another dot: systemctl could take the rest for a unit of another type.
 */
export function shortUnitName(name: string): string {
  return name.replace(/^([^.]+)\.service$/, "$1");
}

/** Returns the options that name a unit or a container. */
export function serviceOptions({ manager, name }: ServiceName): string {
  return `--service ${manager} --unit ${shortUnitName(name)}`;
}

export function journalctlLine({ manager, name }: UnitName): string {
  return ["journalctl", ...scopeOf(manager), "--unit", name].join(" ");
}

/** Returns the manager of this user's own units: root's are system units. */
export function ownManager(): Manager {
  return isRoot() ? "systemd" : "systemd-user";
}

/** Returns the directory for files in memory of a unit of {@link ownManager}: `%t`. */
export function runtimeDirectory(): string {
  if (ownManager() === "systemd") return "/run";
  return process.env.XDG_RUNTIME_DIR || `/run/user/${process.geteuid?.()}`;
}

/** Returns the prefix of a command that only root may run: `sudo `, or nothing for root. */
export function sudoPrefix(): string {
  return isRoot() ? "" : "sudo ";
}

/**
 * Returns the command line for writing the output of a command to a file, as root if `sudo` is not
 * empty. It fails if the command fails: a pipe would end with the status of `tee`. The file is
 * written after the command ends, because the command may read it.
 */
export function redirectToFile(command: string, path: string, sudo: string): string {
  const file = shellQuote(path);
  const write = sudo === "" ? `> ${file}` : `| ${sudo}tee ${file} >/dev/null`;
  return `text=$(${command}) && printf '%s\\n' "$text" ${write}`;
}

export function describeManager(manager: Manager): string {
  return manager === "systemd-user" ? "the user manager" : "the system manager";
}
