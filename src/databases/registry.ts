/** Every database plugin by its name: those of this package, and those of others. */
import type { Database } from "../client/database.js";
import { StoreError } from "../errors.js";
import { type PassphraseSource, parseSource, readPassphrases } from "../keys/source.js";
import { type FoundPlugin, findPlugins, loadPlugin } from "./discover.js";
import { jsonPlugin, jsonPluginName } from "./json.js";
import type { DatabaseConfig, DatabasePlugin, OpenOptions } from "./plugin.js";
import { redisPlugin } from "./redis.js";
import { redisPluginName } from "./redis-settings.js";
import { sqlcipherPlugin, sqlcipherPluginName, sqlitePlugin, sqlitePluginName } from "./sqlite.js";

/** This package's own; another's plugin never takes one of these names. */
const ownPlugins: Readonly<Record<string, DatabasePlugin>> = {
  [sqlcipherPluginName]: sqlcipherPlugin,
  [sqlitePluginName]: sqlitePlugin,
  [jsonPluginName]: jsonPlugin,
  [redisPluginName]: redisPlugin,
};

export const ownPluginNames: readonly string[] = Object.keys(ownPlugins);

/** Plugins of other packages; one that takes a name of this package's is said to be of no use. */
export async function otherPlugins(): Promise<FoundPlugin[]> {
  return (await findPlugins()).map((found) =>
    Object.hasOwn(ownPlugins, found.name)
      ? { ...found, problem: "hivemind-sqlcipher serves that name itself" }
      : found,
  );
}

/**
 * A plugin by its name. One of another package is loaded now, and runs with this program's rights.
 *
 * @throws StoreError `usage` if none has that name; `failed` if it cannot be loaded.
 */
async function getPlugin(name: string): Promise<DatabasePlugin> {
  const own = Object.hasOwn(ownPlugins, name) ? ownPlugins[name] : undefined;
  if (own !== undefined) return own;
  const others = await otherPlugins();
  const found = others.find((plugin) => plugin.name === name);
  if (found !== undefined) return loadPlugin(found);
  const names = [...ownPluginNames, ...others.map((plugin) => plugin.name)];
  throw new StoreError("usage", `no database plugin "${name}" is served here`, {
    hint: `There are: ${[...new Set(names)].join(", ")}.`,
  });
}

/** Where settings lead, without secrets. */
export async function locationOf(name: string, config: DatabaseConfig): Promise<string> {
  const plugin = await getPlugin(name);
  const { password_source: _, ...settings } = config;
  return (await plugin.place?.(settings)) ?? name;
}

/** Makes any of the databases there are. */
// biome-ignore lint/complexity/noStaticOnlyClass: the name by which HiveMind's own factory is known.
export class DatabaseFactory {
  /**
   * Opens a database; by default one that is not there is made, as HiveMind's own plugins do.
   *
   * @param config what `database.<name>` holds in `server.json`. In place of a `password`, a `password_source`
   *   (`keyring`, `file:PATH`, `command:CMD`, `credential[:NAME]`) says where it comes from; in the keyring its account
   *   is the database's place.
   * @throws StoreError `usage` for a name or a setting there is none of, and what the database itself has to say.
   */
  static async create(
    name: string,
    config: DatabaseConfig = {},
    options: OpenOptions = { mode: "create" },
  ): Promise<Database> {
    const plugin = await getPlugin(name);
    // The encrypted store knows more than one generation of its passphrase.
    const settings = plugin === sqlcipherPlugin ? config : await withPassword(plugin, name, config);
    return plugin.open(settings, options);
  }
}

async function withPassword(
  plugin: DatabasePlugin,
  name: string,
  { password_source, ...config }: DatabaseConfig,
): Promise<DatabaseConfig> {
  if (password_source === undefined || password_source === null) return config;
  if (typeof password_source !== "string") {
    throw new StoreError("usage", `the settings of ${name}: "password_source" is not text`);
  }
  const source = parseSource(password_source);
  return { ...config, password: await readPassword(plugin, name, config, source) };
}

/**
 * The password of the database that these settings lead to, from where it is kept.
 *
 * @throws StoreError `passphraseUnavailable` if there is none, with what to type.
 */
export async function databasePassword(
  name: string,
  config: DatabaseConfig,
  source: PassphraseSource,
): Promise<string> {
  return readPassword(await getPlugin(name), name, config, source);
}

async function readPassword(
  plugin: DatabasePlugin,
  name: string,
  config: DatabaseConfig,
  source: PassphraseSource,
): Promise<string> {
  // Some settings depend on there being a password: the JSON store's file has another name then.
  const account = (await plugin.place?.({ ...config, password: "\0" })) ?? name;
  try {
    for await (const { passphrase } of readPassphrases(source, account)) return passphrase;
  } catch (error) {
    if (!(error instanceof StoreError) || error.kind !== "passphraseUnavailable") throw error;
    if (source.kind !== "keyring") throw error;
    throw new StoreError("passphraseUnavailable", error.message, {
      cause: error,
      // Without its last two words secret-tool makes an entry that keytar does not find.
      hint: `secret-tool store --label=HiveMind service hivemind-sqlcipher account '${account}' xdg:schema org.freedesktop.Secret.Generic`,
    });
  }
  throw new StoreError("passphraseUnavailable", `there is no password for ${account}`);
}
