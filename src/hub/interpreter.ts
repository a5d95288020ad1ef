/** Finds the hub's Python interpreter. */
import { accessSync, constants, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { basename, delimiter, dirname, isAbsolute, join, resolve } from "node:path";
import { hubEnvironment } from "../config/hub-account.js";
import type { Environment } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { isEngine } from "../service/engine.js";
import { indexOfHub } from "../service/hub-units.js";

/**
 * The command line of the hub's interpreter: its path, and the options in the first line of the
 * hub's script; or a container engine, with arguments that run the interpreter in the container.
 */
export type HubPython = readonly [program: string, ...options: string[]];

export function runsInContainer([program]: HubPython): boolean {
  return isEngine(program);
}

export function describePython(python: HubPython): string {
  return runsInContainer(python) ? `the container of ${python[0]}` : python[0];
}

/**
 * Finds the hub's Python: `hubPython` if given, otherwise the Python in `args`, or the interpreter
 * of the `hivemind-core` script in `args`.
 *
 * @param args - the hub's command line or a unit's `ExecStart=`; default: the script on PATH
 * @returns undefined if `args` name no hub, or a script that is missing or not a Python script
 * @throws {@link StoreError} usage - if `hubPython` cannot be executed
 */
export async function findHubPython({
  hubPython,
  args = ["hivemind-core"],
  environment = hubEnvironment(),
}: {
  hubPython?: string | undefined;
  args?: readonly string[] | undefined;
  environment?: Environment;
}): Promise<HubPython | undefined> {
  if (hubPython !== undefined) return [await resolveHubPython(hubPython, environment)];
  const program = findHubProgram(args);
  const path = program === undefined ? undefined : await findProgram(program, environment);
  if (program === undefined || path === undefined) return undefined;
  return isPython(program) ? [path] : readShebang(path, environment);
}

/**
 * Returns the absolute path of the hub's Python that the user named.
 *
 * @throws {@link StoreError} usage - if it cannot be executed
 */
export async function resolveHubPython(
  hubPython: string,
  environment?: Environment,
): Promise<string> {
  const program = await findProgram(hubPython, environment);
  if (program !== undefined) return program;
  throw new StoreError("usage", `the Python "${hubPython}" cannot be executed`, {
    hint: "Name the Python that has hivemind-core installed: --hub-python PATH",
  });
}

/**
 * Returns the argument that determines the hub's Python: an interpreter before the hub's script, or
 * the script. An option `--hub-python` of `run` takes precedence.
 *
 * Also searches the words of a shell command, which is a single argument. If the command activates
 * a virtual environment, a script without a path is in that environment.
 */
function findHubProgram(args: readonly string[]): string | undefined {
  const named = args.indexOf("--hub-python");
  if (named >= 0) return args[named + 1];
  const words = args.flatMap((arg) =>
    arg.includes(" ") && !isAbsolute(arg) ? arg.split(/[\s"';&|()]+/) : [arg],
  );
  const hub = indexOfHub(words);
  if (hub < 0) return words.find(isPython);
  const before = words.slice(0, hub);
  const last = before.findLast((word) => !word.startsWith("-"));
  if (last !== undefined && isPython(last)) return last;
  const activated = before.findLast((word) => word.endsWith("/bin/activate"));
  const script = words[hub] ?? "";
  const isInEnvironment = activated !== undefined && !script.includes("/");
  return isInEnvironment ? join(dirname(activated), script) : script;
}

export function isPython(program: string): boolean {
  return /^python[\d.]*$/.test(basename(program));
}

/**
 * Returns the absolute path of a program; undefined if it is missing or no executable file.
 * Searches PATH for a name without a slash.
 */
export async function findProgram(
  program: string,
  environment: Environment = hubEnvironment(),
): Promise<string | undefined> {
  const candidates = program.includes("/")
    ? [resolve(program)]
    : (environment.PATH ?? "/usr/local/bin:/usr/bin:/bin")
        .split(delimiter)
        .map((directory) => resolve(directory, program));
  return candidates.find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

async function readShebang(
  script: string,
  environment: Environment,
): Promise<HubPython | undefined> {
  const [first = "", ...rest] = (await readFirstCharacters(script)).split("\n");
  if (!first.startsWith("#!")) return undefined;
  let [program, ...options] = first.slice(2).trim().split(/\s+/);
  if (program !== undefined && basename(program) === "env") {
    [program, ...options] = options[0] === "-S" ? options.slice(1) : options;
  }
  if (program !== undefined && basename(program) === "sh") {
    // pip writes this line if the interpreter's path is too long or has a space.
    [, program] = /^'''exec' "?([^"\s]+|[^"]+)"? "\$0"/.exec(rest[0] ?? "") ?? [];
    options = [];
  }
  if (program === undefined || !/^(?:python|pypy)/.test(basename(program))) return undefined;
  const found = await findProgram(program, environment);
  return found === undefined ? undefined : [found, ...options];
}

async function readFirstCharacters(path: string): Promise<string> {
  await using file = await open(path).catch(() => undefined);
  if (file === undefined) return "";
  const { buffer, bytesRead } = await file.read(Buffer.alloc(4096), 0, 4096, 0);
  return buffer.toString("latin1", 0, bytesRead);
}
