/** Switches the hub to the target after a migration, and removes the plaintext source. */
import { createHash } from "node:crypto";
import { basename, dirname, isAbsolute, relative } from "node:path";
import { formatJson, type JsonObject, type JsonValue } from "../client/json.js";
import { hubDataHome, toHub } from "../config/hub-account.js";
import { expandPath } from "../config/paths.js";
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
import { isKind, StoreError } from "../errors.js";
import { removeFile, syncDirectory } from "../fs/atomic.js";
import { lstatIfExists, sha256File } from "../fs/read.js";
import { passwordIn, type ServerJson, sqliteModule } from "../hub/server-json.js";
import { parseSource } from "../keys/source.js";
import { findLastingHolders, type Holder } from "../process/holders.js";
import { systemctlLine } from "../service/systemctl.js";
import { SystemdUnit } from "../service/systemd.js";
import { shellQuote } from "../text/escape.js";

/**
 * The `database` settings in `server.json` for a hub on the target. They contain a password only if
 * the target's settings contain it.
 */
export interface HubDatabase {
  readonly module: string;
  readonly settings: JsonObject;
  /** Whether the target has a password that the settings lack. */
  readonly lacksPassword: boolean;
  /** The operator's next steps, for a notice after the switch. */
  readonly notice: string;
}

const restart = "The hub uses its old store until it is restarted.";

/**
 * Returns the settings of a database for the hub.
 *
 * @throws {@link StoreError} refused - if no hub can open the database
 */
export function resolveHubDatabase({ name, config }: Endpoint): HubDatabase {
  const { password_source, ...settings } = config;
  switch (name) {
    case sqlcipherPluginName:
      return describeDatabase(name, sqliteModule, toPathSettings(config), true);
    case sqlitePluginName:
      return describeDatabase(name, sqliteModule, toPathSettings(config), false);
    case jsonPluginName:
    case redisPluginName: {
      const lacksPassword = password_source !== undefined && settings.password === undefined;
      return describeDatabase(name, name, settings, lacksPassword);
    }
  }
  throw new StoreError("refused", `no hub has the database plugin ${name}`, {
    hint: "Leave out --switch: the hub would fail on an unknown module.",
  });
}

function describeDatabase(
  name: string,
  module: string,
  settings: JsonObject,
  lacksPassword: boolean,
): HubDatabase {
  const notice = lacksPassword ? `${restart} ${passwordNotices[name]}` : restart;
  return { module, settings, lacksPassword, notice };
}

/** How a hub gets a password that its settings lack, by the name of the plugin. */
const passwordNotices: Readonly<Record<string, string>> = {
  [sqlcipherPluginName]: `Start the hub through "hivemind-sqlcipher run", which passes the passphrase to it.`,
  [redisPluginName]: `No password was written into server.json. Start the hub through "hivemind-sqlcipher run", which passes the password from the keyring, or from --redis-password-source.`,
  [jsonPluginName]: `No password was written into server.json. Set database."${jsonPluginName}".password there: the hub reads the password only from this file.`,
};

/**
 * Returns the settings for the hub's SQLite plugin to find the store: a directory and a name. The
 * hub fails with any other key.
 */
function toPathSettings(config: JsonObject): JsonObject {
  if (typeof config.db_path !== "string") {
    const names: Record<string, JsonValue> = {};
    for (const key of ["subfolder", "name"]) if (config[key]) names[key] = config[key] ?? null;
    return names;
  }
  const path = expandPath(config.db_path);
  if (!path.endsWith(".db")) {
    throw new StoreError(
      "refused",
      `the hub's plugin cannot open ${path}: the name must end in .db`,
      {
        hint: "Name a target with this ending: --to-setting db_path=PATH.db",
      },
    );
  }
  const directory = toHub(dirname(path)) ?? dirname(path);
  const below = relative(hubDataHome(), directory);
  const subfolder = below === "" || below.startsWith("..") ? directory : below;
  return { subfolder: isAbsolute(below) ? directory : subfolder, name: basename(path, ".db") };
}

/**
 * Checks that the switch, which replaces the module's settings in `server.json`, does not remove
 * the only copy of a password.
 *
 * @throws {@link StoreError} refused - if the file has another password than the target's
 */
export async function assertNoOtherPassword(
  file: ServerJson,
  { module, settings }: HubDatabase,
  to: Endpoint,
): Promise<void> {
  const password = passwordIn(file, module);
  if (password === undefined || password === settings.password) return;
  if (await isTargetPassword(to, password)) return;
  const adoptHint = module === sqliteModule ? "adopt that store with init --adopt, or " : "";
  throw new StoreError(
    "refused",
    `${file.path} has a password for ${module} that is not the target's; --switch would remove it`,
    {
      hint: `Save the password first, it may be the only password of another store: ${adoptHint}write it down, then remove it from the file. Nothing was copied.`,
    },
  );
}

