/** Copies the clients of any database into an SQLite table, even while a hub changes them. */
import { setTimeout as delay } from "node:timers/promises";
import { batchesOf } from "../client/batches.js";
import { type Client, eraseIfRevoked } from "../client/client.js";
import { isSameExceptLastSeen } from "../client/compare.js";
import type { Database } from "../client/database.js";
import { isKind, StoreError } from "../errors.js";
import { throwIfAborted } from "../process/abort.js";
import { ClientTable } from "../store/client-table.js";
import { Connection } from "../store/connection.js";
import { createSchema, readSchema } from "../store/schema.js";
import type { Endpoint } from "./plugin.js";
import { DatabaseFactory } from "./registry.js";

export interface LocatedDatabase extends Endpoint {
  /** A path or URL, without secrets. */
  readonly location: string;
}

/** The maximum number of passes over a database that keeps changing. */
const maxRounds = 10;
/** The attempts to read a JSON store that a hub is writing, and the pause between them. */
const maxReadAttempts = 5;
const pauseBetweenReadsMs = 100;
/** HiveMind 4 enforces the blacklists of schema 0, and HiveMind 5 migrates a table of schema 0. */
const copiedSchema = 0;

/** Creates the table of clients in an empty SQLite database. */
export async function createTable(connection: Connection): Promise<ClientTable> {
  await createSchema(connection, copiedSchema);
  return new ClientTable(connection, await readSchema(connection));
}

/**
 * Returns the clients of a database as a table in memory, for reading only.
 *
 * @throws {@link StoreError} notFound - if there is no such database
 */
export async function readIntoMemory(database: LocatedDatabase): Promise<ClientTable> {
  await using origin = await openToRead(database);
  return await copyIntoMemory(origin);
}

/** Returns the clients of an open database as a table in memory, for reading only. */
export async function copyIntoMemory(origin: Database): Promise<ClientTable> {
  const connection = await Connection.open(":memory:", { mode: "create" });
  try {
    const table = await createTable(connection);
    await table.addItems(origin);
    await connection.exec("PRAGMA query_only = ON");
    return table;
  } catch (error) {
    await connection.close();
    throw error;
  }
}

/**
 * Opens a database for reading. Tries again if the database is malformed: HiveMind writes its JSON
 * store in place, so the file may be incomplete for a moment.
 *
 * @throws {@link StoreError} notFound - if there is no such database
 */
export function openToRead({ name, config }: LocatedDatabase): Promise<Database> {
  return retryIncomplete(() => DatabaseFactory.create(name, config, { mode: "readonly" }));
}

async function retryIncomplete<Result>(read: () => Promise<Result>): Promise<Result> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await read();
    } catch (error) {
      if (!isKind(error, "corrupted") || attempt === maxReadAttempts) throw error;
      await delay(pauseBetweenReadsMs);
    }
  }
}

/**
 * Copies every client into an empty table. Then compares the whole copy with the database and
 * copies the clients that differ, until a comparison finds no difference. Ignores `last_seen`,
 * which changes whenever a client connects.
 *
 * @throws {@link StoreError} inUse - if the last comparison still finds a difference
 */
export async function copyClients(
  origin: Database,
  copy: ClientTable,
  signal: AbortSignal,
): Promise<void> {
  for (let round = 1; round <= maxRounds; round++) {
    let total = 0;
    let changed = 0;
    for await (const batch of batchesOf(origin)) {
      throwIfAborted(signal);
      const different = await findDifferent(copy, batch);
      await copy.addItems(different.map(eraseIfRevoked));
      total += batch.length;
      changed += different.length;
    }
    const isComplete = total === (await copy.size());
    if (changed === 0 && isComplete) return;
    // The copy has a record that is no longer in the database: empty the copy and start again.
    if (changed === 0) await copy.connection.run("DELETE FROM clients");
    await retryIncomplete(() => origin.sync());
  }
  throw new StoreError("inUse", "the database changes faster than it can be copied", {
    hint: "Try again when no program adds or changes clients, or stop the hub for the backup.",
  });
}

async function findDifferent(copy: ClientTable, batch: readonly Client[]): Promise<Client[]> {
  const copied = await copy.getClientsById(batch.map(({ client_id }) => client_id));
  return batch.filter((client, index) => {
    const other = copied[index];
    return other === undefined || !isSameExceptLastSeen(client, other);
  });
}
