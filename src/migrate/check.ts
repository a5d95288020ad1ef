/** Checks every record of the source against the target before anything is written. */
import { batchesOf } from "../client/batches.js";
import { assertValidClient, type Client, type ClientCounts, isRevoked } from "../client/client.js";
import { isSameExceptLastSeen } from "../client/compare.js";
import type { Database, IdBatch } from "../client/database.js";
import { findGaps, IdSet } from "../databases/id-set.js";
import type { Endpoint } from "../databases/plugin.js";
import { DatabaseFactory } from "../databases/registry.js";
import { sqlcipherPluginName } from "../databases/sqlite.js";
import { isKind, StoreError } from "../errors.js";
import type { MigrationNote } from "./note.js";

interface CheckOptions {
  /** The name of the source's plugin. */
  readonly from: string;
  readonly to: Endpoint;
  readonly merge: boolean;
  /** The note of an interrupted migration. */
  readonly note: MigrationNote | undefined;
  readonly report: (done: number, total: number) => void;
}

export interface Checked {
  /** The clients of the source. */
  readonly clients: ClientCounts;
  /** The number of clients missing in the target. */
  readonly missing: number;
  readonly known: KnownClients;
  readonly targetIds: IdSet;
  /** The clients only in the target. */
  readonly others: ClientCounts;
  /** The unused ids below the highest id of both databases. */
  readonly gaps: IdSet;
}

/** The clients of the source that the target already has. */
export class KnownClients {
  unchanged = 0;
  /** Ids active in the source, but revoked in the target. */
  readonly keptRevoked: number[] = [];

  get size(): number {
    return this.unchanged + this.keptRevoked.length;
  }

  /**
   * Counts the clients of a batch. Returns the clients missing in the target.
   *
   * @param found - the clients with the same ids in the target
   */
  count(batch: readonly Client[], found: readonly (Client | undefined)[]): Client[] {
    return batch.filter((client, index) => {
      const other = found[index];
      if (other === undefined) return true;
      if (isKeptRevoked(client, other)) this.keptRevoked.push(client.client_id);
      else this.unchanged += 1;
      return false;
    });
  }
}

export function isKeptRevoked(client: Client, other: Client): boolean {
  return isRevoked(other) && !isRevoked(client);
}

/**
 * Returns the clients with the ids of a batch in a database.
 *
 * @param database - undefined for a database without clients
 */
export async function findExisting(
  batch: readonly Client[],
  database: Database | undefined,
): Promise<(Client | undefined)[]> {
  if (database === undefined) return [];
  return database.getClientsById(batch.map(({ client_id }) => client_id));
}

/** Checks the source. Opens and closes the target. */
export async function checkSource(origin: Database, options: CheckOptions): Promise<Checked> {
  const { from, to, merge, note, report } = options;
  await using target = await openIfExists(to);
  const { ids: targetIds, active, holders } = await readTarget(target, options);
  const isEmpty = targetIds.size === 0;
  const known = new KnownClients();
  const conflicts: number[] = [];
  async function* compareBatches(): AsyncGenerator<IdBatch> {
    for await (const batch of batchesOf(origin)) {
      for (const client of batch) assertValidClient(client);
      const found = await findExisting(batch, isEmpty ? undefined : target);
      known.count(batch, found);
      const differing = batch.filter((client, index) => isConflict(client, found[index], holders));
      conflicts.push(...differing.map(({ client_id }) => client_id));
      const ids = batch.map(({ client_id }) => client_id);
      yield { ids, revoked: batch.filter(isRevoked).length };
    }
  }
  const total = await origin.size();
  const ids = new IdSet();
  let revoked = 0;
  for await (const batch of (isEmpty && origin.idBatches?.()) || compareBatches()) {
    for (const id of batch.ids) if (!ids.add(id)) throw duplicateIdError(from, id);
    revoked += batch.revoked;
    report(ids.size, total);
  }
  if (conflicts.length > 0) throw conflictError(conflicts, merge ? undefined : note);
  const isOther = (id: number) => !ids.has(id);
  const others = [...active].filter(isOther);
  if (!merge && others.length > 0) throw unknownClientsError(to.name, others);
  return {
    clients: { active: ids.size - revoked, revoked },
    missing: ids.size - known.size,
    known,
    targetIds,
    others: {
      active: others.length,
      revoked: [...targetIds].filter(isOther).length - others.length,
    },
    gaps: findGaps([ids, targetIds]),
  };
}

