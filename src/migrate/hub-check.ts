/**
 * Checks that the hub can use the target before a migration hands over to it.
 *
 * Without the target's plugin in its Python environment, the hub would not start again, and its
 * clients would be out of reach. So `--switch` tests the hub's packages first, and
 * `--remove-source` removes nothing before they have read the clients from the target.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { isRevoked } from "../client/client.js";
import type { JsonObject } from "../client/json.js";
import { stateHome } from "../config/paths.js";
import { jsonFiles, jsonPluginName } from "../databases/json.js";
import { redisPluginName } from "../databases/redis-settings.js";
import { DatabaseFactory, databasePassword, locationOf } from "../databases/registry.js";
import { sqlcipherPluginName, sqlitePluginName } from "../databases/sqlite.js";
import { StoreError, systemError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { copyFile } from "../fs/copy.js";
import { lstatIfExists } from "../fs/read.js";
import { findHubProcesses, findHubUnits, stopCommandOf } from "../hub/find-hubs.js";
import {
  askClients,
  askHub,
  askModule,
  findHubPython,
  type HubPython,
} from "../hub/interpreter.js";
import { startsByRun } from "../hub/password-delivery.js";
import { checkPackages } from "../hub/run.js";
import { type ServerJson, serverJsonPath } from "../hub/server-json.js";
import { parseSource } from "../keys/source.js";
import { unlock } from "../keys/unlock.js";
import type { HubUnit } from "../service/hub-units.js";
import { systemctlLine } from "../service/systemctl.js";
import { identify } from "../store/cipher.js";
import { counted } from "../text/count.js";
import type { Endpoint } from "./migrate.js";
import type { HubDatabase } from "./switch.js";

export interface HubCheckOptions {
  readonly to: Endpoint;
  readonly database: HubDatabase;
  readonly hubPython?: string | undefined;
  /** Whether the source will be removed. */
  readonly removeSource: boolean;
}

/** The pip requirement for each plugin of the hub. */
const requirements: Readonly<Record<string, string>> = {
  [sqlitePluginName]: "hivemind-sqlite-database",
  [jsonPluginName]: "hivemind-json-db-plugin",
  [redisPluginName]: "hivemind-redis-database",
};

/**
 * Checks that the hub could start on the target, before anything is copied.
 *
 * @returns the hub's interpreter
 * @throws {@link StoreError} refused - if no hub is found, if the hub could not open the target or
 *   would not receive its passphrase, or if a hub runs on a source that will be removed
 * @throws {@link StoreError} failed - if the interpreter fails
 */
export async function assertHubCanSwitch(options: HubCheckOptions): Promise<HubPython> {
  if (options.removeSource) await assertNoHubRuns();
  const units = await findHubUnits(serverJsonPath());
  const { hubPython } = options;
  const args = units.find(({ isActive }) => isActive)?.args ?? units[0]?.args;
  const python = await findHubPython({ hubPython, args });
  if (python === undefined) {
    throw new StoreError("refused", "no hub found to test the target with", {
      hint: "Name the Python that has hivemind-core installed: --hub-python PATH; or add --hub none if no hub uses this server.json.",
    });
  }
  await assertLoads(python, options);
  if (options.to.name === sqlcipherPluginName) assertUnitsUseRun(units);
  return python;
}

/**
 * Checks that no hub runs: it reads the source again on each connection and would lose its clients.
 *
 * @throws {@link StoreError} refused - if a hub runs
 */
async function assertNoHubRuns(): Promise<void> {
  const [hub] = await findHubProcesses(serverJsonPath());
  if (hub === undefined) return assertNoUnitRestarts();
  const name = hub.unit?.name ?? `process ${hub.pid}`;
  throw new StoreError("refused", `${name} is a running hub: its database cannot be removed`, {
    hint: `Stop it first: ${stopCommandOf(hub)}`,
  });
}

/**
 * Checks that no unit is about to start its hub again, as in a crash loop.
 *
 * @throws {@link StoreError} refused - if a unit is not stopped
 */
async function assertNoUnitRestarts(): Promise<void> {
  const units = await findHubUnits(serverJsonPath());
  const unit = units.find(({ isActive }) => isActive);
  if (unit === undefined) return;
  throw new StoreError("refused", `${unit.name} is not stopped: its database cannot be removed`, {
    hint: `Stop it first: ${systemctlLine(unit.manager, `stop ${unit.name}`)}`,
  });
}

/**
 * Reads the clients from the target with the hub's own packages after the switch. On failure,
 * restores `server.json`, so that the hub starts on the source again.
 *
 * @param before - `server.json` as it was before the switch
 * @param assertSourceUnchanged - throws if the source has changed since it was copied
 * @throws {@link StoreError} as `assertHubServes`, `assertNoHubRuns` and `assertSourceUnchanged`;
 *   the source stays
 */
export async function assertServedOrSwitchBack(
  python: HubPython,
  to: Endpoint,
  database: HubDatabase,
  before: ServerJson,
  assertSourceUnchanged: () => Promise<void>,
): Promise<void> {
  try {
    await assertHubServes(python, to, database);
    await assertNoHubRuns();
    await assertSourceUnchanged();
  } catch (error) {
    await replaceFile(before.file, before.text);
    const { kind, message, hint } = systemError(error, "the target cannot be read", "failed");
    throw new StoreError(
      kind,
      `${message}; ${before.path} names the old database again, and the source stays`,
      { hint, cause: error },
    );
  }
}

