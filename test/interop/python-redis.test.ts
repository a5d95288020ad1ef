import { beforeAll, describe, expect, test } from "vitest";
import { type Client, newClient, revoked, serializeClient } from "../../src/client/client.js";
import type { Database } from "../../src/client/database.js";
import { formatJson, type JsonObject } from "../../src/client/json.js";
import { awkwardClients } from "../../src/databases/conformance.js";
import { encodeRecord } from "../../src/databases/record.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { RedisServer, sharedCluster } from "../databases/redis-server.js";
import { temporaryFolder } from "../store/temporary.js";
import { type Line, runPython } from "./python.js";

const lines: Line[] = ["released", "development"];
const clients: Client[] = [...awkwardClients(), revoked(10)];

const plugin = `from hivemind_plugin_manager.database import Client, cast2client
from hivemind_redis_database import RedisDB
db = RedisDB(**given["settings"])
`;
const addAll = `${plugin}
for record in given["records"]:
    if not db.add_item(cast2client(record)): raise SystemExit("not added")
answer = len(db)`;
const readAll = `${plugin}
search = lambda key, value: sorted(c.client_id for c in db.search_by_value(key, value))
answer = {"size": len(db), "clients": [c.serialize() for c in db],
  "by_key": [search("api_key", key) for key in given["keys"]], "by_name": [search("name", name) for name in given["names"]]}`;

interface Read {
  size: number;
  clients: string[];
  by_key: number[][];
  by_name: number[][];
}

function records(line: Line, each: readonly Client[]): string[] {
  const shape = line === "released" ? "HiveMind 4" : "HiveMind 5";
  return each.map((client) => formatJson(encodeRecord(client, shape)));
}

function open(settings: JsonObject): Promise<Database> {
  return DatabaseFactory.create("hivemind-redis-db-plugin", settings);
}

/** Everything that a server holds below a prefix, by key; sets in order. */
function keysBelow(server: RedisServer, prefix: string): Record<string, string[]> {
  const script = `local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  local type, value = redis.call('TYPE', key).ok, {}
  if type == 'string' then value = {redis.call('GET', key)} end
  if type == 'set' then value = redis.call('SMEMBERS', key); table.sort(value) end
  if type == 'hash' then value = redis.call('HGETALL', key) end
  found[string.sub(key, #ARGV[1] + 1)] = value
end
return cjson.encode(found)`;
  return JSON.parse(server.cli("EVAL", script, "0", prefix));
}

let clusterPort = 0;

beforeAll(() =>
  sharedCluster((port) => {
    clusterPort = port;
  }),
);

describe.each(lines)("the %s line's plugin", (line) => {
  test("fills a server with what this project fills it with, key for key", async () => {
    const home = await temporaryFolder();
    const server = await RedisServer.start();
    const base = { port: server.port };
    // A released plugin gives the default list to a client that has none.
    const filling = clients.filter((client) => client.allowed_types.length > 0);
    // Made by the plugin, a namespace knows its schema version.
    for (const index_prefix of ["theirs", "ours"]) {
      const settings = { ...base, index_prefix };
      const added = index_prefix === "theirs" ? records(line, filling) : [];
      runPython(line, home, addAll, { settings, records: added });
    }
    {
      await using database = await open({ ...base, index_prefix: "ours" });
      await database.addItems(filling);
    }
    expect(keysBelow(server, "ours")).toEqual(keysBelow(server, "theirs"));

    // And changes it alike: a new name, a new key, a client that is revoked.
    const changed = { ...clients[4], name: "Küche", api_key: "renewed" } as Client;
    runPython(
      line,
      home,
      `${plugin}
if not db.update_item(cast2client(given["record"])): raise SystemExit("not updated")
if not db.delete_item(db.search_by_value("api_key", "key-3")[0]): raise SystemExit("not revoked")
answer = True`,
      {
        settings: { ...base, index_prefix: "theirs" },
        record: records(line, [changed])[0],
      },
    );
    await using database = await open({ ...base, index_prefix: "ours" });
    await database.updateItem(changed);
    await database.deleteItem(3);
    const [ours, theirs] = [keysBelow(server, "ours"), keysBelow(server, "theirs")];
    const parsed = (keys: Record<string, string[]>) => JSON.parse(keys[":client:3"]?.[0] ?? "");
    // The plugin spells a revoked record in another way.
    expect(parsed(ours)).toEqual(parsed(theirs));
    expect({ ...ours, ":client:3": [] }).toEqual({ ...theirs, ":client:3": [] });
  });

  test("finds, changes and revokes what this project wrote, and this project what it did", async () => {
    const home = await temporaryFolder();
    const server = await RedisServer.start();
    const settings = { port: server.port };
    await using database = await open(settings);
    await database.addItems(clients);
    const active = clients.filter((client) => client.api_key !== "revoked");
    const read = runPython<Read>(line, home, readAll, {
      settings,
      keys: active.map((client) => client.api_key),
      names: active.map((client) => client.name).filter((name) => name !== ""),
    });
    expect(read.size).toBe(clients.length);
    expect(read.by_key).toEqual(active.map((client) => [client.client_id]));
    expect(read.by_name).toEqual([[2], [4], [9]]);
    expect(read.clients).toHaveLength(active.length);

    runPython(
      line,
      home,
      `${plugin}
client = db.search_by_value("name", "hall")[0]
client.name = "foyer"
client.can_escalate = False
answer = db.update_item(client) and db.delete_item(db.search_by_value("api_key", "key-1")[0]) and db.add_item(Client(client_id=11, api_key="theirs", name="new"))`,
      { settings },
    );
    await database.sync();
    expect((await database.searchByValue("name", "foyer"))[0]).toMatchObject({
      client_id: 9,
      can_escalate: false,
    });
    expect(await database.searchByValue("name", "hall")).toEqual([]);
    expect(await database.getClientByApiKey("key-1")).toBeUndefined();
    expect(await database.getClientById(1)).toMatchObject({ api_key: "revoked" });
    expect(await database.getClientByApiKey("theirs")).toMatchObject({ client_id: 11 });
    expect(await database.size()).toBe(clients.length + 1);
    const [, second] = clients;
    expect(serializeClient((await database.getClientById(2)) as Client)).toBe(
      serializeClient(second as Client),
    );
  });

  test.each([
    ["without a hash tag", {}],
    ["with one", { cluster_hash_tag: "hub" }],
  ])("shares a cluster with this project, %s", async (_name, tag) => {
    const home = await temporaryFolder();
    const settings = { port: clusterPort, index_prefix: `shared by ${line}`, ...tag };
    if (line === "development" && !("cluster_hash_tag" in tag)) {
      // It cannot migrate blacklists there; in a namespace that it has opened before it need not.
      runPython(line, home, addAll, { settings, records: [] });
    }
    await using database = await open(settings);
    await database.addItems(clients);
    const keys = ["key-1", "key-3", clients[1]?.api_key ?? ""];
    const read = runPython<Read>(line, home, readAll, { settings, keys, names: ["hall"] });
    expect(read).toMatchObject({ size: clients.length, by_key: [[1], [3], [2]], by_name: [[9]] });
    runPython(
      line,
      home,
      `${plugin}
answer = db.delete_item(db.search_by_value("api_key", "key-1")[0]) and db.add_item(Client(client_id=11, api_key="theirs", name="new"))`,
      { settings },
    );
    await database.deleteItem(3);
    expect(await database.getClientByApiKey("theirs")).toMatchObject({ client_id: 11 });
    expect(await database.getClientByApiKey("key-1")).toBeUndefined();
    const after = runPython<Read>(line, home, readAll, { settings, keys, names: [] });
    expect(after).toMatchObject({ size: clients.length + 1, by_key: [[], [], [2]] });
  });
});

