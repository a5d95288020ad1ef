/**
 * Restarts the hub on the encrypted store. Restores the former database if the hub does not open
 * the store.
 */
import { isRevoked } from "../client/client.js";
import type { Endpoint } from "../databases/plugin.js";
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
import { openWithSource, unlockSecret } from "../keys/unlock.js";
import { listIds } from "../migrate/check.js";
import { copyDatabase } from "../migrate/copy-database.js";
import { assertNoOtherPassword, resolveHubDatabase } from "../migrate/hub-database.js";
import { assertUnchanged, checksumSource } from "../migrate/source.js";
import { emitStep } from "../operation/step.js";
import { withOperation } from "../recovery/recover.js";
import { selectService } from "../service/select.js";
import type { ClientStore } from "../store/client-store.js";
import { shellQuote } from "../text/escape.js";
import { isStartedByRun } from "./hub-survey.js";
import { assertNotNamed, isHandedOver, updateSetupRecord } from "./record.js";
import { choiceOfUnit, type SetupScope } from "./request.js";
import { type Outage, waitUntilServing } from "./serving.js";
import { encryptedStore } from "./store.js";
import { withHubStopped } from "./window.js";

/** The work while the hub is stopped, and its reversal. */
interface Change {
  readonly work: () => Promise<void>;
  readonly revert: () => Promise<string | undefined>;
}

/**
 * Restarts the hub through `run`. Copies the clients of a JSON hub while the hub is stopped.
 *
 * @param isPasswordRemoved - whether this run removed the password from `server.json`
 * @param createContainer - lets the container mount the copy; undefined if it does, or if a unit
 *   starts the hub
 * @returns the outage; null if the hub runs on the store already
 * @throws {@link StoreError} service - if the hub does not open the store; the hub then runs on its
 *   former database
 * @throws {@link StoreError} refused - if the clients cannot be copied
 */
export async function restartOnStore(
  scope: SetupScope,
  {
    isPasswordRemoved,
    createContainer,
  }: { isPasswordRemoved: boolean; createContainer: (() => Promise<void>) | undefined },
): Promise<Outage | null> {
  const { request, found, hub } = scope;
  const { storePath, recoveryCommand, reporter, signal } = request;
  const mayServe = found.isHandedOver && createContainer === undefined && !hub.isDropInOutdated;
  if (mayServe && (await waitForEarlierStart(scope))) return null;
  const change = await planChange(scope, isPasswordRemoved);
  return withOperation(storePath, reporter, (lock) =>
    withHubStopped({
      lock,
      service: choiceOfUnit(storePath, hub),
      recoveryCommand,
      reporter,
      signal,
      createContainer,
      ...change,
      waitUntilServing: (service) => waitUntilServing(service, storePath, hub),
      mayBeStopped: false,
    }),
  );
}

/**
 * Waits until the hub has opened the store, if a killed setup has started it through `run`. Returns
 * false if the hub has to be restarted.
 */
async function waitForEarlierStart({ request: { storePath }, hub }: SetupScope): Promise<boolean> {
  if (!(await isStartedByRun(hub))) return false;
  try {
    const service = await selectService(choiceOfUnit(storePath, hub));
    await waitUntilServing(service, storePath, hub);
    return true;
  } catch (error) {
    if (isKind(error, "service")) return false;
    throw error;
  }
}

/**
 * Returns the change that this run has to make. Its reversal does not revert changes of an earlier
 * run, because the store may have new clients since.
 */
async function planChange(scope: SetupScope, isPasswordRemoved: boolean): Promise<Change> {
  const { former, request } = scope;
  if (former === "json" && !(await isHandedOver(request.storePath))) return planCopy(scope);
  const none = async () => undefined;
  return { work: none, revert: isPasswordRemoved ? () => writePassword(scope) : none };
}

async function writePassword({ request, found }: SetupScope): Promise<string> {
  const { path } = found.server;
  const { passphrase } = await unlockSecret(request.storePath, request.source);
  await setPassword(path, passphrase);
  return `the password was written back to ${path}`;
}

/** Empties the store, and checks that the clients can be copied. Returns the copy as a change. */
async function planCopy(scope: SetupScope): Promise<Change> {
  const { request, found, database } = scope;
  const { storePath, settingsPath, signal } = request;
  const { path } = found.server;
  // `emptyStore` deletes clients, so no hub may use the store.
  await assertNotNamed(storePath);
  const file = await readServerJson(path);
  const { module = database.module, settings } = databaseIn(file);
  const from: Endpoint = { name: module, config: settings };
  const to = encryptedStore(request);
  const hub = resolveHubDatabase(to);
  await assertNoOtherPassword(file, hub, to);
  await assertReplaceable(file.file);
  await emptyStore(scope, from);
  if ((await checksumSource(from)) !== undefined)
    await copyDatabase({ from, to, dryRun: true, signal });
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
    revert: async () => {
      if (former === undefined) return undefined;
      await restoreDatabase(path, former);
      return "the hub uses its former database";
    },
  };
}

/**
 * Copies every client.
 *
 * @returns the checksum of the source; undefined if its file does not exist, because the hub has no
 *   clients
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
  else await copyDatabase({ from, to, signal, beforeEnd: check });
  return checksum;
}

/**
 * Deletes all clients of the store, because the hub may have changed clients since a killed setup
 * copied them.
 *
 * @throws {@link StoreError} refused - if the store has clients missing from the hub's database,
 *   because a hub has used the store
 */
async function emptyStore({ request, found, database }: SetupScope, from: Endpoint): Promise<void> {
  const { storePath, source } = request;
  await using store = await openWithSource(storePath, source, { mode: "readwrite" });
  const lacking = await findMissingIds(store, from);
  if (lacking.length > 0) {
    throw new StoreError(
      "refused",
      `${storePath} has clients that ${database.place} lacks: ${listIds(lacking)}`,
      {
        hint: `Nothing was removed. To keep these clients, let ${found.server.path} name the store again, or add them to the hub's database.\nTo discard them, move the store away: mv ${shellQuote(storePath)} ${shellQuote(`${storePath}.old`)}`,
      },
    );
  }
  await store.connection.run("DELETE FROM clients");
}

/** Returns the ids of the store's clients that another database lacks. */
async function findMissingIds(store: ClientStore, { name, config }: Endpoint): Promise<number[]> {
  const lacking = new Set<number>();
  // A copy creates revoked rows for unused ids, which its source does not have.
  for await (const client of store) if (!isRevoked(client)) lacking.add(client.client_id);
  try {
    await using database = await DatabaseFactory.create(name, config, { mode: "readonly" });
    for await (const { client_id } of database) lacking.delete(client_id);
  } catch (error) {
    // A hub without clients has not written the file yet.
    if (!isKind(error, "notFound")) throw error;
  }
  return [...lacking];
}
