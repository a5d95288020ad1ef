import { StoreError } from "../errors.js";
import type { Client } from "./client.js";

/**
 * HiveMind's database plugin contract (`AbstractDB`), implemented by every database. A change is
 * committed when its promise resolves.
 */
export interface Database extends AsyncDisposable, AsyncIterable<Client> {
  /** Adds a client, or replaces the client with the same `client_id`. */
  addItem(client: Client): Promise<void>;
  /** Adds many clients, in batches that are each committed or rolled back. Returns their number. */
  addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number>;
  /**
   * Revokes a client. Its record stays, with `revoked` as api_key and without name and secrets, so
   * that its id is not reused. The Redis plugin keeps the other fields; other databases reset them.
   *
   * @throws {@link StoreError} notFound - if there is no client with this id
   */
  deleteItem(clientId: number): Promise<void>;
  /**
   * Changes an existing client.
   *
   * @throws {@link StoreError} notFound - if there is no client with this id
   */
  updateItem(client: Client): Promise<void>;
  /** Revokes `old` and adds `replacement` in a single transaction. Both may have the same id. */
  replaceItem(old: Client, replacement: Client): Promise<void>;
  /**
   * Returns the clients with `value` in the field `key`. An unknown key and the api_key `revoked`
   * match no client; null equals nothing.
   */
  searchByValue(key: string, value: string | number | boolean | null): Promise<Client[]>;
  getClientById(clientId: number): Promise<Client | undefined>;
  /** Returns clients in the order of the ids. */
  getClientsById(clientIds: readonly number[]): Promise<(Client | undefined)[]>;
  /**
   * Adds clients as `addItems` does. Returns a function that reads the records back and returns
   * whether they still equal, byte for byte, the written records. After false, the caller must
   * compare the clients. Optional: it compares many clients without decoding or keeping them.
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
  /** Iterates like the database itself, in batches. Optional: cheaper. */
  batches?(): AsyncIterable<readonly Client[]>;
  /**
   * Yields the ids of all clients, and how many of them are revoked, in batches. Throws if a record
   * cannot be read, as the iteration does. Optional: cheaper than the iteration.
   */
  idBatches?(): AsyncIterable<IdBatch>;
  /**
   * Returns a text that changes if another iteration may yield other records. Optional: it proves
   * that records have not changed since they were read.
   */
  changeMark?(): Promise<string>;
  /** Writes pending changes. */
  commit(): Promise<void>;
  /** Reads the data again that other programs may have changed. */
  sync(): Promise<void>;
  /** Migrates records of schema `fromVersion` to the newest. Repeating it has no effect. */
  migrate(fromVersion: number): Promise<void>;
  close(): Promise<void>;
}

export interface IdBatch {
  readonly ids: readonly number[];
  readonly revoked: number;
}

export function noSuchClient(clientId: number): StoreError {
  return new StoreError("notFound", `client ${clientId} does not exist`);
}