test("the newest plugin opens a cluster without a hash tag that this project filled first, if no client has blacklists", async () => {
  const home = await temporaryFolder();
  const settings = { port: clusterPort, index_prefix: "filled here" };
  await using database = await open(settings);
  await database.addItems(clients.filter((client) => client.client_id !== 3));
  const read = runPython<Read>("development", home, readAll, {
    settings,
    keys: ["key-9"],
    names: [],
  });
  expect(read).toMatchObject({ size: clients.length - 1, by_key: [[9]] });
});

test("a client revoked, renewed or changed here is refused at once by the newest plugin, which admits by records of its own", async () => {
  const home = await temporaryFolder();
  const server = await RedisServer.start();
  const settings = { port: server.port };
  await using database = await open(settings);
  await database.addItems(clients);
  const admit = `${plugin}
found = [db.get_client_by_api_key(key) for key in given["keys"]]
answer = [c and [c.client_id, c.is_admin] for c in found]`;
  const keys = ["key-1", "key-3", "key-9", "renewed"];
  const before = runPython("development", home, admit, { settings, keys });
  expect(before).toEqual([[1, false], [3, false], [9, false], null]);
  expect(server.cli("EXISTS", "client:api_key_record:key-1")).toBe("1");
  // A version between the two kept them in one hash.
  server.cli("HSET", "client:api_key_records", "key-1", "a record", "key-9", "another");

  await database.deleteItem(1);
  await database.updateItem({ ...clients[2], is_admin: true } as Client);
  await database.addItem({ ...clients[4], api_key: "renewed" } as Client);
  expect(server.cli("HLEN", "client:api_key_records")).toBe("0");
  const after = runPython("development", home, admit, { settings, keys });
  expect(after).toEqual([null, [3, true], null, [9, false]]);
});

test("a record that another process is just making is waited for, and never overwritten", async () => {
  const server = await RedisServer.start();
  const settings = { port: server.port, retry_delay: 0.01 };
  server.cli("SET", "client:client:1", "__hivemind_creating__");
  await using database = await open(settings);
  const client = newClient({ client_id: 1, api_key: "ours" });
  for (const attempt of [
    () => database.addItem(client),
    () => database.addItems([newClient({ client_id: 2, api_key: "two" }), client]),
    () => database.updateItem(client),
    () => database.deleteItem(1),
  ]) {
    await expect(attempt()).rejects.toMatchObject({ kind: expect.stringMatching("inUse") });
  }
  expect(server.cli("GET", "client:client:1")).toBe("__hivemind_creating__");
  expect(await database.getClientById(1)).toBeUndefined();
  expect(await database.getClientByApiKey("two")).toMatchObject({ client_id: 2 });

  // Whoever made it is done: it is another's record now, and changed as such.
  await using patient = await open({ port: server.port, retry_delay: 0.1 });
  const waiting = patient.addItem(client);
  server.cli("DEL", "client:client:1");
  await waiting;
  expect(await database.getClientByApiKey("ours")).toMatchObject({ client_id: 1 });
});
