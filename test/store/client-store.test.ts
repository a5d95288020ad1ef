import { readdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { type Client, newClient, revoked } from "../../src/client/client.js";
import { type JsonObject, parseJson, sameJson } from "../../src/client/json.js";
import {
  addToBlacklist,
  type ClientEdit,
  removeFromBlacklist,
} from "../../src/client/permissions.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { ClientTable } from "../../src/store/client-table.js";
import { Connection } from "../../src/store/connection.js";
import { createSchema, readSchema } from "../../src/store/schema.js";
import { copyOfFixture, temporaryFolder } from "./temporary.js";

/** A table in an unencrypted file, for the fixtures of every schema. */
async function openPlain(path: string): Promise<ClientTable> {
  const connection = await Connection.open(path, { mode: "create" });
  onTestFinished(() => connection.close());
  return new ClientTable(connection, await readSchema(connection));
}

/** An empty table in memory. */
async function tableOf(version: 0 | 2): Promise<ClientTable> {
  const connection = await Connection.open(":memory:", { mode: "create" });
  onTestFinished(() => connection.close());
  await createSchema(connection, version);
  return new ClientTable(connection, await readSchema(connection));
}

async function listOf(table: AsyncIterable<Client>): Promise<Client[]> {
  const clients: Client[] = [];
  for await (const client of table) clients.push(client);
  return clients;
}

type Bytes = Record<string, string>;

/** Every column of every row, as SQL literals: what must not change unless it is asked for. */
async function bytesOf(table: ClientTable): Promise<Record<number, Bytes>> {
  const columns = await table.connection.all<{ name: string }>("PRAGMA table_info(clients)");
  const quoted = columns.map(({ name }) => `quote(${name}) AS ${name}`).join(", ");
  const rows = await table.connection.all<Bytes>(`SELECT ${quoted} FROM clients`);
  return Object.fromEntries(rows.map((row) => [Number(row.client_id), row]));
}

async function bytesOfRow(table: ClientTable, id: number): Promise<Bytes> {
  return (await bytesOf(table))[id] ?? {};
}

const types = ["recognizer_loop:utterance", "recognizer_loop:record_begin", "speak:b64_audio"];
const kitchen = newClient({
  client_id: 1,
  api_key: "6d1f9c2ab47e4f0c8a5b3d2e1f0a9b8c",
  name: "kitchen-satellite",
  description: "Raspberry Pi 4, kitchen",
  last_seen: 1763900000.5,
  allowed_types: types,
  crypto_key: "f46351c54f61a715",
  password: "5ae486f7f1c26bd4645bd052e4af3ea3",
});
const sala = newClient({
  client_id: 2,
  api_key: "a9c3e5b7d1f24680b2d4f6a8c0e1f3a5",
  name: 'Zé "sala" 🚀',
  description: "Привет, d'accord",
  is_admin: true,
  last_seen: 1763912345.678901,
  allowed_types: types,
  crypto_key: "0123456789abcdef",
  password: "correct horse battery staple",
  can_escalate: false,
});
const nulls = {
  ...newClient({ client_id: 4, api_key: "'; DROP TABLE clients; --" }),
  name: null,
  description: null,
  allowed_types: [],
  can_broadcast: false,
  can_escalate: false,
  can_propagate: false,
};
const garage = {
  ...newClient({ client_id: 5, api_key: "e2f4a6b8", name: "garage", password: "pw5" }),
  allowed_types: [],
  can_broadcast: false,
  can_escalate: false,
  can_propagate: false,
  metadata: { skill_blacklist: ["skill-a"] },
};

describe("reading stores that HiveMind wrote", () => {
  const revokedByHub = newClient({ client_id: 3, api_key: "revoked", allowed_types: types });

  test("schema 0: blacklists from their columns, NULL permissions as false, malformed lists as none", async () => {
    const table = await openPlain(await copyOfFixture("plain-schema0.db"));
    expect(table.schemaVersion).toBe(0);
    expect(await listOf(table)).toEqual([
      kitchen,
      {
        ...sala,
        metadata: {
          intent_blacklist: ["weather:forecast"],
          skill_blacklist: ["skill-ovos-shutdown", "skill-volume"],
          message_blacklist: ["speak"],
        },
      },
      revokedByHub,
      nulls,
      garage,
    ]);
  });

  test("schema 1: a key in metadata wins over its column, and metadata that is no object is empty", async () => {
    const table = await openPlain(await copyOfFixture("plain-schema1.db"));
    const clients = await listOf(table);
    expect(clients[1]?.metadata).toEqual({
      site: "lisboa",
      skill_blacklist: ["kept-as-is"],
      message_blacklist: ["speak"],
      intent_blacklist: ["weather:forecast"],
    });
    expect(clients.slice(2)).toEqual([revokedByHub, nulls, garage]);
  });

  test("schema 2: everything is in metadata", async () => {
    const table = await openPlain(await copyOfFixture("plain-schema2.db"));
    const clients = await listOf(table);
    expect(clients.map((client) => client.client_id)).toEqual([1, 2, 3, 4, 7]);
    const metadata = parseJson(
      '{"skill_blacklist": ["skill-volume"], "owner": {"name": "Zé Ninguém", "tags": ["a", "b"]}, "n": 1.0}',
    );
    expect(sameJson(clients[1]?.metadata ?? null, metadata)).toBe(true);
    expect(clients[4]).toMatchObject({
      can_broadcast: false,
      last_seen: 0,
      metadata: { site: "porto" },
    });
  });

  test("schema 2 with columns that a released hub filled again: they are folded in", async () => {
    const table = await tableOf(2);
    await table.connection.run(
      `INSERT INTO clients (client_id, api_key, skill_blacklist, intent_blacklist, metadata)
        VALUES (1, 'k', '["s"]', '["i"]', '{"intent_blacklist": ["own"]}')`,
    );
    expect((await table.getClientById(1))?.metadata).toEqual({
      intent_blacklist: ["own"],
      skill_blacklist: ["s"],
    });
  });

  test.each(["not json", '{"a": 1}', '"recognizer_loop:utterance"', "null", "[1, null, {}]", ""])(
    "allowed_types of %j allows nothing",
    async (text) => {
      const table = await tableOf(2);
      await table.connection.run(
        "INSERT INTO clients (client_id, api_key, allowed_types) VALUES (1, 'k', ?)",
        [text],
      );
      expect((await table.getClientById(1))?.allowed_types).toEqual([]);
      await table.updateClient(1, { name: "n" });
      expect((await bytesOfRow(table, 1)).allowed_types).toBe(`'${text}'`);
    },
  );

  test("permissions that are no booleans are read as Python reads them", async () => {
    const table = await tableOf(2);
    await table.connection.run(
      "INSERT INTO clients (client_id, api_key, is_admin, can_broadcast, can_escalate, can_propagate) VALUES (1, 'k', 'no', '', 2, x'')",
    );
    expect(await table.getClientById(1)).toMatchObject({
      is_admin: true,
      can_broadcast: false,
      can_escalate: true,
      can_propagate: false,
    });
  });
});

describe("what is not changed keeps its bytes", () => {
  const names = ["plain-schema0.db", "plain-schema1.db", "plain-schema2.db"];

  test.each(names)(
    "writing every client of %s back as it was read changes nothing",
    async (name) => {
      const table = await openPlain(await copyOfFixture(name));
      const before = await bytesOf(table);
      const clients = await listOf(table);
      for (const client of clients) await table.addItem(client);
      for (const client of clients) await table.updateItem(client);
      expect(await table.addItems(clients)).toBe(clients.length);
      expect(await bytesOf(table)).toEqual(before);
    },
  );

  const changes: Partial<Client>[] = [
    { api_key: "new" },
    { name: "new" },
    { name: null },
    { description: "new" },
    { is_admin: true },
    { last_seen: 12.5 },
    { allowed_types: ["new"] },
    { crypto_key: "new" },
    { password: "new" },
    { can_broadcast: true },
    { can_escalate: true },
    { can_propagate: true },
  ];

  test.each(names)(
    "changing one field of a client of %s writes that column alone",
    async (name) => {
      const table = await openPlain(await copyOfFixture(name));
      for (const { client_id } of await listOf(table)) {
        for (const change of changes) {
          const before = await bytesOfRow(table, client_id);
          const client = await table.updateClient(client_id, change);
          const after = await bytesOfRow(table, client_id);
          const differing = Object.keys(before).filter(
            (column) => before[column] !== after[column],
          );
          expect([[], Object.keys(change)]).toContainEqual(differing);
          expect(client).toMatchObject(change);
          expect(await table.getClientById(client_id)).toEqual(client);
        }
      }
    },
  );

  test("metadata that says the same stays as its writer spelled it", async () => {
    const table = await tableOf(2);
    const text = '{ "b":1.0,"a": "é", "10":[ ]}';
    await table.connection.run(
      "INSERT INTO clients (client_id, api_key, metadata) VALUES (1, 'k', ?)",
      [text],
    );
    await table.updateClient(1, {
      metadata: parseJson('{"10": [], "a": "é", "b": 1.0}') as JsonObject,
    });
    expect((await bytesOfRow(table, 1)).metadata).toBe(`'${text}'`);
    const { metadata = {} } = (await table.getClientById(1)) ?? {};
    await table.updateClient(1, { metadata: { ...metadata, c: null } });
    expect((await bytesOfRow(table, 1)).metadata).toBe(
      `'{"b": 1.0, "a": "\\u00e9", "10": [], "c": null}'`,
    );
  });

  test("a changed blacklist of schema 1 changes its column, and metadata only if it was there", async () => {
    const table = await openPlain(await copyOfFixture("plain-schema1.db"));
    const before = await bytesOfRow(table, 5);
    await table.updateClient(5, { metadata: { skill_blacklist: ["skill-a", "skill-é"] } });
    expect(await bytesOfRow(table, 5)).toEqual({
      ...before,
      skill_blacklist: `'["skill-a", "skill-\\u00e9"]'`,
    });
    const { metadata = {} } = (await table.getClientById(2)) ?? {};
    await table.updateClient(2, { metadata: { ...metadata, site: "porto" } });
    expect(await bytesOfRow(table, 2)).toMatchObject({
      intent_blacklist: `'["weather:forecast"]'`,
      skill_blacklist: `'["skill-ovos-shutdown", "skill-volume"]'`,
      message_blacklist: `'["speak"]'`,
      metadata: `'{"site": "porto", "skill_blacklist": ["kept-as-is"]}'`,
    });
  });

  test("columns that HiveMind does not know are left alone", async () => {
    const table = await openPlain(await copyOfFixture("plain-schema2.db"));
    await table.connection.exec(
      "ALTER TABLE clients ADD COLUMN note TEXT; UPDATE clients SET note = 'mine'",
    );
    await table.addItem({ ...kitchen, name: "renamed" });
    await table.addItem(newClient({ client_id: 9, api_key: "k9" }));
    expect(
      await table.connection.all(
        "SELECT client_id, name, note FROM clients WHERE client_id IN (1, 9)",
      ),
    ).toEqual([
      { client_id: 1, name: "renamed", note: "mine" },
      { client_id: 9, name: "", note: null },
    ]);
  });
});

describe("where things are written", () => {
  const listed = newClient({
    client_id: 1,
    api_key: "k",
    metadata: {
      skill_blacklist: ["s"],
      intent_blacklist: ["i"],
      message_blacklist: ["m"],
      site: "é",
    },
  });

  test("at schema 0 blacklists go to the columns, where a released hub enforces them", async () => {
    const table = await tableOf(0);
    await table.addItem(listed);
    expect(await bytesOfRow(table, 1)).toMatchObject({
      intent_blacklist: `'["i"]'`,
      skill_blacklist: `'["s"]'`,
      message_blacklist: `'["m"]'`,
      metadata: `'{"site": "\\u00e9"}'`,
    });
    expect(await table.getClientById(1)).toEqual(listed);
    await table.updateClient(1, { metadata: {} });
    expect(await bytesOfRow(table, 1)).toMatchObject({
      intent_blacklist: "'[]'",
      skill_blacklist: "'[]'",
      message_blacklist: "'[]'",
      metadata: "'{}'",
    });
  });

  test("at schema 2 they go to metadata", async () => {
    const table = await tableOf(2);
    await table.addItem(listed);
    expect(await bytesOfRow(table, 1)).toMatchObject({
      intent_blacklist: "NULL",
      skill_blacklist: "NULL",
      message_blacklist: "NULL",
      metadata: `'{"skill_blacklist": ["s"], "intent_blacklist": ["i"], "message_blacklist": ["m"], "site": "\\u00e9"}'`,
    });
    expect(await table.getClientById(1)).toEqual(listed);
  });

  test("at schema 2 a row that a released hub wrote has them in both, so that neither hub lets more through", async () => {
    const table = await tableOf(2);
    await table.connection.run(
      `INSERT INTO clients (client_id, api_key, skill_blacklist, intent_blacklist) VALUES (1, 'k', '["s"]', '[]')`,
    );
    await table.updateClient(1, { metadata: { skill_blacklist: ["s", "t"] } });
    expect(await bytesOfRow(table, 1)).toMatchObject({
      skill_blacklist: `'["s", "t"]'`,
      intent_blacklist: "'[]'",
      message_blacklist: "NULL",
      metadata: `'{"skill_blacklist": ["s", "t"]}'`,
    });
    const client = await table.updateClient(1, { metadata: {} });
    expect(await table.getClientById(1)).toEqual(client);
    expect((await bytesOfRow(table, 1)).skill_blacklist).toBe("'[]'");
  });

  test.each([0, 2])(
    "at schema %i a column with other entries than metadata changes only by what changed",
    async (version) => {
      const table = await tableOf(2);
      await table.connection.exec(
        `INSERT INTO clients (client_id, api_key, skill_blacklist, intent_blacklist, metadata)
          VALUES (1, 'k', '["b"]', '[]', '{"skill_blacklist": ["a"]}');
        PRAGMA user_version = ${version}`,
      );
      await table.sync();
      const edit = async (verb: ClientEdit) => {
        const { changes } = verb((await table.getClientById(1)) as Client, version);
        const client = await table.updateClient(1, changes);
        expect(await table.getClientById(1)).toEqual(client);
        const { skill_blacklist, intent_blacklist } = await bytesOfRow(table, 1);
        return [skill_blacklist, intent_blacklist];
      };
      expect(await edit(addToBlacklist("intent_blacklist", "i"))).toEqual([`'["b"]'`, `'["i"]'`]);
      expect((await edit(addToBlacklist("skill_blacklist", "c")))[0]).toBe(`'["b", "a", "c"]'`);
      expect((await edit(removeFromBlacklist("skill_blacklist", "a")))[0]).toBe(`'["b", "c"]'`);
      expect((await edit(removeFromBlacklist("skill_blacklist", "c")))[0]).toBe(`'["b"]'`);
      await table.updateClient(1, { metadata: {} });
      expect(await bytesOfRow(table, 1)).toMatchObject({
        skill_blacklist: `'["b"]'`,
        intent_blacklist: "'[]'",
        metadata: `'{"skill_blacklist": []}'`,
      });
    },
  );

  test("a released hub's table gets its metadata column when there is metadata to write, not before", async () => {
    const table = await openPlain(await copyOfFixture("plain-schema0.db"));
    const hasColumn = async () => "metadata" in (await bytesOfRow(table, 1));
    await table.addItem(
      newClient({ client_id: 6, api_key: "k6", metadata: { skill_blacklist: ["s"] } }),
    );
    await table.updateClient(1, { name: "renamed" });
    expect(await hasColumn()).toBe(false);
    const client = newClient({ client_id: 7, api_key: "k7", metadata: { site: "lisboa" } });
    const undone = table.transaction(async () => {
      await table.addItem(client);
      throw new Error("undo");
    });
    await expect(undone).rejects.toThrow("undo");
    expect(await hasColumn()).toBe(false);
    await table.addItem(client);
    expect(await hasColumn()).toBe(true);
    expect(await table.getClientById(7)).toEqual(client);
    expect(table.schemaVersion).toBe(0);
  });

  test("without a column for it, the crypto key is kept in metadata, and read from there", async () => {
    const table = await tableOf(2);
    await table.connection.run("ALTER TABLE clients DROP COLUMN crypto_key");
    await table.sync();
    const client = newClient({
      client_id: 1,
      api_key: "k",
      crypto_key: "0123456789abcdef",
      metadata: { a: 1 },
    });
    await table.addItem(client);
    expect((await bytesOfRow(table, 1)).metadata).toBe(
      `'{"a": 1, "crypto_key": "0123456789abcdef"}'`,
    );
    expect(await table.getClientById(1)).toEqual(client);
    await table.updateClient(1, { crypto_key: "new" });
    expect((await bytesOfRow(table, 1)).metadata).toBe(`'{"a": 1, "crypto_key": "new"}'`);
    await table.updateClient(1, { crypto_key: null });
    expect((await bytesOfRow(table, 1)).metadata).toBe(`'{"a": 1}'`);
    await table.addItem({ ...client, metadata: { crypto_key: "own" } });
    expect((await bytesOfRow(table, 1)).metadata).toBe(`'{"crypto_key": "own"}'`);
    expect(await table.searchByValue("crypto_key", "own")).toEqual([]);
  });

  test("a hub that migrates the store meanwhile is noticed before the next write", async () => {
    const path = await copyOfFixture("plain-schema0.db");
    const [ours, theirs] = [await openPlain(path), await openPlain(path)];
    await ours.updateClient(1, { name: "before" });
    const before = await ours.getClientById(2);
    await theirs.migrate(0);
    expect((await ours.getClientById(2))?.metadata.skill_blacklist).toEqual(
      before?.metadata.skill_blacklist,
    );
    await ours.updateClient(1, { metadata: { skill_blacklist: ["s"] } });
    expect(await bytesOfRow(ours, 1)).toMatchObject({
      skill_blacklist: "NULL",
      metadata: `'{"skill_blacklist": ["s"]}'`,
    });
    expect(ours.schemaVersion).toBe(2);
    await theirs.connection.run("PRAGMA user_version = 3");
    await expect(ours.updateClient(1, { name: "x" })).rejects.toMatchObject({
      kind: "newerVersion",
    });
  });
});

describe("the contract of a database", () => {
  test("adds, replaces, updates, revokes and finds", async () => {
    const table = await tableOf(2);
    const first = newClient({
      client_id: 1,
      api_key: "k1",
      password: "p",
      crypto_key: "c",
      metadata: { a: 1 },
    });
    await table.addItem(first);
    expect(await table.getClientByApiKey("k1")).toEqual(first);
    expect(await table.getClientById(1)).toEqual(first);
    expect(await table.refresh(1)).toEqual(first);
    const second = newClient({ client_id: 1, api_key: "k2" });
    await table.addItem(second);
    expect(await listOf(table)).toEqual([second]);
    await table.updateItem({ ...second, name: "renamed" });
    expect((await table.getClientById(1))?.name).toBe("renamed");
    await table.deleteItem(1);
    expect(await listOf(table)).toEqual([revoked(1)]);
    expect(Object.values(await bytesOfRow(table, 1)).join()).not.toContain("'k2'");
    expect(await table.size()).toBe(1);
    expect(await table.counts()).toEqual({ active: 0, revoked: 1 });
    await table.commit();
    expect(await table.getClientById(2)).toBeUndefined();
    expect(await table.getClientByApiKey("k1")).toBeUndefined();
  });

  test("a client that is not there is neither updated nor revoked", async () => {
    const table = await tableOf(2);
    await expect(table.updateItem(kitchen)).rejects.toMatchObject({ kind: "notFound" });
    await expect(table.updateClient(1, {})).rejects.toMatchObject({ kind: "notFound" });
    await expect(table.deleteItem(1)).rejects.toMatchObject({ kind: "notFound" });
    expect(await table.size()).toBe(0);
  });

  test("replacing revokes the one and adds the other, together or not at all", async () => {
    const table = await tableOf(2);
    const [old, fresh] = [
      newClient({ client_id: 1, api_key: "old" }),
      newClient({ client_id: 2, api_key: "new" }),
    ];
    await table.addItem(old);
    const bad = { ...fresh, client_id: 1.5 };
    await expect(table.replaceItem(old, bad)).rejects.toMatchObject({ kind: "refused" });
    expect(await listOf(table)).toEqual([old]);
    await table.replaceItem(old, fresh);
    expect(await listOf(table)).toEqual([revoked(1), fresh]);
    const again = newClient({ client_id: 2, api_key: "again" });
    await table.replaceItem(fresh, again);
    expect(await listOf(table)).toEqual([revoked(1), again]);
  });

  test("nobody is found by the api_key of the revoked", async () => {
    const table = await tableOf(2);
    await table.addItem(revoked(1));
    expect(await table.getClientByApiKey("revoked")).toBeUndefined();
    expect(await table.searchByValue("api_key", "revoked")).toEqual([]);
    expect(await table.searchByValue("client_id", 1)).toEqual([revoked(1)]);
  });

  test("a search compares what is stored, and a key that is no column finds nobody", async () => {
    const table = await openPlain(await copyOfFixture("plain-schema2.db"));
    const ids = async (key: string, value: string | number | boolean | null) =>
      (await table.searchByValue(key, value)).map((client) => client.client_id);
    expect(await ids("name", 'Zé "sala" 🚀')).toEqual([2]);
    expect(await ids("is_admin", true)).toEqual([2]);
    expect(await ids("can_broadcast", false)).toEqual([7]);
    expect(await ids("client_id", 7)).toEqual([7]);
    expect(await ids("client_id", "7")).toEqual([7]);
    expect(await ids("last_seen", 1763912345.678901)).toEqual([2]);
    expect(await ids("metadata", '{"site": "porto"}')).toEqual([7]);
    expect(await ids("metadata", '{"site":"porto"}')).toEqual([]);
    expect(await ids("name", null)).toEqual([]);
    expect(await ids("api_key", "'; DROP TABLE clients; --")).toEqual([4]);
    const all = vi.spyOn(table.connection, "prepare");
    for (const key of [
      "nothing",
      "1 = 1 OR name",
      "name = name OR name",
      "rowid",
      "__proto__",
      "exact_id",
      "",
      "NAME",
    ]) {
      expect(await ids(key, "x")).toEqual([]);
    }
    expect(all).not.toHaveBeenCalled();
  });

  test.each([1, 2])("a lookup during a replacement by id %i finds one of the two", async (id) => {
    const table = await tableOf(2);
    await table.addItem(kitchen);
    const replacement = { ...kitchen, client_id: id, name: "renewed" };
    let isReplaced = false;
    const replacing = table.replaceItem(kitchen, replacement).then(() => {
      isReplaced = true;
    });
    while (!isReplaced) expect(await table.getClientByApiKey(kitchen.api_key)).toBeDefined();
    await replacing;
    expect(await table.getClientByApiKey(kitchen.api_key)).toEqual(replacement);
  });

  test("a lookup is prepared once", async () => {
    const table = await tableOf(2);
    await table.addItem(kitchen);
    await table.getClientByApiKey(kitchen.api_key);
    const prepare = vi.spyOn(table.connection, "prepare");
    for (let i = 0; i < 5; i += 1)
      expect(await table.getClientByApiKey(kitchen.api_key)).toEqual(kitchen);
    expect(prepare).not.toHaveBeenCalled();
  });

  test("the next id is one more than the highest, whatever gaps there are", async () => {
    const table = await openPlain(await copyOfFixture("plain-schema2.db"));
    expect(await table.nextClientId()).toBe(8);
    await table.deleteItem(7);
    expect(await table.nextClientId()).toBe(8);
    expect(await (await tableOf(2)).nextClientId()).toBe(1);
  });

  test("what is no client is refused by its field, and nothing of its batch is written", async () => {
    const table = await tableOf(2);
    const bad: [string, Partial<Record<keyof Client, unknown>>][] = [
      ["client_id", { client_id: 2 ** 53 }],
      ["client_id", { client_id: "1" }],
      ["api_key", { api_key: null }],
      ["api_key", { api_key: "\ud800" }],
      ["name", { name: "🚀 \udc00" }],
      ["last_seen", { last_seen: Number.NaN }],
      ["is_admin", { is_admin: 1 }],
      ["allowed_types", { allowed_types: "all" }],
      ["metadata", { metadata: [1] }],
    ];
    for (const [field, change] of bad) {
      const client = { ...sala, ...change } as Client;
      await expect(table.addItems([kitchen, client])).rejects.toMatchObject({
        kind: "refused",
        message: expect.stringContaining(field),
      });
    }
    expect(await table.size()).toBe(0);
  });

  test.each(["password", "is_admin", "metadata"] as const)(
    "a change to an undefined %s is refused, and erases nothing",
    async (field) => {
      const table = await tableOf(2);
      await table.addItem(kitchen);
      const change: Partial<Record<keyof Client, unknown>> = { [field]: undefined };
      const changed = { ...kitchen, ...change } as Client;
      const refused = { kind: "refused", message: expect.stringContaining(field) };
      const update = table.updateClient(1, change as Partial<Client>);
      await expect(update).rejects.toMatchObject(refused);
      await expect(table.updateItem(changed)).rejects.toMatchObject(refused);
      await expect(table.addItem(changed)).rejects.toMatchObject(refused);
      expect(await table.getClientById(1)).toEqual(kitchen);
    },
  );

  test("any client is read back as it was written, over any other, one by one or many at once", async () => {
    const text = fc.string({ unit: "binary" }).filter((value) => !/\p{Surrogate}/u.test(value));
    const list = fc.array(text, { maxLength: 3 });
    // An empty blacklist and none are the same thing.
    const blacklist = fc.array(text, { minLength: 1, maxLength: 3 });
    const anyClient = fc.record({
      client_id: fc.integer({ min: 1, max: 3 }),
      api_key: text,
      name: fc.option(text),
      description: fc.option(text),
      is_admin: fc.boolean(),
      last_seen: fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => value + 0),
      allowed_types: list,
      crypto_key: fc.option(text),
      password: fc.option(text),
      can_broadcast: fc.boolean(),
      can_escalate: fc.boolean(),
      can_propagate: fc.boolean(),
      metadata: fc
        .record(
          {
            skill_blacklist: blacklist,
            message_blacklist: blacklist,
            other: fc.jsonValue(),
            "7": list,
          },
          { requiredKeys: [] },
        )
        .map((metadata) => parseJson(JSON.stringify(metadata)) as JsonObject),
    });
    const inTwoVersions = await Promise.all([tableOf(0), tableOf(2)]);
    await fc.assert(
      fc.asyncProperty(fc.array(anyClient, { minLength: 1, maxLength: 4 }), async (clients) => {
        for (const table of inTwoVersions) {
          const last = clients.at(-1) as Client;
          for (const client of clients) await table.addItem(client);
          const one = (await table.getClientById(last.client_id)) ?? null;
          expect(sameJson({ ...one }, { ...last })).toBe(true);
          await table.connection.run("DELETE FROM clients");
          await table.addItems(clients);
          expect(sameJson({ ...(await table.getClientById(last.client_id)) }, { ...last })).toBe(
            true,
          );
        }
      }),
      { numRuns: 150 },
    );
  });
});

