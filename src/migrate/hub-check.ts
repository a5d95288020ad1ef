/**
 * Checks whether the hub can use the target of a migration.
 *
 * Without the target's plugin in its Python environment, the hub would not start again. So
 * `--switch` tests the hub's packages first, and `--remove-source` removes nothing before these
 * packages have read the clients from the target.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { type ClientCounts, isRevoked } from "../client/client.js";
import type { JsonObject } from "../client/json.js";
import { hubEnvironment } from "../config/hub-account.js";
import {
  configHome,
  dataHome,
  defaultSettingsPath,
  type Environment,
  stateHome,
} from "../config/paths.js";
import { jsonFiles, jsonPluginName } from "../databases/json.js";
import type { Endpoint } from "../databases/plugin.js";
import { redisPluginName } from "../databases/redis-settings.js";
import {
  DatabaseFactory,
  readDatabasePassword,
  resolveLocation,
  withoutSource,
} from "../databases/registry.js";
import { sqlcipherPluginName, sqlitePluginName } from "../databases/sqlite.js";
import { StoreError, systemError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { lstatIfExists, realPathIfExists } from "../fs/read.js";
import { currentAccount, findHubUnitAccount } from "../hub/account.js";
import {
  findAllHubProcesses,
  findHubProcesses,
  findHubUnits,
  formatStopCommand,
  mayUseServerJson,
} from "../hub/find-hubs.js";
import { findHubPython, type HubPython } from "../hub/interpreter.js";
import { startsByRun } from "../hub/password-delivery.js";
import {
  probeClients,
  probeConnection,
  probeModule,
  probePackages,
  resolveProbeAccount,
  type ServedClients,
} from "../hub/probe.js";
import { assertPackages } from "../hub/run.js";
import { assertBlacklistsKept } from "../hub/schema.js";
import { databaseIn, readServerJson, type ServerJson, serverJsonPath } from "../hub/server-json.js";
import { parseSource } from "../keys/source.js";
import { unlockSecret } from "../keys/unlock.js";
import {
  copyFileAs,
  makeDirectoryAs,
  makeTemporaryDirectory,
  removeDirectoryAs,
} from "../process/directories.js";
import { isAlive } from "../process/proc.js";
import type { Account } from "../process/run.js";
import { type HubUnit, listHubUnits } from "../service/hub-units.js";
import { systemctlLine } from "../service/systemctl.js";
import { identify } from "../store/cipher.js";
import { counted } from "../text/count.js";
import { shellQuote } from "../text/escape.js";
import type { HubDatabase } from "./switch.js";

export interface HubCheckOptions {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly database: HubDatabase;
  readonly hubPython?: string | undefined;
  /** Whether the source will be removed. */
  readonly removeSource: boolean;
}

