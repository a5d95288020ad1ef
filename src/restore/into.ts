/**
 * `restore --into`: writes the clients of a backup into an unencrypted database, such as the JSON
 * store of a hub.
 *
 * Not every database is a replaceable file. So the clients of the backup are written into the
 * database, and every other id up to the highest gets a revoked client. A plain SQLite store gets
 * them in one transaction, a JSON store in one write. A Redis server gets them in batches; after a
 * kill in between, the same restore completes them.
 *
 * The backup is read into memory before the hub is stopped: another user may own its directory, or
 * the disk may be slow.
 */
import { dirname } from "node:path";
import { backupDatabase } from "../backup/database-backup.js";
import { batchesOf } from "../client/batches.js";
import {
  type Client,
  type ClientCounts,
  eraseIfRevoked,
  isRevoked,
  revoked,
} from "../client/client.js";
import { isSameRecord } from "../client/compare.js";
import type { Database } from "../client/database.js";
import { copyIntoMemory, type LocatedDatabase, readIntoMemory } from "../databases/copy-clients.js";
import { findGaps, IdSet } from "../databases/id-set.js";
import { jsonPluginName } from "../databases/json.js";
import { redisPluginName } from "../databases/redis-settings.js";
import { DatabaseFactory } from "../databases/registry.js";
import { sqlitePluginName } from "../databases/sqlite.js";
import { isKind, StoreError } from "../errors.js";
import { assertReplaceable } from "../fs/atomic.js";
import { sha256File } from "../fs/read.js";
import {
  assertNoHolders,
  type ResolvedService,
  resolveService,
  type ServiceReport,
} from "../operation/service.js";
import { throwIfAborted } from "../process/abort.js";
import { makeHubDirectory } from "../process/directories.js";
import { keyIdOf, openImmutable } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { ClientTable } from "../store/client-table.js";
import type { OperationOptions } from "../swap/options.js";
import { writeWhileStopped } from "../swap/write-into.js";
import { assertConfirmed, confirmRestore } from "./confirm.js";
import { compareClients, type Differences, type Widened } from "./differences.js";
import {
  adoptStoreId,
  type BackupToVerify,
  type VerifiedBackup,
  verifyChosenBackup,
} from "./verified-backup.js";

export interface RestoreIntoOptions extends Omit<OperationOptions, "hub">, BackupToVerify {
  readonly database: LocatedDatabase;
  readonly readmitRevoked: boolean;
  /**
   * Returns the directories for a backup of the present clients. Undefined for no backup.
   *
   * @throws {@link StoreError} usage - if no directories are known
   */
  readonly backupFirst: (() => BackupTarget) | undefined;
}

export interface BackupTarget {
  readonly to: string;
  readonly bundleTo: string;
  readonly knownDirectories: readonly string[];
  readonly recipients: readonly string[];
}

export interface RestoreIntoResult {
  readonly restored: {
    /** The path or URL of the database. */
    readonly path: string;
    readonly module: string;
    readonly backup: string;
    /** When the backup was made; null without a valid manifest. */
    readonly createdAt: string | null;
    readonly keyId: string;
    readonly clients: ClientCounts;
    /** The backup of the replaced clients; null with `discardReplaced` or without a database. */
    readonly replaced: string | null;
    /** As in `Differences.stayRevoked`; empty with `readmitRevoked`. */
    readonly stayedRevoked: readonly number[];
    readonly widened: readonly Widened[];
  };
  readonly bundle: null;
  readonly service: ServiceReport;
}

/** The longest time to write a client and read it back, for the restart timer. */
const clientBudgetMs = 5;

/** The contents of the database after the restore. */
interface Written {
  readonly clients: ClientCounts;
  readonly stayedRevoked: readonly number[];
}

/** The result of the checks before the service is stopped. */
interface Plan {
  readonly database: LocatedDatabase;
  /** The clients of the verified backup, in memory. */
  readonly older: ClientTable;
  /**
   * The clients of the database before the confirmation, in memory; undefined if there was no
   * database.
   */
  readonly present: ClientTable | undefined;
  readonly differences: Differences | undefined;
  readonly readmitRevoked: boolean;
}

