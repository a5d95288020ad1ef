/** Finds the unit that already starts the hub, and the path of a drop-in for it. */
import { dirname, join } from "node:path";
import { configHome } from "../config/paths.js";
import { StoreError } from "../errors.js";
import type { Service } from "../service/service.js";
import {
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
import { startsByRun } from "./password-delivery.js";
import { serverJsonPath } from "./server-json.js";

/**
 * Finds the unit that starts the hub of this user's `server.json`.
 *
 * @param name - the unit's name, with or without `.service`
 * @throws {@link StoreError} notFound - if there is no such unit
 * @throws {@link StoreError} refused - if several units start a hub
 */
export async function findHubUnit(name?: string): Promise<UnitName> {
  if (name !== undefined) return findNamedUnit(name.includes(".") ? name : `${name}.service`);
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
    hint: "List the units: systemctl --user list-units --type=service, and without --user.",
  });
}

/**
 * Returns the unit's command for the hub, without a preceding `run` of this program. In its
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

/** Returns the command line that disables core dumps of a unit; undefined without a unit. */
export async function noCoreDumpsCommand({ kind, name }: Service): Promise<string | undefined> {
  if ((kind !== "systemd-user" && kind !== "systemd") || name === null) return undefined;
  const unit = { manager: kind, name: name.includes(".") ? name : `${name}.service` };
  const path = join(dirname(await dropInPath(unit)), "core-dumps.conf");
  const { install, restart } = installCommands(unit, path, "printf '[Service]\\nLimitCORE=0\\n'");
  return [...install, restart].join(" && ");
}

/** Returns the command lines that install the drop-in, and the one that restarts the unit. */
export async function dropInCommands(
  unit: UnitName,
): Promise<{ readonly install: string[]; readonly restart: string }> {
  const sealed = unit.manager === "systemd" ? " --credential-file FILE" : "";
  const print = `hivemind-sqlcipher run --print-unit dropin --unit ${shellQuote(unit.name)}${sealed}`;
  return installCommands(unit, await dropInPath(unit), print);
}

/** Only root may write the files of a system unit, but `print` needs the settings of this user. */
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
