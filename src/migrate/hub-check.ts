/**
 * Checks before a migration whether the hub can use its target.
 *
 * Without the target's plugin in its Python environment, the hub would not start again. So
 * `--switch` tests the hub's packages first.
 */
import { hubEnvironment } from "../config/hub-account.js";
import { configHome, dataHome, defaultSettingsPath, type Environment } from "../config/paths.js";
import { jsonPluginName } from "../databases/json.js";
import type { Endpoint } from "../databases/plugin.js";
import { redisPluginName } from "../databases/redis-settings.js";
import { DatabaseFactory, resolveLocation } from "../databases/registry.js";
import { sqlcipherPluginName, sqlitePluginName } from "../databases/sqlite.js";
import { StoreError } from "../errors.js";
import { realPathIfExists } from "../fs/read.js";
import {
  findAllHubProcesses,
  findHubUnitsAndTemplates,
  mayUseServerJson,
} from "../hub/find-hubs.js";
import { assertPackages } from "../hub/packages.js";
import { startsByRun } from "../hub/password-delivery.js";
import { probeConnection, probeModule, probePackages } from "../hub/probe.js";
import { assertBlacklistsKept } from "../hub/schema.js";
import { databaseIn, readServerJson, serverJsonPath } from "../hub/server-json.js";
import { parseSource } from "../keys/source.js";
import { unlockSecret } from "../keys/unlock.js";
import { type HubUnit, listHubUnits } from "../service/hub-units.js";
import { systemctlLine } from "../service/systemctl.js";
import { identify } from "../store/cipher.js";
import { shellQuote } from "../text/escape.js";
import { type HubDatabase, isSameDatabase, readPassword } from "./hub-database.js";
import { assertNoHubRuns, findHubs, type TestedHub } from "./hubs.js";

