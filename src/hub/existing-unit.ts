/** Finds the unit that already starts the hub, its command, and the path of its drop-in. */
import { readFile } from "node:fs/promises";
import { homedir, userInfo } from "node:os";
import { dirname, isAbsolute, join } from "node:path";
import { configHome } from "../config/paths.js";
import { StoreError } from "../errors.js";
import {
  type OwnCommand,
  parseOwnCommand,
  prefer,
  runsHub,
  severalUnitsError,
} from "../service/hub-units.js";
import { findNamedUnit } from "../service/select.js";
import type { Service } from "../service/service.js";
import {
  fullUnitName,
  isManager,
  redirectToFile,
  show,
  sudoPrefix,
  systemctlLine,
  systemUnits,
  type UnitName,
} from "../service/systemctl.js";
import { readCommandLines, readCommands } from "../service/unit-commands.js";
import { escapeVariables, parseCommand } from "../service/unit-file.js";
import { shellQuote } from "../text/escape.js";
import { findHubUnits } from "./find-hubs.js";
import { printDropInLine, startsByRun } from "./password-delivery.js";
import { serverJsonPath } from "./server-json.js";

/**
 * Returns the unit that starts the hub of the present `server.json`. Ignores stopped units if
 * another unit is active.
 *
 * @throws {@link StoreError} notFound - if no unit starts the hub
 * @throws {@link StoreError} refused - if several units start the hub
 */
export async function resolveHubUnit(): Promise<UnitName> {
  const units = prefer(await findHubUnits(serverJsonPath()), ({ isActive }) => isActive);
  const [unit, ...others] = units;
  if (unit === undefined) {
    throw new StoreError("notFound", "no unit starts hivemind-core listen", {
      hint: "Name the hub's unit with --unit NAME, or print a new one with --print-unit user.",
    });
  }
  if (others.length === 0) return unit;
  throw severalUnitsError(units.map(({ name }) => name));
}

/**
 * Returns the unit with a name. If both managers have it, chooses the one that a backup would stop.
 *
 * @param name - the unit's name, with or without `.service`
 * @throws {@link StoreError} notFound - if there is no such unit
 * @throws {@link StoreError} usage - if this cannot be the name of a service
 */
export async function resolveNamedUnit(name: string, storePath: string): Promise<UnitName> {
  const unit = await findNamedUnit(name, storePath);
  if (unit !== undefined) return { manager: unit.kind, name: fullUnitName(unit.name) };
  throw new StoreError("notFound", `there is no unit ${fullUnitName(name)}`, {
    hint: "List the units: systemctl --user list-unit-files --type=service, and without --user.",
  });
}

/**
 * Returns the command with which a unit starts its hub, as {@link readHubCommands} does.
 *
 * @throws {@link StoreError} notFound - if the unit has no command
 */
export async function readHubCommand(unit: UnitName): Promise<string[]> {
  return (await readHubCommands(unit)).hub;
}

export interface HubCommands {
  /** In the arguments `$` begins a variable, as in the unit. */
  readonly hub: string[];
  /** Whether this program's drop-in starts another hub through `run`. */
  readonly isOutdated: boolean;
}

/**
 * Returns the hub's command, without a `run` of this program before it. The hub in this program's
 * drop-in is a copy, made when the drop-in was written: if the unit itself starts a hub, its
 * command counts. An installer may have written the unit again for another Python environment.
 *
 * @throws {@link StoreError} notFound - if the unit has no command
 */
export async function readHubCommands(unit: UnitName): Promise<HubCommands> {
  const commands = await readUnexpandedCommands(unit);
  const start = commands.findLast(({ property }) => property === "ExecStart")?.command;
  if (start === undefined) throw new StoreError("notFound", `${unit.name} starts no program`);
  const started = parseRun(start)?.hub;
  const prepared = commands.flatMap(({ command }) => parseRun(command)?.hub ?? []);
  const hub = started === undefined ? start : ((await readOwnCommand(unit)) ?? started);
  const copy = started ?? prepared;
  const isOutdated = runsHub(hub) && copy.length > 0 && copy.join("\0") !== hub.join("\0");
  return { hub, isOutdated };
}

/** Returns the commands of a unit, in which `$` begins a variable. */
async function readUnexpandedCommands(unit: UnitName) {
  return (await readCommands(unit)).map(({ property, path, args: [, ...args], flags }) => {
    const isLiteral = flags.includes("no-env-expand");
    return { property, command: [path, ...(isLiteral ? args.map(escapeVariables) : args)] };
  });
}

/** Parses a command that starts or prepares a hub through `run`; undefined for another command. */
function parseRun(command: string[]): { run: OwnCommand; hub: string[] } | undefined {
  const separator = command.indexOf("--");
  const run = parseOwnCommand(command.slice(0, Math.max(separator, 0)));
  return run?.args.includes("run") ? { run, hub: command.slice(separator + 1) } : undefined;
}

