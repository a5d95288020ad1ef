/**
 * `restore --into`: writes the clients of a backup into a database that is not encrypted, such as
 * the JSON store of the hub that the backup was made of.
 *
 * The clients are written into the database as it is, because not every database is a file that
 * could be replaced: those of the backup, and a revoked client for each id that the backup lacks. A
 * plain SQLite store gets them in one transaction, a JSON store in one write. A Redis server gets
 * them in batches; after a kill in between, the same restore completes them.
 */
import { backupDatabase } from "../backup/database-backup.js";
import { batchesOf } from "../client/batches.js";
import { type Client, isRevoked, revoked } from "../client/client.js";
import { isSame } from "../client/compare.js";
import type { Database } from "../client/database.js";
import { type LocatedDatabase, readIntoMemory } from "../databases/copy-clients.js";
import { DatabaseFactory } from "../databases/registry.js";
import { sqlitePluginName } from "../databases/sqlite.js";
import { isKind, StoreError } from "../errors.js";
import {
  assertNoHolders,
  findPendingRestart,
  resolveService,
  type ServiceReport,
} from "../operation/service.js";
import { throwIfAborted } from "../process/abort.js";
import { keyIdOf, openEncrypted } from "../store/cipher.js";
import { ClientStore } from "../store/client-store.js";
import { ClientTable } from "../store/client-table.js";
import type { OperationOptions } from "../swap/options.js";
import { writeWhileStopped } from "../swap/write-into.js";
import { assertConfirmed, confirmRestore } from "./confirm.js";
import { compareClients, type Differences, type Widened } from "./differences.js";
import { type BackupToVerify, type VerifiedBackup, verifyChosen } from "./verified-backup.js";

export interface RestoreIntoOptions
  extends Omit<OperationOptions, "hub">,
    Omit<BackupToVerify, "storePath"> {
  readonly database: LocatedDatabase;
  readonly readmitRevoked: boolean;
  /** The directories and recipients of a backup that is made first; undefined for none. */
  readonly backupFirst:
    | {
        readonly to: string;
        readonly bundleTo: string;
        readonly knownDirectories: readonly string[];
        readonly recipients: readonly string[];
      }
    | undefined;
}

export interface RestoreIntoResult {
  readonly restored: {
    /** The path or URL of the database. */
    readonly path: string;
    readonly module: string;
    readonly backup: string;
    /** When the backup was made; null without a valid manifest. */
    readonly created_at: string | null;
    readonly key_id: string;
    readonly clients: { readonly active: number; readonly revoked: number };
    /** The backup of the replaced clients; null if there were none or they were discarded. */
    readonly replaced: string | null;
    /** The clients revoked after the backup, which stay revoked. */
    readonly stayed_revoked: readonly number[];
    readonly widened: readonly Widened[];
  };
  readonly bundle: null;
  readonly service: ServiceReport;
}

/** Clients that are compared at a time. */
const batchSize = 200;

/** What the database holds after the restore. */
interface Written {
  readonly clients: { readonly active: number; readonly revoked: number };
  readonly stayedRevoked: readonly number[];
}

/**
 * Writes the clients of a backup into a database.
 *
 * @throws {@link StoreError} - what `verifyChosen` and `confirmRestore` throw, before anything
 *   changes
 * @throws {@link StoreError} corrupted - if the database does not hold what was written
 * @throws {@link StoreError} - what `backupDatabase` and `resolveService` throw
 */
export async function restoreInto(options: RestoreIntoOptions): Promise<RestoreIntoResult> {
  const { lock, database, reporter, signal } = options;
  const { storePath } = lock;
  const backup = await verifyChosen({
    storePath,
    backup: options.backup,
    source: options.source,
    bundle: options.bundle,
    noManifest: options.noManifest,
  });
  throwIfAborted(signal);
  const differences = await findDifferences(database, backup);
  const replaced = differences
    ? ({ state: "open", secret: undefined } as const)
    : ({ state: "absent" } as const);
  await confirmRestore(options, database.location, backup, { replaced, differences }, undefined);
  const pendingRestart = await findPendingRestart(storePath);
  const service = await resolveService(options.service, reporter, pendingRestart);
  const saved = differences && (await backUpFirst(options));
  const { result: written, report } = await writeWhileStopped({
    ...{ lock, service, reporter, signal },
    database: database.location,
    recoveryCommand: options.recoveryCommand,
    work: async (onWrite) => {
      if (database.name === sqlitePluginName) await assertNoHolders(database.location);
      throwIfAborted(signal);
      return await write(options, backup, differences, onWrite);
    },
  });
  return {
    restored: {
      path: database.location,
      module: database.name,
      backup: backup.path,
      created_at: backup.createdAt,
      key_id: keyIdOf(backup.key.salt),
      clients: written.clients,
      replaced: saved ?? null,
      stayed_revoked: written.stayedRevoked,
      widened: differences?.widened ?? [],
    },
    bundle: null,
    service: report,
  };
}

