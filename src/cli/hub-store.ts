/** Finds the default store in the hub's server.json. */
import type { StoreLocation } from "../config/paths.js";
import { isKind, StoreError } from "../errors.js";
import type { NamedStore } from "../hub/server-json.js";

/**
 * Commands that ignore a broken server.json: they report it themselves, or do not open the store.
 */
const tolerantCommands = new Set(["status", "doctor", "completion", "plugins"]);

/**
 * Returns the location of the store in server.json. Returns an empty location, HiveMind's default
 * path, if server.json is missing or names another kind of database.
 *
 * @throws {@link StoreError} refused - if server.json is not JSON: the hub would silently use its
 *   default store
 */
export async function hubStore(command: string): Promise<StoreLocation> {
  try {
    const path = (await storeOfHub())?.storePath;
    return path === undefined ? {} : { path };
  } catch (error) {
    if (error instanceof StoreError && tolerantCommands.has(command)) return {};
    throw error;
  }
}

/**
 * Returns the hub's database module, or undefined if the hub keeps its clients in a `clients.db`.
 */
export async function otherModule(): Promise<string | undefined> {
  const { sqliteModule } = await import("../hub/server-json.js");
  const module = (await storeOfHub())?.module;
  return module === sqliteModule ? undefined : module;
}

async function storeOfHub(): Promise<NamedStore | undefined> {
  const { namedStore, readServerJson, serverJsonPath } = await import("../hub/server-json.js");
  try {
    return await namedStore(await readServerJson(serverJsonPath()));
  } catch (error) {
    if (isKind(error, "notFound")) return undefined;
    throw error;
  }
}
