/**
 * Determines whether the hub supports the newest schema, and enforces the blacklists in a store. A
 * hub that supports only an older schema ignores every blacklist in a store with the newest.
 */
import { blacklistKeys, type Client, isRevoked } from "../client/client.js";
import { StoreError } from "../errors.js";
import type { ResolvedService } from "../operation/service.js";
import { newestSchema } from "../store/schema.js";
import { describeClient } from "../text/escape.js";
import { describePython } from "./interpreter.js";
import { upgradeLine } from "./packages.js";
import { type HubPackages, probePackages } from "./probe.js";
import { findServicePython, readServiceHub } from "./service-hub.js";

export interface HubSchema {
  /** The version of hivemind-plugin-manager; null if it is not installed. */
  readonly pluginManager: string | null;
  /** The newest schema that the hub supports; 0 if it is unknown. */
  readonly schemaVersion: number;
  /** Why the hub must not get a store of the newest schema; undefined if the hub supports it. */
  readonly objection: string | undefined;
}

/**
 * Returns the schema that the hub of a service supports.
 *
 * @param hubPython - the hub's Python, if the user named it
 * @returns undefined if the hub's Python is not found
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
 * Returns why the hub enforces no blacklist in an SQLite store; undefined if it does, or if that is
 * unknown. The SQLite plugin of HiveMind 5, which encrypts, can be installed with the plugin
 * manager of HiveMind 4. The plugin then moves the blacklists of a store into `metadata`, where
 * HiveMind 4 does not read them.
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
 * Checks that the hub would enforce the blacklists of these clients in an SQLite store.
 *
 * @param python - the interpreter's path, or another name for messages
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

/** Returns the first active client with an entry on any blacklist. */
export async function findBlacklisted(clients: AsyncIterable<Client>): Promise<Client | undefined> {
  for await (const client of clients) if (!isRevoked(client) && hasBlacklist(client)) return client;
  return undefined;
}

export function hasBlacklist({ metadata }: Client): boolean {
  return blacklistKeys.some((key) => {
    const list = metadata[key];
    return Array.isArray(list) && list.length > 0;
  });
}