async function isTargetPassword({ name, config }: Endpoint, password: string): Promise<boolean> {
  const { password_source: source, ...settings } = config;
  if (name !== sqlcipherPluginName) {
    if (typeof source !== "string") return false;
    return (await readDatabasePassword(name, settings, parseSource(source))) === password;
  }
  try {
    const withPassword = { ...settings, password };
    await (await DatabaseFactory.create(name, withPassword, { mode: "readwrite" })).close();
    return true;
  } catch (error) {
    if (isKind(error, "wrongPassphrase")) return false;
    throw error;
  }
}

/**
 * Returns the database with the password that `server.json` has for the target. A hub reads the
 * password of a JSON store only from there.
 */
export function keepJsonPassword(database: HubDatabase, file: ServerJson): HubDatabase {
  const { module, settings, lacksPassword } = database;
  const password = passwordIn(file, module);
  if (module !== jsonPluginName || !lacksPassword || password === undefined) return database;
  return describeDatabase(module, module, { ...settings, password }, false);
}

/** @throws {@link StoreError} usage - if the source is not a JSON store */
export function assertRemovable({ name }: Endpoint): void {
  if (name === jsonPluginName) return;
  throw new StoreError("usage", `--remove-source only removes the files of ${jsonPluginName}`, {
    hint: "Leave out --remove-source, and remove the old database manually.",
  });
}

/**
 * Returns a checksum of the source for `assertUnchanged`; undefined if its JSON file is missing.
 *
 * For a JSON store, which may be removed later, the checksum is of the file. For other databases,
 * it is the sum of the records' checksums, so their order does not matter. It ignores `last_seen`.
 */
export async function checksumSource({ name, config }: Endpoint): Promise<string | undefined> {
  if (name === jsonPluginName) {
    const store = await resolveLocation(name, config);
    return (await lstatIfExists(store)) && (await sha256File(store));
  }
  await using source = await DatabaseFactory.create(name, config, { mode: "readonly" });
  let sum = 0n;
  for await (const client of source) {
    const text = formatJson({ ...client, last_seen: null });
    sum += BigInt(`0x${createHash("sha256").update(text).digest("hex")}`);
  }
  return sum.toString(16);
}

/**
 * Checks that no program has changed the source since its checksum was computed.
 *
 * @throws {@link StoreError} refused - if the source has changed
 */
export async function assertUnchanged(from: Endpoint, sum: string | undefined): Promise<void> {
  if ((await checksumSource(from)) === sum) return;
  const location = await resolveLocation(from.name, from.config);
  throw new StoreError("refused", `${location} has changed since the start of the migration`, {
    hint: "Stop the hub that writes to it, then run the command again with --merge.",
  });
}

/**
 * Finds the programs that keep using the source after the switch: the hub's unit if it is active,
 * and for a SQLite file every other process with the file open.
 *
 * @param unit - the name of the hub's unit
 * @returns a sentence for each program, with the command to restart it
 */
export async function findRemainingUsers(
  { name, config }: Endpoint,
  unit: string,
): Promise<string[]> {
  const sentences: string[] = [];
  const active: SystemdUnit[] = [];
  for (const kind of ["systemd-user", "systemd"] as const) {
    try {
      const found = await SystemdUnit.find(kind, unit);
      if (found.isUsable && (await found.state()).active) active.push(found);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
    }
  }
  for (const { kind, name: found } of active) {
    const restart = systemctlLine(kind, `restart ${shellQuote(found)}`);
    sentences.push(`${found} is active, and uses its old store until it is restarted: ${restart}`);
  }
  if (name !== sqlcipherPluginName && name !== sqlitePluginName) return sentences;
  const path = await resolveLocation(name, config);
  const isOther = async ({ pid }: Holder) => {
    for (const service of active) if (await service.owns(pid)) return false;
    return true;
  };
  for (const { pid, command } of (await findLastingHolders(path, isOther)).holders) {
    sentences.push(
      `process ${pid} (${command}) has ${path} open, and uses it until it is restarted: kill ${pid}, then start it again`,
    );
  }
  return sentences;
}

/**
 * Removes the files of an unchanged JSON store and returns their paths.
 *
 * @throws {@link StoreError} refused - if the source has changed
 * @throws {@link StoreError} io - if a file cannot be removed
 */
export async function removeSource(from: Endpoint, sum: string | undefined): Promise<string[]> {
  const { store, version } = await jsonFiles(withoutSource(from.config));
  await assertUnchanged(from, sum);
  const removed: string[] = [];
  for (const path of [store, version]) {
    if (!(await lstatIfExists(path))) continue;
    await removeFile(path);
    removed.push(path);
  }
  await syncDirectory(dirname(store));
  return removed;
}