describe("ids that JavaScript would round", () => {
  const beyond = "9007199254740993";

  test("are refused by their exact digits wherever they are met, and never given on", async () => {
    const table = await tableOf(2);
    await table.addItem(kitchen);
    await table.connection.run(
      `INSERT INTO clients (client_id, api_key) VALUES (${beyond}, 'far')`,
    );
    const refusal = { kind: "refused", message: expect.stringContaining(beyond) };
    await expect(listOf(table)).rejects.toMatchObject(refusal);
    await expect(table.getClientByApiKey("far")).rejects.toMatchObject(refusal);
    await expect(table.nextClientId()).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("9007199254740994"),
    });
    expect(await table.getClientById(1)).toEqual(kitchen);
    expect(await table.size()).toBe(2);
    await table.connection.run(
      `UPDATE clients SET client_id = -9223372036854775807 - 1 WHERE client_id > 1`,
    );
    await expect(listOf(table)).rejects.toMatchObject({
      message: expect.stringContaining("-9223372036854775808"),
    });
  });

  test("the last id that is exact is carried", async () => {
    const table = await tableOf(2);
    const last = { ...kitchen, client_id: 2 ** 53 - 1 };
    await table.addItems([last, { ...sala, client_id: -(2 ** 53 - 1) }]);
    await table.updateClient(last.client_id, { name: "last" });
    expect((await listOf(table)).map((client) => client.client_id)).toEqual([
      -(2 ** 53 - 1),
      2 ** 53 - 1,
    ]);
    expect(
      await table.connection.get(`SELECT name FROM clients WHERE client_id = ${2 ** 53 - 1}`),
    ).toEqual({ name: "last" });
    await expect(table.nextClientId()).rejects.toMatchObject({ kind: "refused" });
  });

  test("a last_seen that would be rounded is refused too", async () => {
    const connection = await Connection.open(":memory:", { mode: "create" });
    onTestFinished(() => connection.close());
    await createSchema(connection, 2);
    await connection.exec(`ALTER TABLE clients RENAME TO old;
      CREATE TABLE clients AS SELECT * FROM old;
      ALTER TABLE clients DROP COLUMN last_seen;
      ALTER TABLE clients ADD COLUMN last_seen INTEGER;
      INSERT INTO clients (client_id, api_key, last_seen) VALUES (1, 'k', ${beyond})`);
    const table = new ClientTable(connection, await readSchema(connection));
    await expect(table.getClientById(1)).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining(beyond),
    });
  });
});

