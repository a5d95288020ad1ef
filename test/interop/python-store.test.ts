import { copyFile, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import {
  type Client,
  deserializeClient,
  newClient,
  serializeClient,
} from "../../src/client/client.js";
import { formatJson, type JsonObject, parseJson } from "../../src/client/json.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { ClientTable } from "../../src/store/client-table.js";
import { Connection } from "../../src/store/connection.js";
import { createSchema, readSchema } from "../../src/store/schema.js";
import { fixtures, temporaryFolder } from "../store/temporary.js";
import { type Line, runPython } from "./python.js";

const password = `it's a "pässphrase"`;

/** Clients of every kind: all defaults, nothing at all, other alphabets, awkward JSON. */
const clients: Client[] = [
  newClient({ client_id: 1, api_key: "k1" }),
  newClient({
    client_id: 2,
    api_key: "k2",
    name: 'Zé "sala" 🚀',
    description: "Привет,\td'accord\n\u007f",
    is_admin: true,
    last_seen: 1763912345.678901,
    allowed_types: ["recognizer_loop:utterance", "é", "🚀", '"\\'],
    password: "correct horse",
    can_escalate: false,
    metadata: object(
      '{"z": 1.0, "10": [1e+16, 1e-07, 9007199254740993, NaN, -Infinity], "2": {"__proto__": null}, "\\ud83d\\ude80": "\\u007f\\ud800"}',
    ),
  }),
  newClient({
    client_id: 3,
    api_key: "k3",
    last_seen: 5.150011737398001e-282,
    allowed_types: ["recognizer_loop:utterance"],
    can_broadcast: false,
    can_propagate: false,
    metadata: { skill_blacklist: ["s-é"], intent_blacklist: ["i"] },
  }),
  newClient({ client_id: 7, api_key: "k7", name: "hall", last_seen: 0 }),
];

function object(text: string): JsonObject {
  return parseJson(text) as JsonObject;
}

/** Where the plugins look for `clients.db`, below their data home. */
async function pluginsPath(home: string): Promise<string> {
  const path = join(home, "hivemind-core", "clients.db");
  await mkdir(dirname(path), { recursive: true });
  return path;
}

/**
 * Each column of each row as a literal, with its type: equal if and only if the stored values are.
 */
async function storedIn(connection: Connection, columns: readonly string[]): Promise<unknown[]> {
  const each = columns.map((name) => `quote(${name}) || ' ' || typeof(${name}) AS ${name}`);
  return connection.all(`SELECT ${each.join(", ")} FROM clients ORDER BY client_id`);
}

async function columnsOf(connection: Connection): Promise<string[]> {
  const found = await connection.all<{ name: string }>("PRAGMA table_info(clients)");
  return found.map(({ name }) => name);
}

const plugin = `from hivemind_plugin_manager.database import Client, cast2client
from hivemind_sqlite_database import SQLiteDB
`;

/** Makes Clients of the records given, and adds them as a hub does. */
const addAll = `${plugin}
db = SQLiteDB(**given.get("settings", {}))
for record in given["records"]:
    if not db.add_item(Client(**json.loads(record))): raise SystemExit("not added")
answer = db.conn.execute("PRAGMA user_version").fetchone()[0]
db.conn.close()`;

/** All clients as the plugin reads them, and what it finds by key and by id. */
const readAll = `${plugin}
db = SQLiteDB(**given.get("settings", {}))
found = [db.search_by_value("api_key", key) for key in given["keys"]]
answer = {"clients": [c.serialize() for c in db], "found": [[c.client_id for c in cs] for cs in found]}
db.conn.close()`;

/** Records for the constructor of a line's Client, their keys in this order. */
function recordsFor(line: Line): string[] {
  return clients.map(({ crypto_key, metadata, ...rest }) => {
    if (line === "development") return formatJson({ ...rest, metadata });
    const { skill_blacklist = [], intent_blacklist = [], ...others } = metadata;
    return formatJson({ ...rest, crypto_key, skill_blacklist, intent_blacklist, metadata: others });
  });
}

describe("the development line's plugin, with a password", () => {
  const settings = { password };

  test("wrote what this project writes for the same clients, column by column", async () => {
    const home = await temporaryFolder();
    const path = await pluginsPath(home);
    const version = runPython("development", home, addAll, {
      settings,
      records: recordsFor("development"),
    });
    expect(version).toBe(2);

    await using theirs = await ClientStore.open(path, password);
    await using ours = await ClientStore.create(join(home, "ours.db"), password);
    expect(await ours.addItems(clients)).toBe(clients.length);
    const columns = await columnsOf(theirs.connection);
    expect(columns).toHaveLength(15);
    const written = await storedIn(ours.connection, columns);
    expect(written).toEqual(await storedIn(theirs.connection, columns));

    // Into their file too, whose table has no crypto_key, and over their rows.
    await theirs.addItems(clients);
    expect(await storedIn(theirs.connection, columns)).toEqual(written);
    await theirs.connection.run("DELETE FROM clients");
    for (const client of clients) await theirs.addItem(client);
    expect(await storedIn(theirs.connection, columns)).toEqual(written);
    for (const journal of [theirs, ours]) {
      expect(await journal.connection.get("PRAGMA journal_mode")).toEqual({ journal_mode: "wal" });
    }
  });

  test("wrote what this project reads as the same clients", async () => {
    const home = await temporaryFolder();
    const path = await pluginsPath(home);
    runPython("development", home, addAll, { settings, records: recordsFor("development") });
    await using store = await ClientStore.open(path, password);
    const read = [];
    for await (const client of store) read.push(serializeClient(client));
    expect(read).toEqual(clients.map(serializeClient));
  });

  test("reads what this project wrote, finds by its index, writes on, and revokes as this project does", async () => {
    const home = await temporaryFolder();
    const path = await pluginsPath(home);
    const made = await ClientStore.create(path, password);
    await made.addItems(clients);
    await made.close();
    const keys = clients.map((client) => client.api_key);
    const theirs = runPython<{ clients: string[]; found: number[][] }>(
      "development",
      home,
      readAll,
      { settings, keys },
    );
    expect(theirs.found).toEqual([[1], [2], [3], [7]]);
    expect(theirs.clients.map((text) => serializeClient(deserializeClient(text)))).toEqual(
      clients.map(serializeClient),
    );

    const change = `${plugin}
db = SQLiteDB(**given["settings"])
client = db.get_client_by_id(2)
client.name = "renamed"
db.update_item(client)
db.delete_item(db.get_client_by_id(1))
answer = len(db)
db.conn.close()`;
    expect(runPython("development", home, change, { settings })).toBe(4);
    await using again = await ClientStore.open(path, password);
    expect((await again.getClientById(2))?.name).toBe("renamed");
    await again.deleteItem(7);
    const columns = (await columnsOf(again.connection)).filter((name) => name !== "client_id");
    const [first, , , last] = await storedIn(again.connection, columns);
    // HiveMind 4 can admit a connection with the key of revoked clients.
    const no = "0 integer";
    const rights = { can_broadcast: no, can_escalate: no, can_propagate: no };
    expect(last).toEqual({ ...(first as object), ...rights });
  });

  test("beside this project's open store: each sees what the other commits", async () => {
    const home = await temporaryFolder();
    const path = await pluginsPath(home);
    await using store = await ClientStore.create(path, password);
    await store.addItems(clients);
    const add = `${plugin}
db = SQLiteDB(**given["settings"])
db.add_item(Client(client_id=len(db) + 10, api_key="theirs"))
answer = [c.client_id for c in db]`;
    expect(runPython("development", home, add, { settings })).toEqual([1, 2, 3, 7, 14]);
    expect(await store.getClientByApiKey("theirs")).toMatchObject({
      client_id: 14,
      allowed_types: [],
    });
  });

  test.each(["plain-schema0.db", "plain-schema1.db", "plain-schema2.db"])(
    "migrates %s to the same bytes",
    async (name) => {
      const home = await temporaryFolder();
      const path = await pluginsPath(home);
      const mine = join(home, "mine.db");
      await copyFile(join(fixtures, name), path);
      await copyFile(join(fixtures, name), mine);
      runPython(
        "development",
        home,
        `${plugin}\ndb = SQLiteDB()\nanswer = len(db)\ndb.conn.close()`,
        {},
      );
      await using theirs = await Connection.open(path, { mode: "readwrite" });
      await using connection = await Connection.open(mine, { mode: "readwrite" });
      const table = new ClientTable(connection, await readSchema(connection));
      await table.migrate(table.schemaVersion);
      const columns = await columnsOf(theirs);
      expect(await columnsOf(connection)).toEqual(columns);
      expect(await storedIn(connection, columns)).toEqual(await storedIn(theirs, columns));
      expect(await connection.get("PRAGMA user_version")).toEqual(
        await theirs.get("PRAGMA user_version"),
      );
    },
  );
});

describe("the released line's plugin, which encrypts nothing", () => {
  test("wrote what this project writes at schema 0 for the same clients, column by column", async () => {
    const home = await temporaryFolder();
    const path = await pluginsPath(home);
    expect(runPython("released", home, addAll, { records: recordsFor("released") })).toBe(0);
    await using theirs = await Connection.open(path, { mode: "readwrite" });
    const columns = await columnsOf(theirs);
    expect(columns).not.toContain("metadata");

    await using ours = await ClientStore.create(join(home, "ours.db"), password, {
      schemaVersion: 0,
    });
    await ours.addItems(clients);
    const written = await storedIn(ours.connection, columns);
    expect(written).toEqual(await storedIn(theirs, columns));

    const table = new ClientTable(theirs, await readSchema(theirs));
    await table.addItems(clients.map((client) => ({ ...client, name: "over" })));
    await table.addItems(clients);
    expect(await storedIn(theirs, columns)).toEqual(written);
  });

  test("enforces what this project writes at schema 0: it reads the same clients, blacklists included", async () => {
    const home = await temporaryFolder();
    const path = await pluginsPath(home);
    {
      await using connection = await Connection.open(path, { mode: "create" });
      await createSchema(connection, 0);
      await new ClientTable(connection, await readSchema(connection)).addItems(clients);
    }
    const keys = clients.map((client) => client.api_key);
    const theirs = runPython<{ clients: string[]; found: number[][] }>("released", home, readAll, {
      keys,
    });
    expect(theirs.found).toEqual([[1], [2], [3], [7]]);
    expect(JSON.parse(theirs.clients[2] ?? "")).toMatchObject({
      skill_blacklist: ["s-é"],
      intent_blacklist: ["i"],
      message_blacklist: [],
      allowed_types: ["recognizer_loop:utterance"],
      can_broadcast: false,
    });
  });

  test("that filled the legacy columns of a store at schema 2 again is read with its blacklists", async () => {
    const home = await temporaryFolder();
    const path = await pluginsPath(home);
    await copyFile(join(fixtures, "plain-schema2.db"), path);
    runPython("released", home, addAll, { records: recordsFor("released") });
    await using connection = await Connection.open(path, { mode: "readonly" });
    const table = new ClientTable(connection, await readSchema(connection));
    expect(table.schemaVersion).toBe(2);
    expect((await table.getClientById(3))?.metadata).toEqual({
      skill_blacklist: ["s-é"],
      intent_blacklist: ["i"],
    });
  });
});

describe("an independent SQLCipher", () => {
  test("finds nothing wrong with a store made here", async () => {
    const home = await temporaryFolder();
    const path = join(home, "clients.db");
    const store = await ClientStore.create(path, password);
    await store.addItems(clients);
    await store.close();
    const check = `import sqlcipher3
c = sqlcipher3.connect(given["path"])
c.execute("PRAGMA key='%s'" % given["password"].replace("'", "''"))
answer = [c.execute("PRAGMA cipher_integrity_check").fetchall(), c.execute("PRAGMA integrity_check").fetchall(), c.execute("SELECT count(*) FROM clients").fetchone()]`;
    expect(runPython("released", home, check, { path, password })).toEqual([[], [["ok"]], [4]]);
    const { connection } = await openEncrypted(path, password, {
      mode: "readonly",
      immutable: true,
    });
    await connection.close();
  });
});
