/**
 * Conformance tests for databases, for any test runner. A test fails by throwing.
 *
 *     import { conformance } from "hivemind-sqlcipher/testing";
 *     for (const { name, run } of conformance) test(name, () => run(openNew));
 *
 * Without a test runner, `await runConformance(openNew)` runs all tests.
 */
import assert from "node:assert/strict";
import { type Client, isRevoked, newClient, serializeClient } from "../client/client.js";
import type { Database } from "../client/database.js";
import { type JsonObject, parseJson } from "../client/json.js";
import { isKind } from "../errors.js";

/**
 * Reserves an unused location. Returns a function that opens the database there; a test may call
 * the function again after it has closed the database.
 */
export type OpenNew = () => Promise<() => Promise<Database>>;

export interface ConformanceTest {
  readonly name: string;
  /** @throws {@link Error} if the database violates the contract */
  run(openNew: OpenNew): Promise<void>;
}

/** Returns clients with defaults, empty values, other alphabets, awkward JSON and long values. */
export function awkwardClients(): Client[] {
  const metadata = parseJson(
    '{"z": 1.0, "10": [1e+16, 1e-07, 9007199254740993], "2": {"__proto__": null}, "": "\\u007f", "\\ud83d\\ude80": [[], {}]}',
  ) as JsonObject;
  return [
    newClient({ client_id: 1, api_key: "key-1" }),
    newClient({
      client_id: 2,
      api_key: 'key 2: "quoted" it\'s; DROP TABLE clients; -- {tag} * ? [a] \\',
      name: 'Zé "sala" 🚀',
      description: "Привет,\td'accord\n",
      is_admin: true,
      last_seen: 1763912345.678901,
      allowed_types: ["recognizer_loop:utterance", "é", '"\\'],
      password: "correct horse",
      crypto_key: "0123456789abcdef",
      can_escalate: false,
      metadata,
    }),
    newClient({
      client_id: 3,
      api_key: "key-3",
      name: "",
      description: null,
      allowed_types: ["recognizer_loop:utterance"],
      password: "",
      can_broadcast: false,
      can_propagate: false,
      metadata: { skill_blacklist: ["s-é"], intent_blacklist: ["i"] },
    }),
    newClient({
      client_id: 4,
      api_key: "k".repeat(4_000),
      name: "n".repeat(10_000),
      metadata: { long: "ü".repeat(50_000) },
    }),
    newClient({ client_id: 9, api_key: "key-9", name: "hall", last_seen: 0 }),
  ];
}

