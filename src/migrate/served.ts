/**
 * Checks that the hub reads the copied clients from the target of a migration.
 *
 * `--remove-source` removes nothing before the hub's own packages have read the clients.
 */
import { join } from "node:path";
import { type ClientCounts, isRevoked } from "../client/client.js";
import type { JsonObject } from "../client/json.js";
import { stateHome } from "../config/paths.js";
import { jsonFiles, jsonPluginName } from "../databases/json.js";
import type { Endpoint } from "../databases/plugin.js";
import { redisPluginName } from "../databases/redis-settings.js";
import { DatabaseFactory, resolveLocation, withoutSource } from "../databases/registry.js";
import { StoreError, systemError } from "../errors.js";
import { makeDirectory, replaceFile } from "../fs/atomic.js";
import { lstatIfExists } from "../fs/read.js";
import { probeClients, type ServedClients } from "../hub/probe.js";
import { databaseIn, type ServerJson } from "../hub/server-json.js";
import { copyFileAs, makeDirectoryAs } from "../process/directories.js";
import type { Account } from "../process/run.js";
import { withTemporaryDirectory } from "../process/temporary-directory.js";
import { counted } from "../text/count.js";
import { type HubDatabase, isSameDatabase, readPassword } from "./hub-database.js";
import { assertNoHubRuns, type TestedHub } from "./hubs.js";

export interface CopiedClients {
  /** The ids of clients active in the source, but revoked in the target. */
  readonly keptRevoked: readonly number[];
  /** The clients of the target, as compared with the source after the copy. */
  readonly inTarget: ClientCounts;
}

interface ServedTarget {
  readonly from: Endpoint;
  readonly to: Endpoint;
  readonly database: HubDatabase;
  readonly copied: CopiedClients;
}

/**
 * Reads the clients from the target with the hub's own packages after the switch. On failure,
 * restores `server.json`, so that the hub starts on the source again.
 *
 * @param before - `server.json` as it was before the switch
 * @param assertSourceUnchanged - throws if the source has changed since it was copied
 * @throws {@link StoreError} as `assertHubsServe`, `assertNoHubRuns` and `assertSourceUnchanged`;
 *   the source stays
 */
export async function assertServedOrSwitchBack(
  hubs: readonly TestedHub[],
  target: ServedTarget,
  before: ServerJson,
  assertSourceUnchanged: () => Promise<void>,
): Promise<void> {
  try {
    await assertHubsServe(hubs, target);
    await assertNoHubRuns();
    await assertSourceUnchanged();
  } catch (error) {
    await replaceFile(before.file, before.text);
    const wasSwitched = await isSameDatabase(databaseIn(before), target.to).catch(() => false);
    const state = wasSwitched
      ? "names the target since an earlier attempt"
      : "names the old database again";
    const { kind, message, hint } = systemError(error, "the target cannot be read", "failed");
    throw new StoreError(kind, `${message}; ${before.path} ${state}, and the source stays`, {
      hint,
      cause: error,
    });
  }
}

/**
 * Reads the clients from the target with the packages of each hub, and compares them with the
 * copied clients, because the target's file may have been replaced since. A file is copied first
 * and the copy opened, because a hub may upgrade the schema when it opens a database.
 *
 * @throws {@link StoreError} failed - if the packages do not open the target or do not find the
 *   copied clients
 */
async function assertHubsServe(
  hubs: readonly TestedHub[],
  { from, to, database, copied }: ServedTarget,
): Promise<void> {
  const { active, revoked } = copied.inTarget;
  const expected = { count: active + revoked, apiKey: await findCopiedKey(from, copied) };
  for (const { python, account } of hubs) {
    // A copy may contain the clients' keys in plain text, also the copy of a killed check.
    const served = await withTemporaryDirectory(
      "hub-check",
      async (home) => {
        const named = await buildDatabase(to, database, home, account);
        return await probeClients(python, named, expected, home, account);
      },
      { owner: account, parent: await makeCheckParent(account) },
    );
    const problem = describeMissing(served, copied.inTarget);
    if (problem === undefined) continue;
    throw new StoreError("failed", `the hub's packages in ${python[0]} ${problem}`, {
      hint: "Stop every program that writes to the target, then run the same command again.",
    });
  }
}

function describeMissing(served: ServedClients, expected: ClientCounts): string | undefined {
  if (served.active !== expected.active) {
    return `read ${counted(served.active, "client")} from the target; expected: ${expected.active}`;
  }
  if (served.revoked !== expected.revoked) {
    return `read ${counted(served.revoked, "revoked client")} from the target; expected: ${expected.revoked}`;
  }
  return served.found ? undefined : "do not find a client of the target by its API key";
}

/** Returns the API key of a client active in source and target; undefined if there is none. */
async function findCopiedKey(
  { name, config }: Endpoint,
  { keptRevoked }: CopiedClients,
): Promise<string | undefined> {
  await using source = await DatabaseFactory.create(name, config, { mode: "readonly" });
  const inactive = new Set(keptRevoked);
  for await (const client of source) {
    if (!isRevoked(client) && !inactive.has(client.client_id)) return client.api_key;
  }
  return undefined;
}

/**
 * Returns the hub's database: the target, or a copy of the target's file below `home`. The hub's
 * user makes the copy, because its hub needs access to the file, too.
 */
async function buildDatabase(
  to: Endpoint,
  { module, settings }: HubDatabase,
  home: string,
  hub: Account,
): Promise<JsonObject> {
  const password = await readPassword(to);
  const withPassword = password === undefined ? {} : { password };
  if (to.name === redisPluginName) return { module, [module]: { ...settings, ...withPassword } };
  const files = to.name === jsonPluginName ? await jsonFiles(withoutSource(to.config)) : undefined;
  const path = files?.store ?? (await resolveLocation(to.name, to.config));
  const directory = join(home, "hivemind-core");
  await makeDirectoryAs(hub, directory);
  // The path may be the target of a link with another ending. The hub opens its plugin's ending.
  const ending = files === undefined ? "db" : password === undefined ? "json" : "ejson";
  await copyFileAs(hub, path, join(directory, `copy.${ending}`));
  if (files !== undefined && (await lstatIfExists(files.version))) {
    await copyFileAs(hub, files.version, join(directory, "copy.schema_version"));
  }
  return { module, [module]: { name: "copy", subfolder: "hivemind-core", ...withPassword } };
}

/**
 * Returns the directory for the copies: the state directory, because a temporary directory in
 * memory may be too small; for another user /var/tmp, because the user cannot enter root's state
 * directory.
 */
async function makeCheckParent({ uid }: Account): Promise<string> {
  if (uid !== undefined && uid !== process.geteuid?.()) return "/var/tmp";
  const parent = join(stateHome(), "hivemind-sqlcipher");
  await makeDirectory(parent);
  return parent;
}