/**
 * Reads the clients from the target with the hub's own packages. Opens a file in a private copy,
 * because a hub may upgrade the schema when it opens a database.
 *
 * @throws {@link StoreError} failed - if the packages do not open the target or do not find its
 *   clients
 */
async function assertHubServes(
  python: HubPython,
  to: Endpoint,
  { module, settings }: HubDatabase,
): Promise<void> {
  const expected = await countActive(to);
  const home = await privateDirectory();
  let served: { active: number; found: boolean };
  try {
    const block = await blockFor(to, settings, home);
    const database: JsonObject = { module, [module]: block };
    served = await askClients(python, database, expected.apiKey, home);
  } finally {
    await rm(home, { recursive: true, force: true });
  }
  if (served.found && served.active === expected.active) return;
  throw new StoreError(
    "failed",
    `the hub's packages in ${python[0]} read ${counted(served.active, "client")} from the target; expected: ${expected.active}`,
    { hint: "Stop every program that writes to the target, then run the same command again." },
  );
}

async function assertLoads(python: HubPython, { to, database }: HubCheckOptions): Promise<void> {
  const [interpreter] = python;
  if (to.name === sqlcipherPluginName) {
    const { cipherCompatibility } = await identifyTarget(to);
    checkPackages(await askHub(python), interpreter, cipherCompatibility);
    return;
  }
  const problem = await askModule(python, database.module);
  if (problem === null) return;
  throw new StoreError(
    "refused",
    `the hub in ${interpreter} cannot load ${database.module}: ${problem}`,
    { hint: `Install it with the hub's own pip: pip install ${requirements[database.module]}` },
  );
}

/**
 * Returns the target's format; undefined if the target does not exist yet or does not open here.
 */
async function identifyTarget(to: Endpoint): Promise<{ cipherCompatibility: 3 | 4 | undefined }> {
  const path = await locationOf(to.name, to.config);
  const { password_source: source = "keyring", password } = to.config;
  if ((await identify(path)).format === "absent" || password !== undefined) {
    return { cipherCompatibility: undefined };
  }
  const opened = await unlock(path, parseSource(`${source}`), { mode: "readwrite" });
  await opened.connection.close();
  return { cipherCompatibility: opened.key.cipherCompatibility };
}

function assertUnitsUseRun(units: readonly HubUnit[]): void {
  const without = units.find(({ args }) => !startsByRun(args.join(" ")));
  if (without === undefined) return;
  throw new StoreError(
    "refused",
    `${without.name} starts the hub without its passphrase: it could not open the encrypted store`,
    {
      hint: `Let the unit start it through run: ExecStart=hivemind-sqlcipher run -- hivemind-core listen (then systemctl daemon-reload).\nIf the unit is no longer used, remove its file or mask it: ${systemctlLine(without.manager, `mask ${without.name}`)}\nOr give --hub none if that hub does not use this store.`,
    },
  );
}

async function countActive(to: Endpoint): Promise<{ active: number; apiKey: string | undefined }> {
  await using database = await DatabaseFactory.create(to.name, to.config, { mode: "readwrite" });
  let active = 0;
  let apiKey: string | undefined;
  for await (const client of database) {
    if (isRevoked(client)) continue;
    active += 1;
    apiKey = client.api_key;
  }
  return { active, apiKey };
}

/**
 * Creates a directory below the state directory: memory may be too small for a copy of the
 * database.
 */
async function privateDirectory(): Promise<string> {
  const parent = join(stateHome(), "hivemind-sqlcipher");
  await makeDirectory(parent);
  return mkdtemp(join(parent, "hub-check-"));
}

/** Returns the hub's settings for the target, or for a copy of the target's file below `home`. */
async function blockFor(to: Endpoint, settings: JsonObject, home: string): Promise<JsonObject> {
  const password = await passwordOf(to);
  const withPassword = password === undefined ? {} : { password };
  if (to.name === redisPluginName) return { ...settings, ...withPassword };
  const files =
    to.name === jsonPluginName ? await jsonFiles({ ...to.config, ...withPassword }) : undefined;
  const path = files?.store ?? (await locationOf(to.name, to.config));
  const directory = join(home, "hivemind-core");
  await makeDirectory(directory);
  await copyFile(path, join(directory, `copy${extname(basename(path))}`));
  if (files !== undefined && (await lstatIfExists(files.version))) {
    await copyFile(files.version, join(directory, "copy.schema_version"));
  }
  return { name: "copy", subfolder: "hivemind-core", ...withPassword };
}

async function passwordOf({ name, config }: Endpoint): Promise<string | undefined> {
  const { password_source: source, password, ...settings } = config;
  if (typeof password === "string") return password;
  if (name === sqlcipherPluginName) {
    const path = await locationOf(name, settings);
    const opened = await unlock(path, parseSource(`${source ?? "keyring"}`), { mode: "readwrite" });
    await opened.connection.close();
    return opened.passphrase;
  }
  if (typeof source !== "string") return undefined;
  return databasePassword(name, settings, parseSource(source));
}
