import type { Client } from "./client.js";

/**
 * What every backend offers: HiveMind's database plugin contract (`AbstractDB`), asynchronous. A change is kept when
 * its promise resolves.
 */
export interface Database extends AsyncDisposable, AsyncIterable<Client> {
  /** Adds a client, or replaces the one with the same `client_id`. */
  addItem(client: Client): Promise<void>;
  /** The same for many, in batches that are each kept or not as a whole. Answers how many. */
  addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number>;
  /**
   * Revokes a client: its record stays, with `revoked` as its api_key and without its name and its secrets, so that its
   * id is never given again. (What else is left in it is the backend's affair: the Redis plugin keeps it, others do not.)
   *
   * @throws StoreError `notFound` if there is no client with this id.
   */
  deleteItem(clientId: number): Promise<void>;
  /** Changes an existing client. @throws StoreError `notFound` if there is none with its id. */
  updateItem(client: Client): Promise<void>;
  /** Revokes `old` and adds `replacement`, together or not at all. The two may have the same id. */
  replaceItem(old: Client, replacement: Client): Promise<void>;
  /**
   * The clients whose field `key` equals `value`. A key that no field has finds nobody, nor does the api_key
   * `revoked`; null equals nothing.
   */
  searchByValue(key: string, value: string | number | boolean | null): Promise<Client[]>;
  getClientById(clientId: number): Promise<Client | undefined>;
  /** The same for many, in the order of the ids. */
  getClientsById(clientIds: readonly number[]): Promise<(Client | undefined)[]>;
  /**
   * For each of these clients, whether what is kept of it is, to the byte, what adding it would write. False says no
   * more than that it has to be read to be compared. Where a database has this, many are compared without being read.
   */
  holdsExactly?(clients: readonly Client[]): Promise<boolean[]>;
  /** Never finds a revoked client. */
  getClientByApiKey(apiKey: string): Promise<Client | undefined>;
  /** Reads one client anew, past anything cached. */
  refresh(clientId: number): Promise<Client | undefined>;
  /** How many records there are, revoked ones included. */
  size(): Promise<number>;
  /** All clients, revoked ones included, in constant memory. */
  [Symbol.asyncIterator](): AsyncIterator<Client>;
  /** Writes out what is not written yet. */
  commit(): Promise<void>;
  /** Takes notice of what others changed. */
  sync(): Promise<void>;
  /** Brings records of schema `fromVersion` to the newest one; doing it twice is the same as once. */
  migrate(fromVersion: number): Promise<void>;
  close(): Promise<void>;
}