/**
 * Writes the clients of a backup into a database.
 *
 * @throws {@link StoreError} - what `verifyChosenBackup` and `confirmRestore` throw, before
 *   anything changes
 * @throws {@link StoreError} refused or io - if the database cannot be written, before the service
 *   is stopped
 * @throws {@link StoreError} refused - if the hub added a client during the restore, or a client
 *   would gain more than was known before the confirmation
 * @throws {@link StoreError} corrupted - if a client differs after it was written
 * @throws {@link StoreError} - what `backupDatabase` and `resolveService` throw
 */
export async function restoreInto(options: RestoreIntoOptions): Promise<RestoreIntoResult> {
  const { lock, database, readmitRevoked, reporter, signal } = options;
  const backup = await verifyChosenBackup(lock.storePath, options);
  throwIfAborted(signal);
  await using older = await readVerifiedClients(backup);
  await using present = await readPresent(database);
  const differences = present && (await compareClients(present, older));
  const replaced = present
    ? ({ state: "open", secret: undefined } as const)
    : ({ state: "absent" } as const);
  await confirmRestore(options, {
    location: database.location,
    backup,
    present: { replaced, differences },
    isFirstRevoked:
      database.name !== redisPluginName &&
      (present === undefined || (await present.counts()).revoked === 0) &&
      (await hasRevoked(listClientsToWrite(older, present ?? older, new Set()))),
  });
  await assertWritable(database, present !== undefined);
  const service = await resolveService(options.service, reporter);
  await confirmStopped(service, database, reporter);
  const saved = present && (await backUpPresent(options));
  const { result: written, report } = await writeWhileStopped({
    lock,
    service,
    reporter,
    signal,
    database: database.location,
    recoveryCommand: options.recoveryCommand,
    budgetMs: clientBudgetMs * ((await older.size()) + ((await present?.size()) ?? 0)),
    work: (onWrite) => write({ database, older, present, differences, readmitRevoked }, onWrite),
  });
  await adoptStoreId(lock.storePath, backup);
  return {
    restored: {
      path: database.location,
      module: database.name,
      backup: backup.path,
      createdAt: backup.createdAt,
      keyId: keyIdOf(backup.key.salt),
      clients: written.clients,
      replaced: saved ?? null,
      stayedRevoked: written.stayedRevoked,
      widened: differences?.widened ?? [],
    },
    bundle: null,
    service: report,
  };
}

/**
 * @throws {@link StoreError} corrupted - if the file was replaced or changed since it was verified
 */
async function readVerifiedClients({ path, key, sha256 }: VerifiedBackup): Promise<ClientTable> {
  const opened = await openImmutable(path, key);
  await using store = await ClientStore.from(opened);
  const clients = await copyIntoMemory(store);
  if ((await sha256File(path)) === sha256) return clients;
  await clients.close();
  throw new StoreError("corrupted", `${path} has changed since it was verified`, {
    hint: "Find the program that writes to its directory, or copy the backup and its manifest to another directory, and restore the copy.",
  });
}

async function readPresent(database: LocatedDatabase): Promise<ClientTable | undefined> {
  try {
    return await readIntoMemory(database);
  } catch (error) {
    if (isKind(error, "notFound")) return undefined;
    throw error;
  }
}

/**
 * Tries what the first write needs. A failure while the hub is stopped would be an outage for
 * nothing.
 *
 * @throws {@link StoreError} refused or io - if the file or its directory cannot be written
 */
async function assertWritable(
  { name, config, location }: LocatedDatabase,
  exists: boolean,
): Promise<void> {
  if (name === sqlitePluginName && exists) {
    await using target = await DatabaseFactory.create(name, config, { mode: "readwrite" });
    await runInTransaction(target, async () => undefined);
  } else if (name === sqlitePluginName || name === jsonPluginName) {
    await makeHubDirectory(dirname(location));
    await assertReplaceable(location);
  }
}

/**
 * Asks whether the hub is stopped, if its service was not running. A hub outside a service can only
 * be detected on SQLite, because it keeps the database open. It may overwrite the restored clients.
 */
async function confirmStopped(
  { wasActive }: ResolvedService,
  { name, location }: LocatedDatabase,
  reporter: RestoreIntoOptions["reporter"],
): Promise<void> {
  if (wasActive || name === sqlitePluginName) return;
  await reporter.confirm(
    `No running hub was found. A hub on ${location} may overwrite the restored clients. Are all such hubs stopped?`,
  );
}

