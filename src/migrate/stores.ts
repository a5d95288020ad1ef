/** Finds the SQLite stores of a migration. */
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { dirname } from "node:path";
import type { Endpoint } from "../databases/plugin.js";
import { resolveLocation } from "../databases/registry.js";
import { sqlcipherPluginName, sqlitePluginName } from "../databases/sqlite.js";
import { hasCode } from "../errors.js";
import { lstatIfExists } from "../fs/read.js";
import { journalExists } from "../operation/journal.js";

/**
 * Returns the paths of the SQLite stores in a migration. The caller must hold their operation
 * locks: an operation that replaces the file of a store would lose the copied clients.
 *
 * Omits a source in a directory that cannot be written, such as that of a card mounted read-only:
 * no operation replaces a file there, and no lock file can be created.
 */
export async function findStores(from: Endpoint, to: Endpoint): Promise<string[]> {
  const source = await findStore(from);
  const isReplaceable = source !== undefined && !(await isReadOnly(dirname(source)));
  const paths = [isReplaceable ? source : undefined, await findStore(to)];
  return [...new Set(paths.filter((path) => path !== undefined))];
}

/** Returns the path of a SQLite store that exists; undefined for another database. */
export async function findStore({ name, config }: Endpoint): Promise<string | undefined> {
  if (name !== sqlcipherPluginName && name !== sqlitePluginName) return undefined;
  const path = await resolveLocation(name, config);
  // A migration creates such a store and its directory, in which the lock file would be.
  const canBeCreated = name === sqlitePluginName || config.password !== undefined;
  const exists = (await lstatIfExists(path)) !== undefined || (await journalExists(path));
  return exists || !canBeCreated ? path : undefined;
}

async function isReadOnly(directory: string): Promise<boolean> {
  return access(directory, constants.W_OK).then(
    () => false,
    (error: unknown) => hasCode(error, "EROFS", "EACCES"),
  );
}