export const conformance: readonly ConformanceTest[] = [
  {
    name: "a new database is empty",
    run: (openNew) =>
      withDatabase(openNew, async (database) => {
        assert.equal(await database.size(), 0);
        assert.deepEqual(await readAll(database), []);
        assert.equal(await database.getClientById(1), undefined);
        assert.equal(await database.getClientByApiKey("key-1"), undefined);
      }),
  },
  {
    name: "a client is read as it was added, also after the database was closed",
    async run(openNew) {
      const open = await openNew();
      const clients = awkwardClients();
      {
        await using database = await open();
        for (const client of clients) await database.addItem(client);
        await database.commit();
        for (const client of clients) {
          assertSame(await database.getClientById(client.client_id), client);
        }
      }
      await using again = await open();
      assert.equal(await again.size(), clients.length);
      assertAllSame(await readAll(again), clients);
      for (const client of clients) {
        assertSame(await again.getClientByApiKey(client.api_key), client);
        assertSame((await again.getClientsById([77, client.client_id]))[1], client);
        assertSame(await again.refresh(client.client_id), client);
      }
    },
  },
  {
    name: "many clients are added at once, from a list or a stream, each of them once",
    run: (openNew) =>
      withDatabase(openNew, async (database) => {
        const many = Array.from({ length: 1_203 }, (_, index) =>
          newClient({ client_id: index + 1, api_key: `many-${index + 1}`, name: `n${index % 7}` }),
        );
        async function* stream() {
          yield* many.slice(600);
        }
        assert.equal(await database.addItems(many.slice(0, 700)), 700);
        assert.equal(await database.addItems(stream()), 603);
        assert.equal(await database.size(), many.length);
        assertAllSame(await readAll(database), many);
        assertSame(await database.getClientByApiKey("many-1203"), many[1_202]);
      }),
  },
  {
    name: "adding a client with an existing id replaces it, and a search finds only the new fields",
    run: (openNew) =>
      withDatabase(openNew, async (database) => {
        await database.addItem(newClient({ client_id: 5, api_key: "old", name: "old name" }));
        const renewed = newClient({
          client_id: 5,
          api_key: "new",
          name: "new name",
          is_admin: true,
        });
        await database.addItem(renewed);
        assert.equal(await database.size(), 1);
        assert.equal(await database.getClientByApiKey("old"), undefined);
        assert.deepEqual(await database.searchByValue("name", "old name"), []);
        assertSame(await database.getClientByApiKey("new"), renewed);
        assertAllSame(await database.searchByValue("name", "new name"), [renewed]);
      }),
  },
  {
    name: "a deleted client keeps its id, and no search by a key finds it",
    run: (openNew) =>
      withDatabase(openNew, async (database) => {
        const clients = awkwardClients();
        await database.addItems(clients);
        await database.deleteItem(2);
        assert.equal(await database.size(), clients.length);
        const left = await database.getClientById(2);
        assert.ok(left !== undefined && isRevoked(left), "the record must stay, revoked");
        assert.ok(!left.password && !left.crypto_key && !left.name, "its secrets must be erased");
        assert.equal(await database.getClientByApiKey(clients[1]?.api_key ?? ""), undefined);
        assert.equal(await database.getClientByApiKey("revoked"), undefined);
        assert.deepEqual(await database.searchByValue("api_key", "revoked"), []);
        const found = await database.searchByValue("name", clients[1]?.name ?? "");
        assert.deepEqual(found, []);
        const ids = (await readAll(database)).map((client) => client.client_id);
        assert.deepEqual(ids, [1, 2, 3, 4, 9], "iterating must include revoked clients");
      }),
  },
  {
    name: "an update changes an existing client and creates none",
    run: (openNew) =>
      withDatabase(openNew, async (database) => {
        const [, client] = awkwardClients();
        assert.ok(client);
        await database.addItem(client);
        const changed = {
          ...client,
          can_escalate: true,
          metadata: { ...client.metadata, more: 1 },
        };
        await database.updateItem(changed);
        assertSame(await database.getClientById(2), changed);
        await assertNotFound(() =>
          database.updateItem(newClient({ client_id: 6, api_key: "six" })),
        );
        await assertNotFound(() => database.deleteItem(6));
        assert.equal(await database.size(), 1);
      }),
  },
  {
    name: "replacing a client revokes it, or overwrites it under the same id",
    run: (openNew) =>
      withDatabase(openNew, async (database) => {
        const first = newClient({ client_id: 1, api_key: "one" });
        const second = newClient({ client_id: 2, api_key: "two" });
        await database.addItem(first);
        await database.replaceItem(first, second);
        assert.equal(await database.getClientByApiKey("one"), undefined);
        assertSame(await database.getClientByApiKey("two"), second);
        const renewed = newClient({ client_id: 2, api_key: "three" });
        await database.replaceItem(second, renewed);
        assertSame(await database.getClientById(2), renewed);
        assert.equal(await database.size(), 2);
      }),
  },
  {
    name: "a search finds clients by name, id and permission, and none by an unknown field",
    run: (openNew) =>
      withDatabase(openNew, async (database) => {
        await database.addItems(awkwardClients());
        const ids = async (key: string, value: string | number | boolean) =>
          (await database.searchByValue(key, value)).map((client) => client.client_id).sort();
        assert.deepEqual(await ids("name", 'Zé "sala" 🚀'), [2]);
        assert.deepEqual(await ids("name", "hall"), [9]);
        assert.deepEqual(await ids("is_admin", true), [2]);
        assert.deepEqual(await ids("can_broadcast", false), [3]);
        assert.deepEqual(await ids("client_id", 9), [9]);
        assert.deepEqual(await ids("no such field", "x"), []);
        assert.deepEqual(await ids("name; DROP TABLE clients", "x"), []);
        assert.deepEqual(await ids("constructor", "x"), []);
      }),
  },
  {
    name: "a migration changes no client, whatever schema it starts from",
    run: (openNew) =>
      withDatabase(openNew, async (database) => {
        const clients = awkwardClients();
        await database.addItems(clients);
        await database.migrate(0);
        await database.migrate(2);
        await database.sync();
        assertAllSame(await readAll(database), clients);
      }),
  },
];

/**
 * Runs every test.
 *
 * @throws {@link AggregateError} with the names and errors of the failed tests
 */
export async function runConformance(openNew: OpenNew): Promise<void> {
  const errors: Error[] = [];
  for (const { name, run } of conformance) {
    try {
      await run(openNew);
    } catch (error) {
      errors.push(new Error(name, { cause: error }));
    }
  }
  if (errors.length > 0) {
    throw new AggregateError(errors, `failed: ${errors.map(({ message }) => message).join("; ")}`);
  }
}

async function withDatabase(
  openNew: OpenNew,
  body: (database: Database) => Promise<void>,
): Promise<void> {
  const open = await openNew();
  await using database = await open();
  await body(database);
}

/** Returns the clients sorted by id, because a database may iterate in any order. */
async function readAll(database: Database): Promise<Client[]> {
  const clients: Client[] = [];
  for await (const client of database) clients.push(client);
  return clients.sort((a, b) => a.client_id - b.client_id);
}

function assertSame(found: Client | undefined, expected: Client | undefined): void {
  assert.equal(found && serializeClient(found), expected && serializeClient(expected));
}

function assertAllSame(found: readonly Client[], expected: readonly Client[]): void {
  assert.deepEqual(found.map(serializeClient), expected.map(serializeClient));
}

async function assertNotFound(operation: () => Promise<unknown>): Promise<void> {
  await assert.rejects(operation, (error: unknown) => {
    assert.ok(isKind(error, "notFound"), `expected a StoreError "notFound", got ${error}`);
    return true;
  });
}
