/** Finds the default store in the hub's server.json. */
import type { StoreLocation } from "../config/paths.js";
import type { Endpoint } from "../databases/plugin.js";
import { addHint, ignoreKind, StoreError } from "../errors.js";
import type { ServerJson } from "../hub/server-json.js";

/**
 * Commands that ignore a broken server.json: `status` and `doctor` report it, and `plugins` does
 * not need the store.
 */
const tolerantCommands = new Set(["status", "doctor", "plugins"]);

/**
 * Returns the location of the store in server.json. Returns an empty location, HiveMind's default
 * path, if server.json is missing or names another kind of database.
 *
 * @throws {@link StoreError} refused - if server.json is not JSON, unless the command is tolerant:
 *   the hub would silently use its default store
 */
export async function findHubStore(command: string): Promise<StoreLocation> {
  const { namedStore } = await import("../hub/server-json.js");
  try {
    const file = await readServerJsonIfExists();
    const path = file && (await namedStore(file)).storePath;
    return path === undefined ? {} : { path };
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    if (tolerantCommands.has(command)) return {};
    throw addHint(error, "Or name the store, so that the file is not read: --db PATH");
  }
}

/**
 * Returns the hub's database with its settings in server.json, or undefined if the hub keeps its
 * clients in a `clients.db`, or if there is no server.json.
 *
 * @throws {@link StoreError} refused - if server.json is not JSON
 */
export async function findOtherDatabase(): Promise<Endpoint | undefined> {
  const { databaseIn, sqliteModule } = await import("../hub/server-json.js");
  const file = await readServerJsonIfExists();
  const { module, settings } = file ? databaseIn(file) : {};
  if (module === undefined || module === sqliteModule) return undefined;
  return { name: module, config: settings ?? {} };
}

export async function readServerJsonIfExists(): Promise<ServerJson | undefined> {
  const { readServerJson, serverJsonPath } = await import("../hub/server-json.js");
  return readServerJson(serverJsonPath()).catch(ignoreKind("notFound", undefined));
}
