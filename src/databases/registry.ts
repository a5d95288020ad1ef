/** Finds database plugins by name, in this package and in other packages, and opens databases. */
import type { Database } from "../client/database.js";
import { isKind, StoreError } from "../errors.js";
import { type PassphraseSource, parseSource, readPassphrases } from "../keys/source.js";
import { shellQuote } from "../text/escape.js";
import { type FoundPlugin, findPlugins, loadPlugin } from "./discover.js";
import { jsonPlugin, jsonPluginName } from "./json.js";
import type { DatabaseConfig, DatabasePlugin, OpenOptions } from "./plugin.js";
import { redisPlugin } from "./redis.js";
import { redisPluginName } from "./redis-settings.js";
import { sqlcipherPlugin, sqlcipherPluginName, sqlitePlugin, sqlitePluginName } from "./sqlite.js";

/** The plugins of this package. A plugin of another package cannot use their names. */
const ownPlugins: Readonly<Record<string, DatabasePlugin>> = {
  [sqlcipherPluginName]: sqlcipherPlugin,
  [sqlitePluginName]: sqlitePlugin,
  [jsonPluginName]: jsonPlugin,
  [redisPluginName]: redisPlugin,
};

export const ownPluginNames: readonly string[] = Object.keys(ownPlugins);

/** Finds the plugins of other packages. A plugin with a name of this package is unusable. */
export async function findOtherPlugins(): Promise<FoundPlugin[]> {
  return (await findPlugins()).map((found) =>
    Object.hasOwn(ownPlugins, found.name)
      ? { ...found, problem: "hivemind-sqlcipher has a plugin of this name itself" }
      : found,
  );
}

/**
 * Returns a plugin by its name. A plugin of another package is loaded, and its code runs with this
 * program's rights.
 *
 * @throws {@link StoreError} usage - if there is no plugin of this name
 * @throws {@link StoreError} failed - if the plugin cannot be loaded
 */
async function getPlugin(name: string): Promise<DatabasePlugin> {
  const own = Object.hasOwn(ownPlugins, name) ? ownPlugins[name] : undefined;
  if (own !== undefined) return own;
  const others = await findOtherPlugins();
  const found = others.find((plugin) => plugin.name === name);
  if (found !== undefined) return loadPlugin(found);
  const names = [...ownPluginNames, ...others.map((plugin) => plugin.name)];
  throw new StoreError("usage", `no database plugin "${name}"`, {
    hint: `Available: ${[...new Set(names)].join(", ")}.`,
  });
}

/** Returns a database's path or URL without secrets, or the plugin's name if it has neither. */
export async function resolveLocation(name: string, config: DatabaseConfig): Promise<string> {
  const plugin = await getPlugin(name);
  return (await plugin.place?.(withoutSource(config))) ?? name;
}

/**
 * Returns the settings that locate a database, without the source of its password. A JSON store
 * with a password is another file, `clients.ejson`.
 */
export function withoutSource({ password_source, ...config }: DatabaseConfig): DatabaseConfig {
  return (password_source ?? null) === null ? config : { ...config, password: "\0" };
}

/** Opens databases by the names of their plugins. */
// biome-ignore lint/complexity/noStaticOnlyClass: HiveMind's own factory has this name.
export class DatabaseFactory {
  /**
   * Opens a database. By default creates it if it does not exist, as HiveMind's own plugins do. An
   * encrypted store is created only with `password` in `config`: `hivemind-sqlcipher init` creates
   * it with a passphrase in a source. Does not wait for an operation on the store: `unlockStore`
   * does.
   *
   * @param name - the plugin's name
   * @param config - `database.<name>` of `server.json`. Instead of `password`, it may have
   *   `password_source`, from which the password is read: `keyring`, `file:PATH`, `command:CMD`,
   *   `credential[:NAME]` or `sealed[:PATH]`. The keyring account is the database's location
   * @throws {@link StoreError} usage - if there is no plugin of this name, or a setting is invalid
   * @throws {@link StoreError} notFound - if the database does not exist and is not created
   * @throws {@link StoreError} passphraseUnavailable - if the source has no password
   * @throws {@link StoreError} failed - if the plugin cannot be loaded
   * @example
   *     await using redis = await DatabaseFactory.create("hivemind-redis-db-plugin", { host });
   */
  static async create(
    name: string,
    config: DatabaseConfig = {},
    options: OpenOptions = { mode: "create" },
  ): Promise<Database> {
    const plugin = await getPlugin(name);
    // This plugin reads its source itself, because it tries several generations of the passphrase.
    const settings = plugin === sqlcipherPlugin ? config : await resolvePassword(name, config);
    return plugin.open(settings, options);
  }
}

async function resolvePassword(
  name: string,
  { password_source, ...config }: DatabaseConfig,
): Promise<DatabaseConfig> {
  if (password_source === undefined || password_source === null) return config;
  if (typeof password_source !== "string") {
    throw new StoreError("usage", `the settings of ${name}: "password_source" is not text`);
  }
  const source = parseSource(password_source);
  return { ...config, password: await readDatabasePassword(name, config, source) };
}

/**
 * Reads the password of a database from its source.
 *
 * @throws {@link StoreError} passphraseUnavailable - if there is no password; for the keyring, the
 *   hint has the command to store it
 */
export async function readDatabasePassword(
  name: string,
  config: DatabaseConfig,
  source: PassphraseSource,
): Promise<string> {
  const account = await resolveLocation(name, { ...config, password: "\0" });
  try {
    for await (const { passphrase } of readPassphrases(source, account)) return passphrase;
  } catch (error) {
    if (!isKind(error, "passphraseUnavailable") || source.kind !== "keyring") throw error;
    throw new StoreError("passphraseUnavailable", error.message, {
      cause: error,
      // Without its last two arguments, secret-tool creates an entry that keytar does not find.
      hint: `Store it: secret-tool store --label=HiveMind service hivemind-sqlcipher account ${shellQuote(account)} xdg:schema org.freedesktop.Secret.Generic`,
    });
  }
  throw new StoreError("passphraseUnavailable", `no password is stored for ${account}`);
}
