/** The store that is meant where no option, variable or setting says: the one that the hub's server.json names. */
import type { StoreLocation } from "../config/paths.js";
import type { Settings } from "../config/settings.js";
import { StoreError } from "../errors.js";
import type { NamedStore } from "../hub/server-json.js";

/** These say what is wrong, or have nothing to do with the store; a broken server.json must not end them. */
const tolerant = new Set(["status", "doctor", "completion", "plugins"]);

/**
 * The place that options, environment and settings name, else the hub's. Empty where HiveMind's usual place is meant:
 * without a server.json, and where that names another kind of database.
 *
 * @throws StoreError `refused` if server.json does not parse: the hub would use another store than it says, without a
 *   word.
 */
export async function storeLocation(settings: Settings, command: string): Promise<StoreLocation> {
  if (isStoreNamed(settings)) return settings.store ?? {};
  try {
    const path = (await hubNames())?.storePath;
    return path === undefined ? {} : { path };
  } catch (error) {
    if (error instanceof StoreError && tolerant.has(command)) return {};
    throw error;
  }
}

export function isStoreNamed({ store }: Settings): boolean {
  return Object.values(store ?? {}).some((value) => value !== undefined);
}

/** The database module of the hub, if it is none that keeps a `clients.db`. */
export async function otherModule(): Promise<string | undefined> {
  const { sqliteModule } = await import("../hub/server-json.js");
  const module = (await hubNames())?.module;
  return module === sqliteModule ? undefined : module;
}

async function hubNames(): Promise<NamedStore | undefined> {
  const { namedStore, readServerJson, serverJsonPath } = await import("../hub/server-json.js");
  try {
    return await namedStore(await readServerJson(serverJsonPath()));
  } catch (error) {
    if (error instanceof StoreError && error.kind === "notFound") return undefined;
    throw error;
  }
}
