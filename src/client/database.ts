import { StoreError } from "../errors.js";
import type { Client } from "./client.js";

/**
 * HiveMind's database plugin contract (`AbstractDB`), implemented by every database. A change is
 * committed when the promise of its method resolves, without a call of `commit`.
 *
 * The databases of this package throw `refused` for a client that `clientSchema` does not accept.
 */
export interface Database extends AsyncDisposable, AsyncIterable<Client> {
  /** The number of clients that a copy should write at once. Default: 1,000. */
  readonly writeSize?: number;
  /** Adds a client, or replaces the client with the same `client_id`. */
  addItem(client: Client): Promise<void>;
  /**
   * Adds many clients, or replaces those with the same ids, in batches that are each committed or
   * rolled back. Returns the number of clients.
   */
  addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number>;
  /**
   * Revokes a client. Its record stays, with `revoked` as api_key and without name and secrets, so
   * that its id is not reused. The Redis plugin keeps the other fields; other databases reset them.
   *
   * @throws {@link StoreError} notFound - if there is no client with this id
   */
  deleteItem(clientId: number): Promise<void>;
  /**
   * Replaces an existing client.
   *
   * @throws {@link StoreError} notFound - if there is no client with this id
   */
  updateItem(client: Client): Promise<void>;
  /**
   * Revokes `old` and adds `replacement`, which may have the same id, in a single transaction. In a
   * Redis cluster without a hash tag, and in a plugin that inherits the method of `BaseDatabase`,
   * an interruption can leave `old` revoked and `replacement` missing.
   *
   * @throws {@link StoreError} notFound - if there is no client with the id of `old`
   */
  replaceItem(old: Client, replacement: Client): Promise<void>;
  /**
   * Returns the clients with `value` in the field `key`. An unknown key, the value null and the
   * api_key `revoked` match no client.
   */
  searchByValue(key: string, value: string | number | boolean | null): Promise<Client[]>;
  getClientById(clientId: number): Promise<Client | undefined>;
  /** Returns a client, or undefined if there is none, for each id in the given order. */
  getClientsById(clientIds: readonly number[]): Promise<(Client | undefined)[]>;
  /**
   * Adds clients as `addItems` does. Returns a function that reads the records back and returns
   * whether they still equal, byte for byte, the written records. If it returns false, the caller
   * must compare the clients. Optional: verifies many clients without decoding them or keeping them
   * in memory.
   */
  addVerifiable?(clients: readonly Client[]): Promise<() => Promise<boolean>>;
  /** Never returns a revoked client. */
  getClientByApiKey(apiKey: string): Promise<Client | undefined>;
  /** Reads a client again and bypasses any cache. */
  refresh(clientId: number): Promise<Client | undefined>;
  /** Counts the records, including revoked clients. */
  size(): Promise<number>;
  /** Iterates over all clients, including revoked clients, in constant memory. */
  [Symbol.asyncIterator](): AsyncIterator<Client>;
  /** Yields the same clients as the iteration, in batches. Optional: faster than the iteration. */
  batches?(): AsyncIterable<readonly Client[]>;
  /**
   * Yields the ids of all clients, and how many of them are revoked, in batches. Throws if a record
   * cannot be read, as the iteration does. Optional: faster than the iteration.
   */
  idBatches?(): AsyncIterable<IdBatch>;
  /**
   * Begins to read all clients, so that `isUnchanged` can tell later whether the database still has
   * exactly the records that were read. Optional: spares decoding the records again to compare
   * them.
   */
  readVerifiable?(): Promise<VerifiableRead>;
  /**
   * Resolves when every change so far survives a power failure. Optional: for a database that
   * commits changes in memory and writes them to a disk later.
   *
   * @throws {@link StoreError} io - if the database cannot ensure it
   */
  persist?(): Promise<void>;
  /** Part of HiveMind's contract. Needed only for a plugin that keeps changes pending. */
  commit(): Promise<void>;
  /** Discards what is cached in memory, so that changes of other programs are read. */
  sync(): Promise<void>;
  /**
   * Migrates records of schema `fromVersion` to the newest schema. A repeated call has no effect.
   */
  migrate(fromVersion: number): Promise<void>;
  close(): Promise<void>;
}

export interface VerifiableRead {
  readonly batches: AsyncIterable<readonly Client[]>;
  /** May return false for unchanged records: the caller must then compare the clients. */
  isUnchanged(): Promise<boolean>;
}

export interface IdBatch {
  readonly ids: readonly number[];
  readonly revoked: number;
}

export function noSuchClient(clientId: number): StoreError {
  return new StoreError("notFound", `client ${clientId} does not exist`);
}