/** @returns the path of the backup; undefined for no backup */
async function backUpPresent(options: RestoreIntoOptions): Promise<string | undefined> {
  const { lock, database, source, reporter, signal, backupFirst } = options;
  if (backupFirst === undefined) return undefined;
  const isStore = database.name === sqlitePluginName && database.location === lock.storePath;
  const { backup } = await backupDatabase({
    ...backupFirst(),
    database: isStore ? undefined : database,
    lock,
    source,
    reporter,
    signal,
  });
  return backup.path;
}

async function write(plan: Plan, onWrite: () => Promise<void>): Promise<Written> {
  const { database, older } = plan;
  await using target = await DatabaseFactory.create(database.name, database.config, {
    mode: "create",
  });
  await using now = await copyIntoMemory(target);
  const stayedRevoked = await compareAgain(plan, now);
  const wanted = () => listClientsToWrite(older, now, new Set(stayedRevoked));
  if (database.name === sqlitePluginName) await assertNoHolders(database.location);
  await onWrite();
  const clients = await runInTransaction(target, async () => {
    await target.addItems(wanted());
    await target.commit();
    await target.sync();
    return await verifyWritten(database, target, wanted());
  });
  return { clients, stayedRevoked };
}

/**
 * Compares the clients again, now that the hub is stopped.
 *
 * @returns the ids that stay revoked, as in `Differences.stayRevoked`
 * @throws {@link StoreError} refused - if the hub has added a client, or a client would gain more
 *   than was known before the confirmation
 */
async function compareAgain(
  { database, older, present, differences, readmitRevoked }: Plan,
  now: ClientTable,
): Promise<readonly number[]> {
  for await (const batch of batchesOf(now)) {
    const known = await present?.getClientsById(batch.map(({ client_id }) => client_id));
    const added = batch.find((client, index) => !isRevoked(client) && !known?.[index]);
    if (added === undefined) continue;
    throw new StoreError(
      "refused",
      `client ${added.client_id} was added to ${database.location} during the restore`,
      { hint: "Nothing was changed. Run the restore again." },
    );
  }
  if (present === undefined) return [];
  const found = await compareClients(now, older);
  assertConfirmed(found, differences, readmitRevoked);
  return readmitRevoked ? [] : found.stayRevoked;
}

/**
 * Yields the clients of the backup, and a revoked client for each other id of the database and for
 * each gap.
 */
async function* listClientsToWrite(
  backup: ClientTable,
  now: ClientTable,
  stayedRevoked: ReadonlySet<number>,
): AsyncGenerator<Client> {
  const ids = new IdSet();
  for await (const client of backup) {
    ids.add(client.client_id);
    yield stayedRevoked.has(client.client_id) ? revoked(client.client_id) : eraseIfRevoked(client);
  }
  for await (const { client_id: id } of now) {
    if (ids.add(id)) yield revoked(id);
  }
  for (const id of findGaps([ids])) yield revoked(id);
}

async function hasRevoked(clients: AsyncGenerator<Client>): Promise<boolean> {
  for await (const client of clients) if (isRevoked(client)) return true;
  return false;
}

/** Runs `work`, for a plain SQLite store in a transaction. */
function runInTransaction<Result>(
  database: Database,
  work: () => Promise<Result>,
): Promise<Result> {
  return database instanceof ClientTable ? database.transaction(work) : work();
}

/**
 * Reads the database back, and compares each client.
 *
 * @returns the number of clients
 * @throws {@link StoreError} corrupted - if a client differs from what was written
 */
async function verifyWritten(
  { location }: LocatedDatabase,
  target: Database,
  wanted: AsyncGenerator<Client>,
): Promise<Written["clients"]> {
  await using written = await copyIntoMemory(target);
  const counts = { active: 0, revoked: 0 };
  for await (const batch of batchesOf(wanted)) {
    const found = await written.getClientsById(batch.map(({ client_id }) => client_id));
    for (const [index, client] of batch.entries()) {
      const other = found[index];
      if (other === undefined || !isSameRecord(client, other)) {
        throw new StoreError(
          "corrupted",
          `${location} does not hold client ${client.client_id} as it was written`,
          { hint: "Stop the programs that write to it, then run the restore again." },
        );
      }
      counts[isRevoked(client) ? "revoked" : "active"] += 1;
    }
  }
  return counts;
}