describe("many clients", () => {
  test("are iterated by key ranges, while others write", async () => {
    const table = await tableOf(2);
    async function* clients() {
      for (let id = 1; id <= 1_200; id += 1)
        yield newClient({ client_id: id * 2, api_key: `k${id}` });
    }
    expect(await table.addItems(clients())).toBe(1_200);
    const prepare = vi.spyOn(table.connection, "prepare");
    const ids: number[] = [];
    for await (const { client_id } of table) {
      ids.push(client_id);
      // One that is behind, which is not met any more, and one ahead, which is.
      if (client_id === 600) await table.addItems([kitchen, { ...sala, client_id: 1_201 }]);
    }
    expect(ids).toHaveLength(1_201);
    expect(ids).toEqual([...ids].sort((a, b) => a - b));
    expect(ids).toContain(1_201);
    // One statement for the first page, two in turns for all others.
    const reading = prepare.mock.calls.filter(([sql]) => sql.includes("ORDER BY client_id"));
    expect(reading).toHaveLength(3);
    for (const [sql] of reading) expect(sql).toMatch(/LIMIT 200\)$/);
  });
});

describe("an encrypted store of clients", () => {
  test("is made whole: in WAL mode, with its table and index, for its owner alone", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "clients.db");
    {
      await using store = await ClientStore.create(path, "passphrase");
      expect(store.schemaVersion).toBe(2);
      await store.addItem(kitchen);
      expect(await store.connection.get("PRAGMA journal_mode")).toEqual({ journal_mode: "wal" });
      const made = await store.connection.all(
        "SELECT name FROM sqlite_schema WHERE sql IS NOT NULL",
      );
      expect(made).toEqual([{ name: "clients" }, { name: "idx_clients_api_key" }]);
      expect(
        await store.connection.all("EXPLAIN QUERY PLAN SELECT * FROM clients WHERE api_key = 'k'"),
      ).toMatchObject([{ detail: "SEARCH clients USING INDEX idx_clients_api_key (api_key=?)" }]);
    }
    expect(await readdir(folder)).toEqual(["clients.db"]);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    await using again = await ClientStore.open(path, "passphrase");
    expect(await listOf(again)).toEqual([kitchen]);
  });

  test("is made in the place of nothing else, and a failure leaves nothing behind", async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, "clients.db"), "something");
    await expect(ClientStore.create(join(folder, "clients.db"), "p")).rejects.toMatchObject({
      kind: "refused",
    });
    await expect(ClientStore.create(join(folder, "none", "clients.db"), "p")).rejects.toMatchObject(
      { kind: "io" },
    );
    await expect(ClientStore.create(join(folder, "other.db"), "")).rejects.toMatchObject({
      kind: "refused",
    });
    await writeFile(join(folder, "gone.db-wal"), "of a store that is gone");
    await expect(
      ClientStore.open(join(folder, "gone.db"), "p", { mode: "create" }),
    ).rejects.toMatchObject({ kind: "refused", hint: expect.stringContaining("mv ") });
    expect(await readdir(folder)).toEqual(["clients.db", "gone.db-wal"]);
  });

  test("is made by opening only if that is asked for", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "clients.db");
    await expect(ClientStore.open(path, "p")).rejects.toMatchObject({ kind: "notFound" });
    expect(await readdir(folder)).toEqual([]);
    const first = await ClientStore.open(path, "p", { mode: "create" });
    await first.addItem(kitchen);
    await first.close();
    await using second = await ClientStore.open(path, first.key, { mode: "create" });
    expect(await second.size()).toBe(1);
    expect(second.keyId).toBe(first.keyId);
  });

  test("is migrated only if that is asked for, as by a hub", async () => {
    const path = join(await temporaryFolder(), "clients.db");
    const made = await ClientStore.create(path, "p", { schemaVersion: 0 });
    await made.addItem({ ...kitchen, metadata: { skill_blacklist: ["s"] } });
    await made.close();
    for (const options of [
      {},
      { mode: "readwrite" },
      { mode: "readonly", migrate: true },
    ] as const) {
      await using store = await ClientStore.open(path, made.key, options);
      expect(store.schemaVersion).toBe(0);
      expect((await bytesOfRow(store, 1)).skill_blacklist).toBe(`'["s"]'`);
    }
    await using hub = await ClientStore.open(path, made.key, { migrate: true });
    expect(hub.schemaVersion).toBe(2);
    expect((await bytesOfRow(hub, 1)).skill_blacklist).toBe("NULL");
    expect(await hub.getClientById(1)).toEqual({
      ...kitchen,
      metadata: { skill_blacklist: ["s"] },
    });
  });

  test("of a newer schema, or of something else, is refused before anything is written, and let go of", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "clients.db");
    const made = await ClientStore.create(path, "p");
    await made.connection.run("PRAGMA user_version = 3");
    await made.close();
    await expect(ClientStore.open(path, made.key)).rejects.toMatchObject({
      kind: "newerVersion",
      exitCode: 16,
    });
    expect(await readdir(folder)).toEqual(["clients.db"]);
    const { connection } = await openEncrypted(path, made.key, { mode: "readwrite" });
    await connection.exec("PRAGMA user_version = 0; ALTER TABLE clients RENAME TO others");
    await connection.close();
    await expect(ClientStore.open(path, made.key)).rejects.toMatchObject({ kind: "notFound" });
    expect(await readdir(folder)).toEqual(["clients.db"]);
  });

  test("keeps its journal mode when it was made by others", async () => {
    const path = await copyOfFixture("sqlcipher4-schema2.db");
    await using store = await ClientStore.open(path, "correct 'horse' battery");
    await store.updateClient(1, { name: "n" });
    expect(await store.connection.get("PRAGMA journal_mode")).toEqual({ journal_mode: "delete" });
  });
});