interface TargetContents {
  readonly ids: IdSet;
  readonly active: IdSet;
  /** For `merge`, the id of the active client with each API key. */
  readonly holders: ReadonlyMap<string, number>;
}

async function readTarget(
  target: Database | undefined,
  { to, merge, note }: CheckOptions,
): Promise<TargetContents> {
  const ids = new IdSet();
  const active = new IdSet();
  const holders = new Map<string, number>();
  if (target === undefined) return { ids, active, holders };
  for await (const client of target) {
    if (!merge && note === undefined) throw notEmptyError(to.name);
    ids.add(client.client_id);
    if (isRevoked(client)) continue;
    active.add(client.client_id);
    if (merge) holders.set(client.api_key, client.client_id);
  }
  if (!merge) await assertCountMatches(target, ids.size, to.name);
  return { ids, active, holders };
}

function isConflict(
  client: Client,
  other: Client | undefined,
  holders: ReadonlyMap<string, number>,
): boolean {
  const holder = isRevoked(client) ? undefined : holders.get(client.api_key);
  if (holder !== undefined && holder !== client.client_id) return true;
  return (
    other !== undefined && !isKeptRevoked(client, other) && !isSameExceptLastSeen(client, other)
  );
}

/**
 * Checks the counter of a Redis database. A hub derives the id of the next client from it, so a
 * wrong counter lets the hub overwrite a client.
 *
 * @throws {@link StoreError} refused - if the counter differs from the number of records
 */
async function assertCountMatches(
  database: Database,
  records: number,
  name: string,
): Promise<void> {
  const counted = await database.size();
  if (counted === records) return;
  throw new StoreError(
    "refused",
    `the target, ${name}, counts ${counted} records, but has ${records}`,
    {
      hint: `Stop the hub that writes to it. Without such a hub, correct its counter: redis-cli SET client:count ${records} (replace client with the index_prefix in the settings, if it is another).`,
    },
  );
}

/** Opens the target. Returns undefined if it does not exist and the copy can create it. */
async function openIfExists({ name, config }: Endpoint): Promise<Database | undefined> {
  try {
    return await DatabaseFactory.create(name, config, { mode: "readwrite" });
  } catch (error) {
    const canBeCreated = name !== sqlcipherPluginName || config.password !== undefined;
    if (isKind(error, "notFound") && canBeCreated) return undefined;
    throw error;
  }
}

function notEmptyError(name: string): StoreError {
  return new StoreError("refused", `the target, ${name}, already holds clients`, {
    hint: "Add --merge to add the missing clients; --dry-run reports what it would do.",
  });
}

function duplicateIdError(name: string, id: number): StoreError {
  return new StoreError("corrupted", `the source, ${name}, has two records with id ${id}`, {
    hint: "Remove the record that is wrong.",
  });
}

/** @param note - the note of a continued migration, with a target that was empty at the start */
function conflictError(ids: readonly number[], note: MigrationNote | undefined): StoreError {
  if (note === undefined) {
    return new StoreError(
      "refused",
      `source and target differ in clients ${listIds(ids)}, which have the same id or api_key`,
      {
        hint: "Make them equal on both sides, or free their ids on one side; nothing was changed.",
      },
    );
  }
  return new StoreError(
    "refused",
    `source and target differ in clients ${listIds(ids)}: one side has changed since the migration started`,
    {
      hint: `Remove ${note.path} if a hub uses the target already: the migration is complete. Otherwise make them equal or empty the target, and run the command again. Nothing was changed.`,
    },
  );
}

function unknownClientsError(name: string, ids: readonly number[]): StoreError {
  return new StoreError(
    "refused",
    `the target, ${name}, holds clients that the source lacks: ${listIds(ids)}`,
    { hint: "Add --merge to keep them and continue; nothing was changed." },
  );
}

/** The maximum number of ids in a message. */
const namedIds = 10;

export function listIds(ids: readonly number[]): string {
  const named = ids.slice(0, namedIds).join(", ");
  return ids.length > namedIds ? `${named} and more` : named;
}