/** A hub's interpreter, and its account. */
export interface TestedHub {
  readonly python: HubPython;
  readonly account: Account;
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
  const units = await findHubUnits(serverJsonPath());
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
 * Returns the interpreters of the units to start the hub; without a unit, the interpreter of the
 * hub on PATH. Skips units neither active nor enabled, but uses them if there is no other unit.
 */
async function findHubs(
  units: readonly HubUnit[],
  hubPython: string | undefined,
): Promise<TestedHub[]> {
  const used = units.filter(({ isActive, isEnabled }) => isActive || isEnabled);
  const candidates = used.length > 0 ? used : units;
  const starts =
    candidates.length === 0
      ? [{ args: undefined, account: currentAccount() }]
      : await Promise.all(
          candidates.map(async (unit) => ({
            args: unit.command,
            account: await findHubUnitAccount(unit),
          })),
        );
  const hubs = new Map<string, TestedHub>();
  for (const { args, account: unitAccount } of starts) {
    const { environment } = unitAccount;
    const python = await findHubPython({ hubPython, args, environment });
    if (python === undefined) continue;
    const account = await resolveProbeAccount(python, unitAccount);
    // Two units may run the same Python as different users.
    hubs.set(JSON.stringify([python, account.uid]), { python, account });
  }
  return [...hubs.values()];
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

/** Returns whether a hub with these settings in `server.json` uses the database. */
async function isSameDatabase(
  { module = jsonPluginName, settings }: ReturnType<typeof databaseIn>,
  { name, config }: Endpoint,
): Promise<boolean> {
  const plugin = name === sqlcipherPluginName ? sqlitePluginName : name;
  if (module !== plugin) return false;
  return (await resolveLocation(plugin, settings)) === (await resolveLocation(name, config));
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

/**
 * Checks that no hub runs, and that no unit is between two starts of a crash loop. A running hub
 * reads the source again on each connection, and would have no clients once the source is removed.
 *
 * @throws {@link StoreError} refused - if a hub runs, or a unit is not stopped
 */
async function assertNoHubRuns(): Promise<void> {
  const [hub] = await findHubProcesses(serverJsonPath());
  if (hub !== undefined) {
    const name = hub.unit?.name ?? `process ${hub.pid}`;
    throw new StoreError("refused", `${name} is a running hub: its database cannot be removed`, {
      hint: `Stop it first: ${formatStopCommand(hub)}`,
    });
  }
  const units = await findHubUnits(serverJsonPath());
  const unit = units.find(({ isActive }) => isActive);
  if (unit === undefined) return;
  throw new StoreError("refused", `${unit.name} is not stopped: its database cannot be removed`, {
    hint: `Stop it first: ${systemctlLine(unit.manager, `stop ${shellQuote(unit.name)}`)}`,
  });
}

export interface CopiedClients {
  /** The ids of clients active in the source, but revoked in the target. */
  readonly keptRevoked: readonly number[];
  /** The clients of the target, as compared with the source after the copy. */
  readonly inTarget: ClientCounts;
}

interface ServedTarget {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly database: HubDatabase;
  readonly copied: CopiedClients;
}

/**
 * Reads the clients from the target with the hub's own packages after the switch. On failure,
 * restores `server.json`, so that the hub starts on the source again.
 *
 * @param before - `server.json` as it was before the switch
 * @param assertSourceUnchanged - throws if the source has changed since it was copied
 * @throws {@link StoreError} as `assertHubsServe`, `assertNoHubRuns` and `assertSourceUnchanged`;
 *   the source stays
 */
export async function assertServedOrSwitchBack(
  hubs: readonly TestedHub[],
  target: ServedTarget,
  before: ServerJson,
  assertSourceUnchanged: () => Promise<void>,
): Promise<void> {
  try {
    await assertHubsServe(hubs, target);
    await assertNoHubRuns();
    await assertSourceUnchanged();
  } catch (error) {
    await replaceFile(before.file, before.text);
    const wasSwitched = await isSameDatabase(databaseIn(before), target.to).catch(() => false);
    const state = wasSwitched
      ? "names the target since an earlier attempt"
      : "names the old database again";
    const { kind, message, hint } = systemError(error, "the target cannot be read", "failed");
    throw new StoreError(kind, `${message}; ${before.path} ${state}, and the source stays`, {
      hint,
      cause: error,
    });
  }
}

/**
 * Reads the clients from the target with the packages of each hub, and compares them with the
 * copied clients, because the target's file may have been replaced since. A file is copied first
 * and the copy opened, because a hub may upgrade the schema when it opens a database.
 *
 * @throws {@link StoreError} failed - if the packages do not open the target or do not find the
 *   copied clients
 */
async function assertHubsServe(
  hubs: readonly TestedHub[],
  { from, to, database, copied }: ServedTarget,
): Promise<void> {
  const { active, revoked } = copied.inTarget;
  const expected = { count: active + revoked, apiKey: await findCopiedKey(from, copied) };
  for (const { python, account } of hubs) {
    const home = await makeCheckDirectory(account);
    let served: ServedClients;
    try {
      const named = await buildDatabase(to, database, home, account);
      served = await probeClients(python, named, expected, home, account);
    } finally {
      await removeDirectoryAs(account, home);
    }
    const problem = describeMissing(served, copied.inTarget);
    if (problem === undefined) continue;
    throw new StoreError("failed", `the hub's packages in ${python[0]} ${problem}`, {
      hint: "Stop every program that writes to the target, then run the same command again.",
    });
  }
}

function describeMissing(served: ServedClients, expected: ClientCounts): string | undefined {
  if (served.active !== expected.active) {
    return `read ${counted(served.active, "client")} from the target; expected: ${expected.active}`;
  }
  if (served.revoked !== expected.revoked) {
    return `read ${counted(served.revoked, "revoked client")} from the target; expected: ${expected.revoked}`;
  }
  return served.found ? undefined : "do not find a client of the target by its API key";
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

/** Returns the API key of a client active in source and target; undefined if there is none. */
async function findCopiedKey(
  { name, config }: Endpoint,
  { keptRevoked }: CopiedClients,
): Promise<string | undefined> {
  await using source = await DatabaseFactory.create(name, config, { mode: "readonly" });
  const inactive = new Set(keptRevoked);
  for await (const client of source) {
    if (!isRevoked(client) && !inactive.has(client.client_id)) return client.api_key;
  }
  return undefined;
}

/**
 * Creates a directory below the state directory, because a temporary directory in memory may be too
 * small for a copy of the database. For root, another user's directory is in /var/tmp, because the
 * user cannot enter root's state directory. The name contains the process id, by which a later
 * check recognizes the directory of a killed check.
 */
async function makeCheckDirectory(hub: Account): Promise<string> {
  const own = process.geteuid?.() ?? 0;
  const { uid = own } = hub;
  const parent = uid === own ? join(stateHome(), "hivemind-sqlcipher") : "/var/tmp";
  if (uid === own) await makeDirectory(parent);
  await removeLeftovers(parent, hub, uid);
  return makeTemporaryDirectory(hub, parent, `hub-check-${process.pid}-`);
}

/** Removes the copies of killed checks, which may contain the clients' keys in plain text. */
async function removeLeftovers(parent: string, hub: Account, uid: number): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!name.startsWith("hub-check-")) continue;
    // The names of earlier versions do not contain the process id.
    const [, pid] = /^hub-check-(\d+)-/.exec(name) ?? [];
    if (pid !== undefined && isAlive(Number(pid))) continue;
    const path = join(parent, name);
    if ((await lstatIfExists(path))?.uid === BigInt(uid)) await removeDirectoryAs(hub, path);
  }
}

/**
 * Returns the hub's database: the target, or a copy of the target's file below `home`. The hub's
 * user makes the copy, because its hub needs access to the file, too.
 */
async function buildDatabase(
  to: Endpoint,
  { module, settings }: HubDatabase,
  home: string,
  hub: Account,
): Promise<JsonObject> {
  const password = await readPassword(to);
  const withPassword = password === undefined ? {} : { password };
  if (to.name === redisPluginName) return { module, [module]: { ...settings, ...withPassword } };
  const files = to.name === jsonPluginName ? await jsonFiles(withoutSource(to.config)) : undefined;
  const path = files?.store ?? (await resolveLocation(to.name, to.config));
  const directory = join(home, "hivemind-core");
  await makeDirectoryAs(hub, directory);
  // The path may be the target of a link with another ending. The hub opens its plugin's ending.
  const ending = files === undefined ? "db" : password === undefined ? "json" : "ejson";
  await copyFileAs(hub, path, join(directory, `copy.${ending}`));
  if (files !== undefined && (await lstatIfExists(files.version))) {
    await copyFileAs(hub, files.version, join(directory, "copy.schema_version"));
  }
  return { module, [module]: { name: "copy", subfolder: "hivemind-core", ...withPassword } };
}

async function readPassword({ name, config }: Endpoint): Promise<string | undefined> {
  const { password_source: source, password, ...settings } = config;
  if (typeof password === "string") return password;
  if (name === sqlcipherPluginName) {
    const path = await resolveLocation(name, settings);
    return (await unlockSecret(path, parseSource(`${source ?? "keyring"}`))).passphrase;
  }
  if (typeof source !== "string") return undefined;
  return readDatabasePassword(name, settings, parseSource(source));
}
