/** Finds the systemd units that start a hub, whatever their names. */
import { closeSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { basename, isAbsolute, join } from "node:path";
import { dataHome, type Environment } from "../config/paths.js";
import { hasCode, ignoreKind, StoreError } from "../errors.js";
import { realPathIfExists } from "../fs/read.js";
import { findOpenStore, listGroupProcesses } from "../process/cgroup.js";
import { findUser } from "../process/users.js";
import { isEngine } from "./engine.js";
import { type Properties, parseCommands, parseList, type UnitCommand } from "./properties.js";
import { type Manager, managers, show, systemctl, type UnitName } from "./systemctl.js";

/** A unit that runs `hivemind-core listen`, directly or through a wrapper. */
export interface HubUnit extends UnitName {
  /**
   * False for a stopped or failed unit. True while the unit stops, because its hub may still run,
   * and while it waits for its next start.
   */
  readonly isActive: boolean;
  readonly isEnabled: boolean;
  /** Whether this is a template, which stands for its possible instances. */
  readonly isTemplate: boolean;
  /** The account in `User=`; undefined for root and for a user unit. */
  readonly user: string | undefined;
  /** The control group of its processes; empty if the unit does not run. */
  readonly controlGroup: string;
  readonly environment: Environment;
  /** False if a file in `EnvironmentFile=` is unreadable, because it may change any variable. */
  readonly isEnvironmentKnown: boolean;
  /** The arguments of its commands. The words of a wrapper script follow the script's path. */
  readonly args: readonly string[];
  /** The part of `args` from `ExecStart=`, without `ExecStartPre=`. */
  readonly command: readonly string[];
}

/** The instance under which templates are queried. It is never started. */
const sampleInstance = "@hivemind-sqlcipher-sample.";

/**
 * Returns the hub units of both managers, including templates and their instances; an aliased unit
 * once. A manager that does not respond has none.
 */
export async function listHubUnits(searched: readonly Manager[] = managers): Promise<HubUnit[]> {
  const found = await Promise.all(
    // Where systemd does not run, `systemctl` lists the files of units, but not their properties.
    searched.map((manager) => listUnitsOf(manager).catch(ignoreKind("service", []))),
  );
  return found.flat();
}

async function listUnitsOf(manager: Manager): Promise<HubUnit[]> {
  const names = await listServices(manager);
  if (names.length === 0) return [];
  const properties = [
    "Id",
    "ActiveState",
    "UnitFileState",
    "ControlGroup",
    "User",
    "Environment",
    "EnvironmentFiles",
    "ExecStartPre",
    "ExecStart",
  ];
  const units = new Map<string, HubUnit>();
  const inherited = await readManagerEnvironment(manager);
  for (const unit of await show(manager, properties, names)) {
    const start = expandScripts(parseCommands("ExecStart", unit.ExecStart));
    if (!runsHub(start)) continue;
    const id = unit.Id ?? "";
    const name = id.replace(sampleInstance, "@.");
    const fromFiles = readEnvironmentFiles(unit.EnvironmentFiles);
    units.set(name, {
      manager,
      name,
      isActive: !["inactive", "failed"].includes(unit.ActiveState ?? ""),
      isEnabled: unit.UnitFileState === "enabled",
      isTemplate: id !== name,
      user: manager === "systemd" && !isRootName(unit.User) ? unit.User : undefined,
      controlGroup: unit.ControlGroup ?? "",
      environment: { ...inherited, ...(await readUnitEnvironment(manager, unit)), ...fromFiles },
      isEnvironmentKnown: fromFiles !== undefined,
      args: [...expandScripts(parseCommands("ExecStartPre", unit.ExecStartPre)), ...start],
      command: start,
    });
  }
  return [...units.values()];
}

/** Returns whether `User=` names root, which is also its default. */
export function isRootName(user = ""): boolean {
  return /^(?:|0|root)$/.test(user);
}

/**
 * Returns the environment of a unit's processes: the manager's variables, the user's `HOME` for a
 * system unit, `Environment=` and `EnvironmentFile=`. If one of several files is unreadable, omits
 * the variables of all of them.
 *
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function readEnvironment({ manager, name }: UnitName): Promise<Environment> {
  const inherited = await readManagerEnvironment(manager);
  const [unit = {}] = await show(manager, ["Environment", "EnvironmentFiles", "User"], [name]);
  const own = await readUnitEnvironment(manager, unit);
  return { ...inherited, ...own, ...readEnvironmentFiles(unit.EnvironmentFiles) };
}

/**
 * Returns the services with a file, and the loaded services. A template has no properties, so its
 * name is replaced by a nonexistent instance with the same properties except for its name.
 */
async function listServices(manager: Manager): Promise<string[]> {
  const options = ["--type=service", "--no-legend", "--plain", "--full"];
  const lists = await Promise.all([
    systemctl(manager, ["list-unit-files", ...options]),
    systemctl(manager, ["list-units", "--all", ...options]),
  ]);
  const names = lists.flatMap(({ stdout }) => stdout.match(/^\S+\.service(?= |$)/gm) ?? []);
  return [...new Set(names.map((name) => name.replace("@.", sampleInstance)))];
}

/**
 * Returns whether a command line runs a hub: `hivemind-core listen` or `python -m hivemind_core
 * listen`, also inside a shell's argument.
 */
export function runsHub(args: readonly string[]): boolean {
  const words = args.flatMap((arg) => arg.split(/[\s"';&|()]+/));
  const hub = indexOfHub(words);
  return hub >= 0 && words.indexOf("listen", hub) > hub;
}

/** Returns the index of the hub's script or Python module in a command line; -1 if it has none. */
export function indexOfHub(words: readonly string[]): number {
  return words.findIndex(
    (word, index) =>
      basename(word) === "hivemind-core" || (word === "hivemind_core" && words[index - 1] === "-m"),
  );
}

/** A command line that starts this program. */
export interface OwnCommand {
  /** What starts this program, such as `env`, with its arguments; without Node.js. */
  readonly launcher: readonly string[];
  /** The path of the program, or of its script. */
  readonly program: string;
  readonly args: readonly string[];
}

/** Parses a command line that starts this program, by any path; undefined for another program. */
export function parseOwnCommand(command: readonly string[]): OwnCommand | undefined {
  const index = command.findIndex((arg) =>
    /(?:^|\/)(?:hivemind-sqlcipher(?:\.[cm]?js)?|cli\/main\.js)$/.test(arg),
  );
  const program = command[index];
  if (program === undefined) return undefined;
  const before = command.slice(0, index);
  const node = before.findLastIndex(isNode);
  const launcher = node < 0 ? before : before.slice(0, node);
  return { launcher, program, args: command.slice(index + 1) };
}

/** Returns whether a program is Node.js. Fedora's `node` is a link to `node-22`. */
export function isNode(path: string): boolean {
  return /^node(?:js)?(?:-?\d+)?$/.test(basename(path));
}

/**
 * Returns whether the arguments of a process start this program, by any path. Excludes `run`, which
 * starts the hub.
 */
export function isOwnCommand(args: readonly string[]): boolean {
  const own = parseOwnCommand(args);
  return own !== undefined && !own.args.includes("run");
}

/** Returns whether a unit starts its hub in a container. */
export function startsEngine({ command: [program = ""] }: HubUnit): boolean {
  return isEngine(basename(program));
}

/** Returns the arguments of commands. The words of a script among them follow its path. */
export function expandScripts(commands: readonly UnitCommand[]): string[] {
  return commands.flatMap(({ args }) =>
    args.flatMap((arg) => [arg, ...(isAbsolute(arg) ? readScriptWords(arg) : [])]),
  );
}

/** A hub's wrapper has a few lines. A larger script is something else. */
const maxScriptBytes = 64 * 1024;

/** Returns the words of a shell script, or none for any other file. */
function readScriptWords(path: string): string[] {
  try {
    const stats = statSync(path);
    if (!stats.isFile() || stats.size > maxScriptBytes || !isShellScript(path)) return [];
    const lines = readFileSync(path, "utf8").split("\n");
    return lines
      .filter((line) => !/^\s*#/.test(line))
      .join("\n")
      .split(/[\s"';&|()]+/);
  } catch {
    return []; // absent, or not readable for this user
  }
}

function isShellScript(path: string): boolean {
  const file = openSync(path, "r");
  try {
    const start = Buffer.alloc(64);
    const length = readSync(file, start);
    return /^#!.*\b(?:ba|da|k|z)?sh\b/.test(start.toString("latin1", 0, length));
  } finally {
    closeSync(file);
  }
}

/** Returns the preferred items; all of them if none is preferred. */
export function prefer<Item>(
  items: readonly Item[],
  isPreferred: (item: Item) => boolean,
): readonly Item[] {
  const preferred = items.filter(isPreferred);
  return preferred.length > 0 ? preferred : items;
}

/** Returns the error for several units: the operator has to name the hub's unit. */
export function severalUnitsError(names: readonly string[]): StoreError {
  return new StoreError("refused", `several units start a hub: ${names.join(", ")}`, {
    hint: `Name the unit: --unit ${names.join(", or --unit ")}.`,
  });
}

/** Returns whether a unit may start the hub of the store. */
export function mayBeHubOf(unit: HubUnit, storePath: string): boolean {
  return mayUseStore(unit, storePath) && !usesOtherStore(unit, storePath);
}

/**
 * Returns whether a hub with this environment may use the store: the store is in its data
 * directory, or a link there leads to the store. A path in `server.json` outside of this directory
 * is not considered.
 */
function mayUseStore({ environment }: HubUnit, storePath: string): boolean {
  const home = realPathIfExists(dataHome(environment));
  if (storePath.startsWith(`${home}/`)) return true;
  return realPathIfExists(join(home, "hivemind-core", "clients.db")) === storePath;
}

/** Returns whether the unit runs and has another store open. */
function usesOtherStore({ controlGroup }: HubUnit, storePath: string): boolean {
  return findOpenStore(listGroupProcesses(controlGroup), storePath)?.isOther === true;
}

async function readManagerEnvironment(manager: Manager): Promise<Environment> {
  if (manager === "systemd") return {};
  const { stdout } = await systemctl(manager, ["show-environment"]);
  return parseEnvironment(stdout.split("\n"));
}

async function readUnitEnvironment(manager: Manager, unit: Properties): Promise<Environment> {
  const own = parseEnvironment(parseList(unit.Environment));
  if (manager === "systemd-user") return own;
  const user = await findUser(unit.User || "root");
  return { ...(user?.home && { HOME: user.home }), ...own };
}

/**
 * Returns the variables in the unit's `EnvironmentFile=` files, or undefined if a file is
 * unreadable.
 *
 * @param lines - the property, with a line for each file: its path and "(ignore_errors=yes)" or
 *   "no"
 */
function readEnvironmentFiles(lines = ""): Environment | undefined {
  const files = [...lines.matchAll(/^(.*) \(ignore_errors=(?:yes|no)\)$/gm)];
  try {
    return Object.assign({}, ...files.map(([, path = ""]) => readEnvironmentFile(path)));
  } catch {
    return undefined;
  }
}

/**
 * Returns the variables of a file. A missing file has none: the unit starts without it, or not at
 * all.
 */
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

/** Parses variables in the form `NAME=value`. */
export function parseEnvironment(variables: readonly string[]): Environment {
  return Object.fromEntries(
    variables.map((variable) => {
      const [name = "", ...value] = variable.split("=");
      return [name, value.join("=")];
    }),
  );
}
