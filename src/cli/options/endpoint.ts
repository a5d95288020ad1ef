/**
 * Builds the two databases of `migrate` from its options, the settings and the hub's server.json.
 */
import { InvalidArgumentError } from "commander";
import { isJsonObject, type JsonObject } from "../../client/json.js";
import { isStoreNamed, omitUndefined } from "../../config/settings.js";
import type { DatabaseConfig, Endpoint } from "../../databases/plugin.js";
import { StoreError } from "../../errors.js";
import type { Context } from "../context.js";
import { findHubStore, readServerJsonIfExists } from "../hub-store.js";

export type Setting = readonly [key: string, value: string];

export function collectSetting(text: string, settings: Setting[] = []): Setting[] {
  const [key = "", ...rest] = text.split("=");
  if (key === "" || rest.length === 0) throw new InvalidArgumentError("It must be KEY=VALUE.");
  return [...settings, [key, rest.join("=")]];
}

/**
 * Returns a database with its settings, which settings on the command line override: those of
 * server.json, or for the SQLCipher plugin those of the other commands' store.
 */
export async function buildEndpoint(
  context: Context,
  name: string,
  given: Setting[] = [],
  passwordSource?: string,
): Promise<Endpoint> {
  const { sqlcipherPluginName } = await import("../../databases/sqlite.js");
  const settings: Record<string, JsonObject[string]> = {};
  for (const [key, value] of given) settings[key] = parseSetting(key, value);
  const config =
    name === sqlcipherPluginName
      ? await buildStoreConfig(context, settings)
      : { ...(await readConfigInServerJson(name)), ...settings };
  if (passwordSource === undefined) return { name, config };
  const { password: _, ...rest } = config;
  return { name, config: { ...rest, password_source: passwordSource } };
}

/**
 * Returns the settings of the SQLCipher database: the store and the passphrase's source that other
 * commands use.
 */
async function buildStoreConfig(
  { settings, source }: Context,
  given: DatabaseConfig,
): Promise<DatabaseConfig> {
  const { sourceConfig } = await import("../../databases/sqlite.js");
  const { store } = settings;
  const { path, name, subfolder } =
    store && isStoreNamed(store) ? store : await findHubStore("migrate");
  const isNamed = ["db_path", "name", "subfolder"].some((key) => Object.hasOwn(given, key));
  const location = isNamed ? {} : { db_path: path, name, subfolder };
  return {
    ...omitUndefined(location),
    ...sourceConfig(source),
    ...given,
  };
}

/** Settings whose value is always text, even if it looks like a number. */
const nameSettings: ReadonlySet<string> = new Set([
  "name",
  "subfolder",
  "host",
  "username",
  "index_prefix",
  "cluster_hash_tag",
]);

/** Parses a value as JSON. Returns invalid JSON and the values of `nameSettings` as text. */
function parseSetting(key: string, text: string): JsonObject[string] {
  if (key === "password") {
    throw new StoreError("usage", "a password on the command line is visible to other users", {
      hint: "Name the password's source instead: password_source=SOURCE, such as password_source=keyring.",
    });
  }
  try {
    const value = JSON.parse(text) as JsonObject[string];
    return nameSettings.has(key) && typeof value !== "string" ? text : value;
  } catch {
    return text;
  }
}

async function readConfigInServerJson(name: string): Promise<DatabaseConfig> {
  const database = (await readServerJsonIfExists())?.settings.database;
  const isNamed = isJsonObject(database) && Object.hasOwn(database, name);
  const config = isNamed ? database[name] : undefined;
  return isJsonObject(config) ? config : {};
}
