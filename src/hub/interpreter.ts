/**
 * Finds the hub's Python interpreter and tests its packages.
 *
 * Version numbers are not enough. Several released SQLite plugins accept a `password` and ignore
 * it, and a plugin that uses the password fails if `sqlcipher3` is missing or broken. So the test
 * lets the interpreter create a store with a password in a temporary directory, with the hub's own
 * code. Every test throws a `StoreError` of kind `failed` if the interpreter fails.
 */
import { accessSync, constants, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { basename, delimiter, dirname, isAbsolute, join, resolve } from "node:path";
import { formatJson, type JsonObject } from "../client/json.js";
import { hubEnvironment } from "../config/hub-account.js";
import type { Environment } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { makeTemporaryDirectory, removeDirectoryAs } from "../process/directories.js";
import { type Account, type Outcome, run } from "../process/run.js";
import * as z from "../schema.js";
import { isEngine } from "../service/engine.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { currentAccount, resolvePythonAccount } from "./account.js";
import { sqliteModule } from "./server-json.js";

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

export const packagesSchema = z.object({
  /** Installed versions; null if the package is missing. */
  pluginManager: z.nullable(z.string()),
  sqlitePlugin: z.nullable(z.string()),
  /**
   * `AbstractDB.SCHEMA_VERSION`; null in releases without it, which read schema 0, and if the
   * package cannot be imported.
   */
  schemaVersion: z.nullable(z.int()),
  /** The schema of a store that the SQLite plugin has opened; null if that is unknown. */
  writtenSchema: z._default(z.nullable(z.int()), null),
  /** `PRAGMA cipher_version` of the hub's `sqlcipher3`; null if it is missing or broken. */
  cipherVersion: z.nullable(z.string()),
  /** Whether the hub encrypts a store when it has a password. */
  takesPassword: z.boolean(),
  /** The Python error of the test; null if it succeeded. */
  problem: z.nullable(z.string()),
  /** Python's `sys.path`. */
  paths: z.optional(z.array(z.string())),
});

export type HubPackages = z.infer<typeof packagesSchema>;

/** The import of the packages takes half a second on a PC and several seconds on a small board. */
const probeLimitMs = 60_000;
/** The longest time for the hub's packages to read a client. */
const clientLimitMs = 5;

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
  const hub = words.findIndex(
    (word, index) =>
      basename(word) === "hivemind-core" || (word === "hivemind_core" && words[index - 1] === "-m"),
  );
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

/**
 * Tests the packages of the interpreter. They see a temporary home directory, so they read and
 * write no file of the user.
 */
export async function probePackages(
  python: HubPython,
  hub: Account = currentAccount(),
): Promise<HubPackages> {
  return packagesSchema.parse(await runProbe(python, packagesScript, hub));
}

/**
 * Returns the SQLCipher format that the hub reads: the default of its SQLCipher version, because
 * the hub never selects another format; 4 if the version is unknown.
 */
export function cipherFormat({ cipherVersion }: HubPackages): CipherCompatibility {
  return cipherVersion?.startsWith("3.") ? 3 : 4;
}

/** Tests whether the hub rewrites a `server.json` without `network_protocol`. */
export async function completesServerJson(
  python: HubPython,
  hub: Account = currentAccount(),
): Promise<boolean> {
  return z.boolean().parse(await runProbe(python, completionScript, hub));
}

/**
 * Tests whether the plugin of a database is installed and its class loads.
 *
 * @param module - `database.module` of `server.json`
 * @returns Python's error, or null on success
 */
export async function probeModule(
  python: HubPython,
  module: string,
  hub: Account = currentAccount(),
): Promise<string | null> {
  const answer = await runProbe(python, loadScript, hub, JSON.stringify(module));
  return z.nullable(z.string()).parse(answer);
}

const servedSchema = z.object({
  active: z.int(),
  revoked: z.int(),
  /** Whether the hub finds a client by its API key. */
  found: z.boolean(),
});

export type ServedClients = z.infer<typeof servedSchema>;

/**
 * Opens a database with the hub's own packages and counts its clients.
 *
 * @param database - the object `database` of `server.json`, with the password; it reaches Python
 *   through a pipe
 * @param expected.count - the number of clients, for the time limit
 * @param expected.apiKey - the key of a client that the hub must find; undefined if there is none
 * @param home - the hub's `$XDG_DATA_HOME`
 * @throws {@link StoreError} failed - also if the database does not open
 */
export async function probeClients(
  python: HubPython,
  database: JsonObject,
  { count, apiKey }: { readonly count: number; readonly apiKey: string | undefined },
  home: string,
  hub: Account = currentAccount(),
): Promise<ServedClients> {
  const input = formatJson({ database, apiKey: apiKey ?? null, home });
  const timeoutMs = probeLimitMs + count * clientLimitMs;
  return servedSchema.parse(await runProbe(python, clientsScript, hub, input, timeoutMs));
}

/**
 * Tests whether the hub can connect to a database on a server.
 *
 * @param database - as for `probeClients`
 * @returns Python's error, or null on success
 */
export async function probeConnection(
  python: HubPython,
  database: JsonObject,
  hub: Account = currentAccount(),
): Promise<string | null> {
  const answer = await runProbe(python, connectScript, hub, formatJson(database));
  return z.nullable(z.string()).parse(answer);
}

/** Returns the account for tests by the interpreter of a hub. */
export async function resolveProbeAccount(python: HubPython, hub: Account): Promise<Account> {
  // A container engine is a program of the system, and its interpreter stays in the container.
  if (runsInContainer(python)) return { environment: process.env };
  return resolvePythonAccount(python[0], hub);
}

async function runProbe(
  python: HubPython,
  script: string,
  account: Account,
  input = "",
  timeoutMs = probeLimitMs,
): Promise<unknown> {
  const [program, ...options] = python;
  const hub = await resolveProbeAccount(python, account);
  const home = await makeTemporaryDirectory(hub);
  let outcome: Outcome;
  try {
    outcome = await run(program, [...options, "-c", prelude + script, home], {
      ...{ timeoutMs, input },
      account: hub,
    });
  } finally {
    await removeDirectoryAs(hub, home);
  }
  try {
    if (outcome.code === 0) return JSON.parse(outcome.stdout);
  } catch {
    // Reported below.
  }
  throw new StoreError(
    "failed",
    `cannot test the hub's packages with ${program}: ${describeFailure(outcome, timeoutMs)}`,
    {
      hint: "Name the Python that has hivemind-core installed: --hub-python PATH",
      cause: new Error(outcome.stderr),
    },
  );
}

function describeFailure({ code, failure }: Outcome, timeoutMs: number): string {
  if (failure === "timeout") return `no reply within ${Math.round(timeoutMs / 1000)} seconds`;
  if (code === 0) return "its output is not JSON";
  return failure === "missing"
    ? "no such file or directory"
    : `it failed with ${code === null ? failure : `exit code ${code}`}`;
}

/**
 * Precedes every script. Only the result goes to standard output; the packages' logs go to standard
 * error. `answer` ends the process with `os._exit`, because some packages leave threads behind.
 */
const prelude = `
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
import importlib.metadata, json, os

output = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
home = sys.argv[1]
for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "TMPDIR"):
    os.environ[name] = home

def answer(value):
    output.write(json.dumps(value))
    output.flush()
    os._exit(0)

def write_server_json(settings):
    os.makedirs(os.path.join(home, "hivemind-core"))
    path = os.path.join(home, "hivemind-core", "server.json")
    with open(path, "w") as file:
        json.dump(settings, file)
    return path

module = "${sqliteModule}"
block = {"name": "probe", "subfolder": "hivemind-core", "password": "probe"}
database = {"module": module, module: block}
`;

const packagesScript = `
def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

found = {
    "pluginManager": version("hivemind-plugin-manager"),
    "sqlitePlugin": version("hivemind-sqlite-database"),
    "schemaVersion": None,
    "writtenSchema": None,
    "cipherVersion": None,
    "takesPassword": False,
    "problem": None,
    "paths": sys.path,
}
try:
    import sqlcipher3
    row = sqlcipher3.connect(":memory:").execute("PRAGMA cipher_version").fetchone()
    found["cipherVersion"] = row[0] if row else None
except Exception:
    pass
try:
    from hivemind_plugin_manager.database import AbstractDB
    found["schemaVersion"] = getattr(AbstractDB, "SCHEMA_VERSION", None)
    from hivemind_core.config import get_server_config
    from hivemind_core.database import ClientDatabase
    write_server_json({"network_protocol": {}, "database": database})
    with ClientDatabase(get_server_config()["database"]) as opened:
        len(opened.db)
    path = os.path.join(home, "hivemind-core", "probe.db")
    with open(path, "rb") as file:
        found["takesPassword"] = not file.read(16).startswith(b"SQLite format 3")
    if found["takesPassword"] and found["cipherVersion"] is not None:
        store = sqlcipher3.connect(path)
        store.execute("PRAGMA key = 'probe'")
        found["writtenSchema"] = store.execute("PRAGMA user_version").fetchone()[0]
except BaseException as error:
    found["problem"] = type(error).__name__ + ": " + str(error)
answer(found)
`;

const completionScript = `
path = write_server_json({"database": database})
with open(path) as file:
    before = file.read()
from hivemind_core.config import get_server_config
get_server_config()
with open(path) as file:
    answer(file.read() != before)
`;

const loadScript = `
try:
    from hivemind_plugin_manager import DatabaseFactory
    DatabaseFactory.get_class(json.load(sys.stdin))
    answer(None)
except BaseException as error:
    answer(type(error).__name__ + ": " + str(error))
`;

const connectScript = `
database = json.load(sys.stdin)
try:
    from hivemind_core.database import ClientDatabase
    len(ClientDatabase(database).db)
    answer(None)
except BaseException as error:
    answer(type(error).__name__ + ": " + str(error))
`;

const clientsScript = `
request = json.load(sys.stdin)
os.environ["XDG_DATA_HOME"] = request["home"]
from hivemind_core.database import ClientDatabase
clients = ClientDatabase(request["database"])
keys = [client.api_key for client in clients.db]
revoked = keys.count("revoked")
key = request["apiKey"]
answer({"active": len(keys) - revoked, "revoked": revoked, "found": key is None or clients.get_client_by_api_key(key) is not None})
`;