export interface HubCheckOptions {
  readonly from: Endpoint;
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
 * @returns the hubs for the later check of the target
 * @throws {@link StoreError} refused - if no hub is found, if the hub could not open the target or
 *   would not receive its passphrase, if it reads another `server.json` or data directory than this
 *   process, or if a hub runs on a source that will be removed
 * @throws {@link StoreError} failed - if the interpreter fails
 * @throws {@link StoreError} usage - if `hubPython` cannot be executed
 */
export async function assertHubCanSwitch(options: HubCheckOptions): Promise<TestedHub[]> {
  const { from, to, database } = options;
  if (options.removeSource) await assertNoHubRuns();
  if (options.removeSource && to.name === jsonPluginName && database.lacksPassword) {
    throw new StoreError(
      "refused",
      "the hub could not open the target: server.json, the only place where it reads the password, would lack it",
      {
        hint: "Leave out --remove-source, and remove the source manually when the hub reads the target.",
      },
    );
  }
  await assertNoOtherServerJson(from);
  const units = await findHubUnitsAndTemplates(serverJsonPath());
  const hubs = await findHubs(units, options.hubPython);
  if (hubs.length === 0) {
    throw new StoreError("refused", "no hub found to test the target with", {
      hint: "Name the Python that has hivemind-core installed: --hub-python PATH; or add --hub none if no hub uses this server.json.",
    });
  }
  for (const hub of hubs) await assertHubLoads(hub, options);
  if (to.name === sqlcipherPluginName) assertUnitsUseRun(units, "passphrase");
  if (to.name === redisPluginName && database.lacksPassword) assertUnitsUseRun(units, "password");
  if ([from, to].some(isFileDatabase)) assertSameDataHome(units);
  return hubs;
}

/**
 * Checks that no hub with another `server.json` uses the source: the switch would not reach it.
 *
 * @throws {@link StoreError} refused - if there is such a hub
 */
async function assertNoOtherServerJson(from: Endpoint): Promise<void> {
  const processes = (await findAllHubProcesses()).map((hub) => ({
    name: hub.unit?.name ?? `process ${hub.pid}`,
    environment: hub.environment,
  }));
  for (const { name, environment } of [...(await listHubUnits()), ...processes]) {
    if (mayUseServerJson(serverJsonPath(), environment)) continue;
    if (!(await usesSource(from, environment))) continue;
    const path = serverJsonPath(environment);
    throw new StoreError(
      "refused",
      `${name} uses the source, but reads ${path} and not ${serverJsonPath()}`,
      {
        hint: `Switch the file that it reads: XDG_CONFIG_HOME=${shellQuote(configHome(environment))} hivemind-sqlcipher migrate … --config ${shellQuote(defaultSettingsPath())}`,
      },
    );
  }
}

/** Returns whether a hub with this environment uses the source. */
async function usesSource(from: Endpoint, environment: Environment): Promise<boolean> {
  if (isFileDatabase(from) && !hasSameDataHome(environment)) return false;
  return isSameDatabase(await readHubDatabase(environment), from);
}

/**
 * Returns the database of a hub with this environment, without a module if `server.json` names none
 * or cannot be read. The hub then uses its default.
 */
async function readHubDatabase(environment: Environment): Promise<ReturnType<typeof databaseIn>> {
  try {
    return databaseIn(await readServerJson(serverJsonPath(environment)));
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    return { module: undefined, settings: {} };
  }
}

/**
 * Checks that the hubs of the units have the data directory of this process, in which the files of
 * source and target are.
 *
 * @throws {@link StoreError} refused - if a unit has another data directory
 */
function assertSameDataHome(units: readonly HubUnit[]): void {
  const other = units.find(
    ({ environment, isEnvironmentKnown }) => isEnvironmentKnown && !hasSameDataHome(environment),
  );
  if (other === undefined) return;
  const directory = dataHome(other.environment);
  throw new StoreError(
    "refused",
    `the hub of ${other.name} keeps its data in ${directory}, not in ${dataHome(hubEnvironment())}`,
    {
      hint: `Migrate with its data directory: XDG_DATA_HOME=${shellQuote(directory)} hivemind-sqlcipher migrate …\nOr add --hub none if the hub of the unit does not use this server.json.`,
    },
  );
}

function hasSameDataHome(environment: Environment): boolean {
  return realPathIfExists(dataHome(environment)) === realPathIfExists(dataHome(hubEnvironment()));
}

/** Returns whether a database is a file: its default path is in the data directory. */
function isFileDatabase({ name }: Endpoint): boolean {
  return [jsonPluginName, sqlitePluginName, sqlcipherPluginName].includes(name);
}

async function assertHubLoads(hub: TestedHub, options: HubCheckOptions): Promise<void> {
  const { from, to, database } = options;
  const { python, account } = hub;
  const [interpreter] = python;
  if (to.name === sqlcipherPluginName) {
    const { cipherCompatibility } = await identifyTarget(to);
    const packages = await probePackages(python, account);
    assertPackages(packages, interpreter, cipherCompatibility);
    await using source = await DatabaseFactory.create(from.name, from.config, { mode: "readonly" });
    await assertBlacklistsKept(packages, interpreter, source);
    return;
  }
  const problem = await probeModule(python, database.module, account);
  if (problem !== null) {
    throw new StoreError(
      "refused",
      `the hub in ${interpreter} cannot load ${database.module}: ${problem}`,
      { hint: `Install it with the hub's own pip: pip install ${requirements[database.module]}` },
    );
  }
  if (to.name === redisPluginName) await assertHubConnects(hub, to, database);
}

/**
 * Checks that the hub's plugin connects to the Redis server with these settings. It may not know
 * all settings of this program.
 *
 * @throws {@link StoreError} refused - if it does not connect
 */
async function assertHubConnects(
  { python, account }: TestedHub,
  to: Endpoint,
  { module, settings }: HubDatabase,
): Promise<void> {
  const password = await readPassword(to);
  const block = { ...settings, ...(password !== undefined && { password }) };
  const problem = await probeConnection(python, { module, [module]: block }, account);
  if (problem === null) return;
  throw new StoreError(
    "refused",
    `the hub in ${python[0]} cannot open ${await resolveLocation(to.name, to.config)}: ${problem}`,
    {
      hint: `Correct the settings (--to-setting), or upgrade the plugin with the hub's own pip: pip install --upgrade ${requirements[module]}`,
    },
  );
}

/**
 * Returns the SQLCipher format of the target; undefined if the target does not exist yet, or has a
 * password in its settings.
 */
async function identifyTarget(to: Endpoint): Promise<{ cipherCompatibility: 3 | 4 | undefined }> {
  const path = await resolveLocation(to.name, to.config);
  const { password_source: source = "keyring", password } = to.config;
  if ((await identify(path)).format === "absent" || password !== undefined) {
    return { cipherCompatibility: undefined };
  }
  const { key } = await unlockSecret(path, parseSource(`${source}`));
  return { cipherCompatibility: key.cipherCompatibility };
}

/**
 * Checks that every unit starts its hub through `run`, which passes the secret to the hub.
 *
 * @param secret - the passphrase of the encrypted store, or the password of the Redis server
 * @throws {@link StoreError} refused - if a unit does not
 */
function assertUnitsUseRun(units: readonly HubUnit[], secret: "passphrase" | "password"): void {
  const without = units.find(({ args }) => !startsByRun(args.join(" ")));
  if (without === undefined) return;
  const target = secret === "passphrase" ? "the encrypted store" : "the Redis server";
  // A drop-in cannot be printed for a template, and before the switch not for a password of Redis.
  const canPrint = secret === "passphrase" && !without.isTemplate;
  const change = canPrint
    ? `write the drop-in printed by hivemind-sqlcipher run --print-unit dropin --unit ${shellQuote(without.name)}`
    : 'write the path of hivemind-sqlcipher, and "run --", before the command in its ExecStart=, then run systemctl daemon-reload';
  throw new StoreError(
    "refused",
    `${without.name} starts the hub without its ${secret}: the hub could not open ${target}`,
    {
      hint: `Let the unit start the hub through run: ${change}.\nIf the unit is no longer used, remove its file or mask it: ${systemctlLine(without.manager, `mask ${shellQuote(without.name)}`)}\nOr add --hub none if the hub of the unit does not use this server.json.`,
    },
  );
}
