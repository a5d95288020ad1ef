import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { type Client, newClient } from "../../src/client/client.js";
import type { JsonObject } from "../../src/client/json.js";
import { BaseDatabase, matches, type SearchValue } from "../../src/databases/base-database.js";
import { conformance, type OpenNew, runConformance } from "../../src/databases/conformance.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { StoreError } from "../../src/errors.js";
import { temporaryFolder } from "../store/temporary.js";
import { RedisServer, sharedCluster } from "./redis-server.js";

/** A place of a plugin whose settings depend on a folder that nobody has used. */
function inFolder(name: string, settings: (folder: string) => JsonObject): OpenNew {
  return async () => {
    const config = settings(await temporaryFolder());
    return () => DatabaseFactory.create(name, config);
  };
}

const backends: [string, OpenNew][] = [
  [
    "hivemind-sqlcipher-db-plugin",
    inFolder("hivemind-sqlcipher-db-plugin", (folder) => ({
      db_path: join(folder, "clients.db"),
      password: "it's",
    })),
  ],
  [
    "hivemind-sqlite-db-plugin",
    inFolder("hivemind-sqlite-db-plugin", (subfolder) => ({ subfolder })),
  ],
  ["hivemind-json-db-plugin", inFolder("hivemind-json-db-plugin", (subfolder) => ({ subfolder }))],
  [
    "hivemind-json-db-plugin with a password",
    inFolder("hivemind-json-db-plugin", (subfolder) => ({
      subfolder,
      password: "sixteen letters!",
    })),
  ],
  [
    "hivemind-redis-db-plugin",
    async () => {
      const { port } = await RedisServer.start();
      return () => DatabaseFactory.create("hivemind-redis-db-plugin", { port });
    },
  ],
];

describe.each(backends)("%s", (_name, place) => {
  test.each(conformance)("$name", ({ run }) => run(place));

  test("what is no client is refused, and the others stay readable", async () => {
    await using database = await (await place())();
    const client = newClient({ client_id: 1, api_key: "k" });
    await database.addItem(client);
    for (const change of [{ is_admin: 0 }, { password: undefined }, { last_seen: Number.NaN }]) {
      const wrong = { ...client, ...change } as unknown as Client;
      const refused = {
        kind: "refused",
        message: expect.stringContaining(`${Object.keys(change)}`),
      };
      await expect(database.addItem(wrong)).rejects.toMatchObject(refused);
      await expect(database.addItems([wrong])).rejects.toMatchObject(refused);
      await expect(database.updateItem(wrong)).rejects.toMatchObject(refused);
      await expect(database.replaceItem(client, wrong)).rejects.toMatchObject(refused);
    }
    await database.sync();
    expect(await Array.fromAsync(database)).toEqual([client]);
  });
});

describe("hivemind-redis-db-plugin on a cluster", () => {
  let port = 0;
  let places = 0;

  beforeAll(() =>
    sharedCluster((free) => {
      port = free;
    }),
  );

  test.each([
    ["without a hash tag", {}],
    ["with one", { cluster_hash_tag: "hub" }],
  ])("%s", async (_name, settings) => {
    const place: OpenNew = async () => {
      // Another prefix is another store.
      const index_prefix = `hub ${places++}`;
      return () =>
        DatabaseFactory.create("hivemind-redis-db-plugin", { port, index_prefix, ...settings });
    };
    await runConformance(place);
  });
});

test("a database that does not do what it has to fails, each test by its name", async () => {
  const forgetful: OpenNew = async () => {
    const clients = new Map<number, Client>();
    return async () => new Forgetful(clients);
  };
  await expect(runConformance(forgetful)).rejects.toThrow(
    /^failed: a deleted client keeps its id, [^;]*; replacing a client revokes it[^;]*$/,
  );
});

/** Does everything right but one: what is deleted is gone. */
class Forgetful extends BaseDatabase {
  constructor(readonly clients: Map<number, Client>) {
    super();
  }

  async addItem(client: Client): Promise<void> {
    this.clients.set(client.client_id, client);
  }

  override async deleteItem(clientId: number): Promise<void> {
    if (!this.clients.delete(clientId)) throw new StoreError("notFound", "nobody");
  }

  async searchByValue(key: string, value: SearchValue): Promise<Client[]> {
    return [...this.clients.values()].filter((client) => matches(client, key, value));
  }

  async size(): Promise<number> {
    return this.clients.size;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Client> {
    yield* this.clients.values();
  }
}
