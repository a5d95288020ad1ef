/** Finds the unit that already starts the hub, its command, and the path of its drop-in. */
import { dirname, join } from "node:path";
import { configHome } from "../config/paths.js";
import { StoreError } from "../errors.js";
import type { Service } from "../service/service.js";
import {
  fullUnitName,
  managers,
  redirectToFile,
  show,
  sudoPrefix,
  systemctlLine,
  systemUnits,
  type UnitName,
} from "../service/systemctl.js";
import { readCommands } from "../service/unit-commands.js";
import { escapeVariables } from "../service/unit-file.js";
import { shellQuote } from "../text/escape.js";
import { findHubUnits } from "./find-hubs.js";
import { printDropInLine, startsByRun } from "./password-delivery.js";
import { serverJsonPath } from "./server-json.js";

/**
 * Finds the unit with a name, or the unit that starts the hub of the present `server.json`. Ignores
 * stopped units if another unit is active.
 *
 * @param name - the unit's name, with or without `.service`
 * @throws {@link StoreError} notFound - if there is no such unit
 * @throws {@link StoreError} refused - if several units start the hub
 */
export async function findHubUnit(name?: string): Promise<UnitName> {
  if (name !== undefined) return findNamedUnit(fullUnitName(name));
  const units = (await findHubUnits(serverJsonPath())).filter(({ isTemplate }) => !isTemplate);
  const active = units.filter(({ isActive }) => isActive);
  const [unit, ...others] = active.length > 0 ? active : units;
  if (unit === undefined) {
    throw new StoreError("notFound", "no unit starts hivemind-core listen", {
      hint: "Name the hub's unit with --unit NAME, or print a new one with --print-unit user.",
    });
  }
  if (others.length === 0) return unit;
  const names = [unit, ...others].map((each) => each.name);
  throw new StoreError("refused", `several units start a hub: ${names.join(", ")}`, {
    hint: `Name the unit: --unit ${names.join(", or --unit ")}.`,
  });
}

async function findNamedUnit(name: string): Promise<UnitName> {
  for (const manager of managers) {
    const [unit] = await show(manager, ["LoadState"], [name]).catch(() => []);
    if (unit?.LoadState === "loaded") return { manager, name };
  }
  throw new StoreError("notFound", `there is no unit ${name}`, {
    hint: "List the units: systemctl --user list-unit-files --type=service, and without --user.",
  });
}

/**
 * Returns the hub's part of the unit's command: without a `run` of this program before it. In the
 * arguments `$` begins a variable, as in the unit.
 *
 * @throws {@link StoreError} notFound - if the unit has no command
 */
export async function readHubCommand(unit: UnitName): Promise<string[]> {
  const commands = await readCommands(unit);
  const start = commands.findLast(({ property }) => property === "ExecStart");
  if (start === undefined) throw new StoreError("notFound", `${unit.name} starts no program`);
  const [, ...args] = start.args;
  const isLiteral = start.flags.includes("no-env-expand");
  const command = [start.path, ...(isLiteral ? args.map(escapeVariables) : args)];
  const separator = command.indexOf("--");
  const isRun = separator > 0 && startsByRun(command.slice(0, separator).join(" "));
  return isRun ? command.slice(separator + 1) : command;
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
  if ((kind !== "systemd-user" && kind !== "systemd") || name === null) return undefined;
  const unit = { manager: kind, name: fullUnitName(name) };
  const path = join(dirname(await dropInPath(unit)), "core-dumps.conf");
  const { install, restart } = installCommands(unit, path, "printf '[Service]\\nLimitCORE=0\\n'");
  return [...install, restart].join(" && ");
}

/** Returns the command lines that install the drop-in, and the command line of the restart. */
export async function dropInCommands(
  unit: UnitName,
): Promise<{ readonly install: string[]; readonly restart: string }> {
  return installCommands(unit, await dropInPath(unit), printDropInLine(unit));
}

/**
 * @param print - the command that prints the drop-in; it runs as this user, because it reads this
 *   user's settings, while only root may write the files of a system unit
 */
function installCommands({ manager, name }: UnitName, path: string, print: string) {
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
