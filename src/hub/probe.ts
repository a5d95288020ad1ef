/**
 * Tests the packages of the hub's Python interpreter.
 *
 * Version numbers are not enough. Several released SQLite plugins accept a `password` and ignore
 * it, and a plugin that uses the password fails if `sqlcipher3` is missing or broken. So the test
 * lets the interpreter create a store with a password in a temporary directory, with the hub's own
 * code. Every test throws a `StoreError` of kind `failed` if the interpreter fails.
 */
import { formatJson, type JsonObject } from "../client/json.js";
import { StoreError } from "../errors.js";
import { type Account, type Outcome, run } from "../process/run.js";
import { withTemporaryDirectory } from "../process/temporary-directory.js";
import * as z from "../schema.js";
import type { CipherCompatibility } from "../store/cipher.js";
import { currentAccount, resolvePythonAccount } from "./account.js";
import { type HubPython, runsInContainer } from "./interpreter.js";
import {
  clientsProgram,
  completionProgram,
  connectionProgram,
  moduleProgram,
  packagesProgram,
  prelude,
} from "./probe-programs.js";

export const packagesSchema = z.object({
  /** Installed versions; null if the package is missing. */
  pluginManager: z.nullable(z.string()),
  sqlitePlugin: z.nullable(z.string()),
  /**
   * `AbstractDB.SCHEMA_VERSION`; null in releases without it, which read schema 0, and if the
   * package cannot be imported.
   */
  schemaVersion: z.nullable(z.int()),
  /** The schema of a store opened by the SQLite plugin; null if it is unknown. */
  writtenSchema: z.nullable(z.int()),
  /** `PRAGMA cipher_version` of the hub's `sqlcipher3`; null if it is missing or broken. */
  cipherVersion: z.nullable(z.string()),
  /** Whether the hub encrypts a store when it has a password. */
  takesPassword: z.boolean(),
  /** The Python error of the test; null if it succeeded. */
  problem: z.nullable(z.string()),
  /** Python's `sys.path`. */
  paths: z.array(z.string()),
});

export type HubPackages = z.infer<typeof packagesSchema>;

/** The import of the packages takes half a second on a PC and several seconds on a small board. */
const probeLimitMs = 60_000;
/** The longest time for the hub's packages to read a client. */
const clientLimitMs = 5;

/**
 * Tests the packages of the interpreter. They see a temporary home directory, so they read and
 * write no file of the user.
 */
export async function probePackages(
  python: HubPython,
  hub: Account = currentAccount(),
): Promise<HubPackages> {
  return packagesSchema.parse(await runProbe(python, packagesProgram, hub));
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
  return z.boolean().parse(await runProbe(python, completionProgram, hub));
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
  hub: Account,
): Promise<string | null> {
  const answer = await runProbe(python, moduleProgram, hub, JSON.stringify(module));
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
  hub: Account,
): Promise<ServedClients> {
  const input = formatJson({ database, apiKey: apiKey ?? null, home });
  const timeoutMs = probeLimitMs + count * clientLimitMs;
  return servedSchema.parse(await runProbe(python, clientsProgram, hub, input, timeoutMs));
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
  hub: Account,
): Promise<string | null> {
  const answer = await runProbe(python, connectionProgram, hub, formatJson(database));
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
  program: string,
  account: Account,
  input = "",
  timeoutMs = probeLimitMs,
): Promise<unknown> {
  const [interpreter, ...options] = python;
  const hub = await resolveProbeAccount(python, account);
  const outcome = await withTemporaryDirectory(
    "hivemind-sqlcipher-probe",
    (home) =>
      run(interpreter, [...options, "-c", prelude + program, home], {
        timeoutMs,
        input,
        account: hub,
      }),
    { owner: hub },
  );
  try {
    if (outcome.code === 0) return JSON.parse(outcome.stdout);
  } catch {
    // Reported below.
  }
  throw new StoreError(
    "failed",
    `cannot test the hub's packages with ${interpreter}: ${describeFailure(outcome, timeoutMs)}`,
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
