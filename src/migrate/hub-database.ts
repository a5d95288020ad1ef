/** The database that the hub uses after a migration, as its `server.json` names it. */
import { basename, dirname, isAbsolute, relative } from "node:path";
import type { JsonObject, JsonValue } from "../client/json.js";
import { hubDataHome, toHub } from "../config/hub-account.js";
import { expandPath } from "../config/paths.js";
import { jsonPluginName } from "../databases/json.js";
import type { Endpoint } from "../databases/plugin.js";
import { redisPluginName } from "../databases/redis-settings.js";
import { DatabaseFactory, readDatabasePassword, resolveLocation } from "../databases/registry.js";
import { sqlcipherPluginName, sqlitePluginName } from "../databases/sqlite.js";
import { isKind, StoreError } from "../errors.js";
import { type databaseIn, passwordIn, type ServerJson, sqliteModule } from "../hub/server-json.js";
import { parseSource } from "../keys/source.js";
import { unlockSecret } from "../keys/unlock.js";

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

/** Returns whether a hub with these settings in `server.json` uses the database. */
export async function isSameDatabase(
  { module = jsonPluginName, settings }: ReturnType<typeof databaseIn>,
  { name, config }: Endpoint,
): Promise<boolean> {
  const plugin = name === sqlcipherPluginName ? sqlitePluginName : name;
  if (module !== plugin) return false;
  return (await resolveLocation(plugin, settings)) === (await resolveLocation(name, config));
}

/** Returns the password in the settings of a database, or of their source; undefined if none. */
export async function readPassword({ name, config }: Endpoint): Promise<string | undefined> {
  const { password_source: source, password, ...settings } = config;
  if (typeof password === "string") return password;
  if (name === sqlcipherPluginName) {
    const path = await resolveLocation(name, settings);
    return (await unlockSecret(path, parseSource(`${source ?? "keyring"}`))).passphrase;
  }
  if (typeof source !== "string") return undefined;
  return readDatabasePassword(name, settings, parseSource(source));
}