/** How a unit starts its hub through `run`. In the arguments `$` begins a variable. */
export interface HubRun {
  readonly run: OwnCommand;
  /**
   * The unit's own commands before the hub, as in its files, if `run --prepare` is one of them.
   */
  readonly preparation?: string[];
  /** The text of this program's drop-in, if the drop-in adds `run --prepare`. */
  readonly dropIn?: string;
}

/**
 * Returns how a unit starts its hub through `run`; undefined if it does not, or if the drop-in that
 * adds `run --prepare` is unreadable.
 *
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function readHubRun(unit: UnitName): Promise<HubRun | undefined> {
  const runs = (await readUnexpandedCommands(unit)).flatMap(({ property, command }) => {
    const run = parseRun(command)?.run;
    return run === undefined ? [] : [{ property, run }];
  });
  const start = runs.findLast(({ property }) => property === "ExecStart");
  const run = (start ?? runs[0])?.run;
  if (run === undefined || start !== undefined) return run && { run };
  const path = await dropInPath(unit);
  const lines = await readCommandLines(unit, { without: path });
  const values = lines.filter(({ key }) => key === "ExecStartPre").map(({ value }) => value);
  const preparation = values.slice(values.lastIndexOf("") + 1);
  if (preparation.some(startsByRun)) return { run, preparation };
  const dropIn = await readFile(path, "utf8").catch(() => "");
  return /^ExecStartPre=/m.test(dropIn) ? { run, dropIn } : undefined;
}

/**
 * Returns the hub that a unit would start without this program's drop-in; undefined if that is
 * another command than a hub's, such as a script, or cannot be parsed.
 */
async function readOwnCommand(unit: UnitName): Promise<string[] | undefined> {
  const lines = await readCommandLines(unit, { without: await dropInPath(unit) });
  const last = lines.findLast(({ key }) => key === "ExecStart")?.value ?? "";
  const command = parseCommand(last, specifiersOf(unit));
  const hub = command && (parseRun(command)?.hub ?? command);
  return hub !== undefined && isAbsolute(hub[0] ?? "") && runsHub(hub) ? hub : undefined;
}

/** Returns the specifiers of systemd.unit(5) in the commands of hubs. */
function specifiersOf({ manager, name }: UnitName): Readonly<Record<string, string>> {
  const { username, uid } = userInfo();
  const short = name.replace(/\.service$/, "");
  const [prefix = "", ...instance] = short.split("@");
  const names = { n: name, N: short, p: prefix, i: instance.join("@") };
  if (manager === "systemd") return names;
  return { ...names, h: homedir(), u: username, U: `${uid}` };
}

/**
 * Returns the path of this program's drop-in for a unit. For a unit file of the user, the drop-in
 * is next to it, because the directory may differ from this shell's `$XDG_CONFIG_HOME`.
 */
export async function dropInPath({ manager, name }: UnitName): Promise<string> {
  const [unit] = await show(manager, ["FragmentPath"], [name]);
  const userUnits = join("systemd", "user");
  const fileDirectory = dirname(unit?.FragmentPath ?? "");
  const isOfUser = fileDirectory.endsWith(userUnits) && !/^\/(?:usr|etc|run)\//.test(fileDirectory);
  const unitDirectory = isOfUser ? fileDirectory : join(configHome(), userUnits);
  const directory = manager === "systemd" ? systemUnits : unitDirectory;
  return join(directory, `${name}.d`, "hivemind-sqlcipher.conf");
}

/**
 * Returns the command line that disables core dumps of a unit and restarts the unit; undefined if
 * the service is not a unit.
 */
export async function noCoreDumpsCommand({ kind, name }: Service): Promise<string | undefined> {
  if (!isManager(kind) || name === null) return undefined;
  const unit = { manager: kind, name: fullUnitName(name) };
  const path = join(dirname(await dropInPath(unit)), "core-dumps.conf");
  const { install, restart } = installCommands(unit, path, "printf '[Service]\\nLimitCORE=0\\n'");
  return [...install, restart].join(" && ");
}

/** Returns the command lines that install the drop-in, and the command line of the restart. */
export async function dropInCommands(unit: UnitName): Promise<ReturnType<typeof installCommands>> {
  const isSealed = unit.manager === "systemd" && (await readHubRun(unit)) === undefined;
  return installCommands(unit, await dropInPath(unit), printDropInLine(unit, isSealed));
}

/**
 * Returns the command lines that write a file of a unit, and the command line of the restart.
 *
 * @param print - the command that prints the file; it runs as this user, because it reads this
 *   user's settings, while only root may write the files of a system unit
 */
export function installCommands(
  { manager, name }: UnitName,
  path: string,
  print: string,
): { readonly install: string[]; readonly restart: string } {
  const sudo = manager === "systemd" ? sudoPrefix() : "";
  return {
    install: [
      `${sudo}mkdir -p ${shellQuote(dirname(path))}`,
      redirectToFile(print, path, sudo),
      sudo + systemctlLine(manager, "daemon-reload"),
    ],
    restart: sudo + systemctlLine(manager, `restart ${shellQuote(name)}`),
  };
}
