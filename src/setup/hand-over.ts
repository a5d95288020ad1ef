/** Restarts the hub on the encrypted store, and returns it to its former database if it fails. */
import { isRevoked } from "../client/client.js";
import { DatabaseFactory } from "../databases/registry.js";
import { isKind, StoreError, wrap } from "../errors.js";
import { assertReplaceable } from "../fs/atomic.js";
import { databaseIn, readServerJson } from "../hub/server-json.js";
import {
  type FormerDatabase,
  restoreDatabase,
  setPassword,
  switchModule,
} from "../hub/server-json-edit.js";
import { unlockStore } from "../keys/unlock.js";
import { type Endpoint, listIds, migrate } from "../migrate/migrate.js";
import {
  assertNoOtherPassword,
  assertUnchanged,
  checksumSource,
  hubDatabase,
} from "../migrate/switch.js";
import { emitStep } from "../operation/step.js";
import { withOperation } from "../recovery/recover.js";
import { selectService } from "../service/select.js";
import type { ClientStore } from "../store/client-store.js";
import { shellQuote } from "../text/escape.js";
import { isStartedByRun } from "./hub-survey.js";
import { assertNotNamed, isHandedOver, updateSetupRecord } from "./record.js";
import { type SetupScope, serviceOf } from "./request.js";
import { isServing, type Outage, waitUntilServing } from "./serving.js";
import { encryptedStore, readPassphrase } from "./store.js";
import { whileStopped } from "./window.js";

/** What lets the hub use the store, and what takes it back. */
interface Change {
  readonly work: () => Promise<void>;
  readonly putBack: () => Promise<string | undefined>;
}

/**
 * Restarts the hub through `run`. The clients of a JSON hub are copied while it is stopped.
 *
 * @param tookPassword - whether this run removed the password from `server.json`
 * @returns null if the hub had been started on the store already
 * @throws {@link StoreError} service - if the hub does not open the store; it is started on its
 *   former database then
 */
export async function restartOnStore(
  scope: SetupScope,
  { tookPassword }: { tookPassword: boolean },
): Promise<Outage | null> {
  const { request, found, hub } = scope;
  const { storePath, recoveryCommand, reporter, signal } = request;
  if (found.isHandedOver && (await opensStore(scope))) return null;
  const change = await planChange(scope, tookPassword);
  return withOperation(storePath, reporter, (lock) =>
    whileStopped({
      ...{ lock, service: serviceOf(storePath, hub), recoveryCommand, reporter, signal },
      ...change,
      waitUntilServing: (service) => waitUntilServing(service, () => isServing(storePath, hub)),
      mayBeStopped: false,
    }),
  );
}

/**
 * Waits for a hub that was started on the store after an earlier setup was killed: it may still be
 * opening the store. Returns false if it has to be restarted.
 */
async function opensStore({ request: { storePath }, hub }: SetupScope): Promise<boolean> {
  if (!(await isStartedByRun(hub))) return false;
  try {
    const service = await selectService(serviceOf(storePath, hub));
    await waitUntilServing(service, () => isServing(storePath, hub));
    return true;
  } catch (error) {
    if (isKind(error, "service")) return false;
    throw error;
  }
}

/**
 * Returns the change of this run. What an earlier run changed is not taken back: the store may have
 * new clients since.
 */
async function planChange(scope: SetupScope, tookPassword: boolean): Promise<Change> {
  const { former, request } = scope;
  if (former === "json" && !(await isHandedOver(request.storePath))) return planCopy(scope);
  const none = async () => undefined;
  return { work: none, putBack: tookPassword ? () => writePassword(scope) : none };
}

async function writePassword({ request, found }: SetupScope): Promise<string> {
  const { path } = found.server;
  await setPassword(path, await readPassphrase(request));
  return `${path} has the password again`;
}

/** Tries the copy, and returns what makes it and lets `server.json` name the store. */
async function planCopy(scope: SetupScope): Promise<Change> {
  const { request, found, database } = scope;
  const { storePath, settingsPath, signal } = request;
  const { path } = found.server;
  // The store is emptied below.
  await assertNotNamed(storePath);
  const file = await readServerJson(path);
  const { module = database.module, settings } = databaseIn(file);
  const from: Endpoint = { name: module, config: settings };
  const to = encryptedStore(request);
  const hub = hubDatabase(to);
  await assertNoOtherPassword(file, hub, to);
  await assertReplaceable(file.file);
  await emptyStore(scope, from);
  if ((await checksumSource(from)) !== undefined) await migrate({ from, to, dryRun: true, signal });
  let former: FormerDatabase | undefined;
  return {
    work: async () => {
      const checksum = await copyUnchanged(from, to, signal);
      const record = await updateSetupRecord(settingsPath, storePath, ({ database }) => ({
        database: { ...database, ...(checksum !== undefined && { checksum }) },
      }));
      emitStep("setup.copied");
      former = record.database;
      await switchModule(path, hub.module, hub.settings);
      emitStep("setup.switched");
    },
    putBack: async () => {
      if (former === undefined) return undefined;
      await restoreDatabase(path, former);
      return "the hub uses its former database";
    },
  };
}

/**
 * Copies every client.
 *
 * @returns the checksum of the source; undefined if it has no file, because the hub has no clients
 * @throws {@link StoreError} refused - if a client was added or changed during the copy
 */
async function copyUnchanged(
  from: Endpoint,
  to: Endpoint,
  signal: AbortSignal,
): Promise<string | undefined> {
  const checksum = await checksumSource(from);
  const check = async () => {
    try {
      await assertUnchanged(from, checksum);
    } catch (error) {
      if (!isKind(error, "refused")) throw error;
      throw wrap(error, { hint: "Stop the program that writes to it, then run setup again." });
    }
  };
  if (checksum === undefined) await check();
  else await migrate({ from, to, signal, beforeEnd: check });
  return checksum;
}

/**
 * Removes what a killed setup has copied: the hub may have changed its clients since.
 *
 * @throws {@link StoreError} refused - if the store has clients that the hub's database lacks: a
 *   hub has used the store
 */
async function emptyStore({ request, found, database }: SetupScope, from: Endpoint): Promise<void> {
  const { storePath, source } = request;
  await using store = await unlockStore(storePath, source, { mode: "readwrite" });
  const lacking = await idsNotIn(from, await activeIds(store));
  if (lacking.length > 0) {
    throw new StoreError(
      "refused",
      `${storePath} has clients that ${database.place} lacks: ${listIds(lacking)}`,
      {
        hint: `Nothing was removed. If they are needed, let ${found.server.path} name the store again, or add them to the hub's database.\nIf not, move the store away: mv ${shellQuote(storePath)} ${shellQuote(`${storePath}.old`)}`,
      },
    );
  }
  await store.connection.run("DELETE FROM clients");
}

/** Returns the ids of the clients that are not revoked: a copy fills gaps with revoked rows. */
async function activeIds(store: ClientStore): Promise<Set<number>> {
  const ids = new Set<number>();
  for await (const client of store) if (!isRevoked(client)) ids.add(client.client_id);
  return ids;
}

/** Returns the ids that are not in a database, which the hub may not have written yet. */
async function idsNotIn({ name, config }: Endpoint, ids: Set<number>): Promise<number[]> {
  const lacking = new Set(ids);
  try {
    await using database = await DatabaseFactory.create(name, config, { mode: "readonly" });
    for await (const { client_id } of database) lacking.delete(client_id);
  } catch (error) {
    if (!isKind(error, "notFound")) throw error;
  }
  return [...lacking];
}
