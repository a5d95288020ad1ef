/** Default implementations for databases, as in HiveMind's `AbstractDB`. */
import { type Client, revoked, revokedApiKey } from "../client/client.js";
import { type Database, noSuchClient } from "../client/database.js";

/**
 * Base class of databases. A subclass implements `addItem`, `searchByValue`, `size` and the
 * iteration, and may override any other method with a faster or atomic implementation. The methods
 * of this class are not atomic: `deleteItem` and `updateItem` read the client before they write,
 * and `replaceItem` writes twice.
 */
export abstract class BaseDatabase implements Database {
  abstract addItem(client: Client): Promise<void>;
  abstract searchByValue(key: string, value: SearchValue): Promise<Client[]>;
  abstract size(): Promise<number>;
  abstract [Symbol.asyncIterator](): AsyncIterator<Client>;

  async addItems(clients: Iterable<Client> | AsyncIterable<Client>): Promise<number> {
    let count = 0;
    for await (const client of clients) {
      await this.addItem(client);
      count += 1;
    }
    return count;
  }

  async deleteItem(clientId: number): Promise<void> {
    if ((await this.getClientById(clientId)) === undefined) throw noSuchClient(clientId);
    await this.addItem(revoked(clientId));
  }

  async updateItem(client: Client): Promise<void> {
    if ((await this.getClientById(client.client_id)) === undefined) {
      throw noSuchClient(client.client_id);
    }
    await this.addItem(client);
  }

  async replaceItem(old: Client, replacement: Client): Promise<void> {
    await this.deleteItem(old.client_id);
    await this.addItem(replacement);
  }

  async getClientById(clientId: number): Promise<Client | undefined> {
    const [first] = await this.searchByValue("client_id", clientId);
    return first;
  }

  getClientsById(clientIds: readonly number[]): Promise<(Client | undefined)[]> {
    return Promise.all(clientIds.map((id) => this.getClientById(id)));
  }

  async getClientByApiKey(apiKey: string): Promise<Client | undefined> {
    if (apiKey === revokedApiKey) return undefined;
    const [first] = await this.searchByValue("api_key", apiKey);
    return first;
  }

  refresh(clientId: number): Promise<Client | undefined> {
    return this.getClientById(clientId);
  }

  async commit(): Promise<void> {}

  async sync(): Promise<void> {}

  async migrate(_fromVersion: number): Promise<void> {}

  async close(): Promise<void> {}

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

export type SearchValue = string | number | boolean | null;

/**
 * Returns whether a search for `value` in the field `key` finds the client. True equals 1 and false
 * equals 0, as in Python and SQLite. Null equals nothing. A search by `api_key` never finds a
 * revoked client.
 */
export function matches(client: Client, key: string, value: SearchValue): boolean {
  if (value === null || !Object.hasOwn(client, key)) return false;
  const field: unknown = client[key as keyof Client];
  if (key === "api_key" && field === revokedApiKey) return false;
  const comparable = typeof value === "boolean" ? Number(value) : value;
  return (typeof field === "boolean" ? Number(field) : field) === comparable;
}