/** Compares the database with the backup; undefined if there is no database. */
async function findDifferences(
  database: LocatedDatabase,
  backup: VerifiedBackup,
): Promise<Differences | undefined> {
  try {
    await using present = await readIntoMemory(database);
    await using older = await openVerified(backup);
    return await compareClients(present, older);
  } catch (error) {
    if (isKind(error, "notFound")) return undefined;
    throw error;
  }
}

async function openVerified({ path, key }: VerifiedBackup): Promise<ClientStore> {
  return ClientStore.from(await openEncrypted(path, key, { mode: "readonly", immutable: true }));
}

/** @returns the path of the backup; undefined if none is wanted */
async function backUpFirst(options: RestoreIntoOptions): Promise<string | undefined> {
  const { lock, database, source, reporter, signal, backupFirst } = options;
  if (backupFirst === undefined) return undefined;
  const isStore = database.name === sqlitePluginName && database.location === lock.storePath;
  const { backup } = await backupDatabase({
    ...backupFirst,
    database: isStore ? undefined : database,
    ...{ lock, source, reporter, signal },
  });
  return backup.path;
}

async function write(
  { database, readmitRevoked }: RestoreIntoOptions,
  backup: VerifiedBackup,
  confirmed: Differences | undefined,
  onWrite: () => Promise<void>,
): Promise<Written> {
  const { name, config } = database;
  await using older = await openVerified(backup);
  await using target = await DatabaseFactory.create(name, config, { mode: "create" });
  await using present = await readIntoMemory(database);
  const found = await compareClients(present, older);
  assertConfirmed(found, confirmed, readmitRevoked);
  const stayedRevoked = readmitRevoked ? [] : found.revoked;
  const wanted = () => clientsToWrite(older, present, new Set(stayedRevoked));
  await onWrite();
  await inOneTransaction(target, async () => {
    await target.addItems(wanted());
  });
  await target.commit();
  return { clients: await verifyWritten(database, wanted()), stayedRevoked };
}

/** Yields the clients of the backup, and a revoked client for each other id of the database. */
async function* clientsToWrite(
  backup: ClientTable,
  present: ClientTable,
  stayedRevoked: ReadonlySet<number>,
): AsyncGenerator<Client> {
  for await (const client of backup) {
    yield stayedRevoked.has(client.client_id) ? revoked(client.client_id) : client;
  }
  for await (const batch of batchesOf(present, batchSize)) {
    const inBackup = await backup.getClientsById(batch.map(({ client_id }) => client_id));
    for (const [index, { client_id: id }] of batch.entries()) {
      if (inBackup[index] === undefined) yield revoked(id);
    }
  }
}

function inOneTransaction(database: Database, work: () => Promise<void>): Promise<void> {
  return database instanceof ClientTable ? database.transaction(work) : work();
}

/**
 * Reads the database back.
 *
 * @returns how many clients it holds
 * @throws {@link StoreError} corrupted - if a client differs from what was written
 */
async function verifyWritten(
  database: LocatedDatabase,
  wanted: AsyncGenerator<Client>,
): Promise<Written["clients"]> {
  await using written = await readIntoMemory(database);
  const counts = { active: 0, revoked: 0 };
  for await (const batch of batchesOf(wanted, batchSize)) {
    const found = await written.getClientsById(batch.map(({ client_id }) => client_id));
    for (const [index, client] of batch.entries()) {
      const other = found[index];
      if (other === undefined || !isSame(client, other)) {
        throw new StoreError(
          "corrupted",
          `${database.location} does not hold client ${client.client_id} as it was written`,
          { hint: "Stop the programs that write to it, then run the restore again." },
        );
      }
      counts[isRevoked(client) ? "revoked" : "active"] += 1;
    }
  }
  return counts;
}
