/**
 * Determines whether the hub supports the newest schema. An older hub would ignore every blacklist
 * in a store with that schema.
 */
import { blacklistKeys, type Client, isRevoked } from "../client/client.js";
import { StoreError } from "../errors.js";
import type { ResolvedService } from "../operation/service.js";
import { newestSchema } from "../store/schema.js";
import { describeClient, shellQuote } from "../text/escape.js";
import { describePython, type HubPackages, probePackages } from "./interpreter.js";
import { findServicePython, readServiceHub } from "./service-hub.js";

export interface HubSchema {
  /** The version of hivemind-plugin-manager; null if it is not installed. */
  readonly pluginManager: string | null;
  readonly schemaVersion: number;
  /** Why the hub must not get a store of the newest schema; undefined if the hub supports it. */
  readonly objection: string | undefined;
}

/**
 * Returns the schema that the hub of the service supports, or the hub on PATH.
 *
 * @param hubPython - the hub's Python, if known
 * @returns undefined if there is no hub
 * @throws {@link StoreError} usage - if `hubPython` cannot be executed
 * @throws {@link StoreError} failed - if the interpreter fails
 */
export async function probeHubSchema(
  service: ResolvedService,
  hubPython?: string,
): Promise<HubSchema | undefined> {
  const hub = await readServiceHub(service);
  const python = await findServicePython(hub, hubPython);
  if (python === undefined) return undefined;
  const { pluginManager, schemaVersion } = await probePackages(python, hub);
  const known = schemaVersion ?? 0;
  const objection =
    known >= newestSchema
      ? undefined
      : `the hub here (hivemind-plugin-manager ${pluginManager ?? "absent"}, in ${describePython(python)}) does not support schema ${newestSchema}: it would ignore every blacklist`;
  return { pluginManager, schemaVersion: known, objection };
}

/**
 * Returns why the hub enforces no blacklist in an SQLite store; undefined if it does. The plugin
 * that encrypts can be installed with the plugin manager of HiveMind 4. It then moves the
 * blacklists of a store into `metadata`, where HiveMind 4 does not read them.
 */
export function blacklistProblem({
  pluginManager,
  sqlitePlugin,
  schemaVersion,
  writtenSchema,
}: HubPackages): string | undefined {
  if ((writtenSchema ?? 0) <= (schemaVersion ?? 0)) return undefined;
  return `hivemind-sqlite-database ${sqlitePlugin} stores blacklists where hivemind-plugin-manager ${pluginManager} does not read them`;
}

/**
 * Checks that a hub that gets an SQLite store would enforce the blacklists of these clients.
 *
 * @throws {@link StoreError} refused - if it would not
 */
export async function assertBlacklistsKept(
  packages: HubPackages,
  python: string,
  clients: AsyncIterable<Client>,
): Promise<void> {
  const problem = blacklistProblem(packages);
  if (problem === undefined) return;
  const client = await findBlacklisted(clients);
  if (client === undefined) return;
  throw new StoreError(
    "refused",
    `the hub in ${python} would not enforce the blacklists of client ${describeClient(client.client_id, client.name)}: ${problem}`,
    { hint: `Upgrade the hub to HiveMind 5 first: ${upgradeLine(python)}` },
  );
}

/** Returns the first client with an entry on any blacklist, unless it is revoked. */
export async function findBlacklisted(clients: AsyncIterable<Client>): Promise<Client | undefined> {
  for await (const client of clients) if (!isRevoked(client) && hasBlacklist(client)) return client;
  return undefined;
}

/** Returns the command line that upgrades the hub to the release that the plugin belongs to. */
export function upgradeLine(python: string): string {
  return `${shellQuote(python)} -m pip install --pre --upgrade hivemind-core hivemind-plugin-manager hivemind-sqlite-database`;
}

/** Returns whether a client has an entry on any blacklist. */
export function hasBlacklist({ metadata }: Client): boolean {
  return blacklistKeys.some((key) => {
    const list = metadata[key];
    return Array.isArray(list) && list.length > 0;
  });
}
