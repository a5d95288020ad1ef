import { execFileSync } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { chown, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import {
  type Client,
  isRevoked,
  newClient,
  revoked,
  serializeClient,
} from "../../src/client/client.js";
import { normalizeClient } from "../../src/client/compare.js";
import type { JsonObject } from "../../src/client/json.js";
import { BaseDatabase } from "../../src/databases/base-database.js";
import { awkwardClients } from "../../src/databases/conformance.js";
import { copyClients, createTable } from "../../src/databases/copy-clients.js";
import type { Endpoint } from "../../src/databases/plugin.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import type { StoreError } from "../../src/errors.js";
import { checkSource } from "../../src/migrate/check.js";
import { copyDatabase } from "../../src/migrate/copy-database.js";
import { acquireLock } from "../../src/operation/lock.js";
import { stepChannelName } from "../../src/operation/step.js";
import { migrate } from "../../src/recovery/migrate.js";
import { Connection } from "../../src/store/connection.js";
import { temporaryFolder } from "../store/temporary.js";
import { clusterIsUp, RedisServer, startCluster } from "./redis-server.js";

/** Ids 1 to 4, 9 and 10; the last is revoked. */
const clients: Client[] = [...awkwardClients(), revoked(10)];

const sqlcipher = "hivemind-sqlcipher-db-plugin";
const sqlite = "hivemind-sqlite-db-plugin";
const json = "hivemind-json-db-plugin";
const redis = "hivemind-redis-db-plugin";

function fingerprint(client: Client): string {
  return serializeClient(normalizeClient(client));
}

function end(name: string, config: JsonObject): Endpoint {
  return { name, config };
}

async function fill({ name, config }: Endpoint, added: readonly Client[]): Promise<void> {
  await using database = await DatabaseFactory.create(name, config);
  await database.addItems(added);
}

async function contents({ name, config }: Endpoint): Promise<Client[]> {
  await using database = await DatabaseFactory.create(name, config, { mode: "readwrite" });
  const found: Client[] = [];
  for await (const client of database) found.push(client);
  return found.sort((a, b) => a.client_id - b.client_id);
}

/** Notes of migrations go below the data home, which is this process's own in each test. */
async function ownDataHome(): Promise<string> {
  const [before, folder] = [process.env.XDG_DATA_HOME, await temporaryFolder()];
  process.env.XDG_DATA_HOME = folder;
  onTestFinished(() => {
    if (before === undefined) delete process.env.XDG_DATA_HOME;
    else process.env.XDG_DATA_HOME = before;
  });
  return folder;
}

async function notes(home: string): Promise<string[]> {
  return readdir(join(home, "hivemind-sqlcipher")).catch(() => []);
}

function many(count: number): Client[] {
  return Array.from({ length: count }, (_, index) =>
    newClient({ client_id: index + 1, api_key: `key-${index + 1}`, name: `client ${index + 1}` }),
  );
}

test("clients go round through every database and come back as they were, the gaps filled with revoked rows", async () => {
  const home = await ownDataHome();
  const server = await RedisServer.start();
  const port = (await startCluster())[0]?.port ?? 0;
  const way: Endpoint[] = [
    end(sqlite, { subfolder: join(home, "first") }),
    end(redis, { port: server.port }),
    end(json, { subfolder: join(home, "second") }),
    end(redis, { port, cluster_hash_tag: "hub" }),
    end(sqlcipher, { db_path: join(home, "third.db"), password: "it's" }),
    end(redis, { port, index_prefix: "untagged" }),
    end(json, { subfolder: join(home, "fourth"), password: "sixteen letters!" }),
    end(sqlite, { subfolder: join(home, "fifth") }),
  ];
  const [first] = way;
  await fill(first as Endpoint, clients);
  const expected = [...clients, ...[5, 6, 7, 8].map(revoked)]
    .sort((a, b) => a.client_id - b.client_id)
    .map(fingerprint);
  for (const [index, to] of way.entries()) {
    const from = way[index - 1];
    if (from === undefined) continue;
    const migration = await copyDatabase({ from, to });
    expect(migration).toMatchObject({
      clients: { active: 5, revoked: index === 1 ? 1 : 5 },
      copied: index === 1 ? 6 : 10,
      filledGaps: index === 1 ? 4 : 0,
      verified: true,
      resumed: false,
    });
    expect((await contents(to)).map(fingerprint)).toEqual(expected);
  }
  expect(await notes(home)).toEqual([]);
});

describe("a target that is not empty", () => {
  async function ends(inTarget: readonly Client[]): Promise<{ from: Endpoint; to: Endpoint }> {
    const home = await ownDataHome();
    const from = end(json, { subfolder: join(home, "from") });
    const to = end(sqlite, { subfolder: join(home, "to") });
    await fill(from, clients);
    await fill(to, inTarget);
    return { from, to };
  }

  test("is refused, and left as it is", async () => {
    const inTarget = [newClient({ client_id: 20, api_key: "theirs" })];
    const { from, to } = await ends(inTarget);
    await expect(copyDatabase({ from, to })).rejects.toMatchObject({
      kind: "refused",
      hint: expect.stringContaining("--merge"),
    });
    expect((await contents(to)).map(fingerprint)).toEqual(inTarget.map(fingerprint));
  });

  test("gets what it lacks with merge; who is revoked in it stays so, and is named", async () => {
    const [first] = clients;
    const inTarget = [
      { ...(first as Client), last_seen: 5 },
      revoked(2),
      newClient({ client_id: 20, api_key: "theirs" }),
    ];
    const { from, to } = await ends(inTarget);
    const plan = await copyDatabase({ from, to, merge: true, dryRun: true });
    expect(plan).toMatchObject({ keptRevoked: [2], filledGaps: 13, dryRun: true });
    expect(await contents(to)).toHaveLength(3);
    const migration = await copyDatabase({ from, to, merge: true });
    expect(migration).toMatchObject({
      ...{ copied: 4, unchanged: 1, keptRevoked: [2], filledGaps: 13, verified: true },
    });
    const after = await contents(to);
    expect(after.map((client) => client.client_id)).toEqual(
      Array.from({ length: 20 }, (_, index) => index + 1),
    );
    expect(after[0]?.last_seen).toBe(5);
    expect(isRevoked(after[1] as Client)).toBe(true);
    expect(after[19]).toMatchObject({ api_key: "theirs" });
  });

  test.each([
    ["a client differs under the same id", newClient({ client_id: 3, api_key: "other" }), "3"],
    ["another id has the same key", newClient({ client_id: 20, api_key: "key-9" }), "9"],
    ["it admits whom the source revoked", newClient({ client_id: 10, api_key: "ten" }), "10"],
  ])("is refused with merge if %s", async (_name, client, named) => {
    const { from, to } = await ends([client]);
    await expect(copyDatabase({ from, to, merge: true })).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining(`differ in clients ${named},`),
    });
    expect((await contents(to)).map(fingerprint)).toEqual([fingerprint(client)]);
  });
});

test("a client that a plugin returns in another form is refused before anything is written", async () => {
  const home = await ownDataHome();
  const to = end(json, { subfolder: join(home, "to") });
  const [first, second] = many(2);
  /** A plugin that keeps SQLite's 0 and 1. */
  class Numeric extends BaseDatabase {
    async addItem(): Promise<void> {}
    async searchByValue(): Promise<Client[]> {
      return [];
    }
    async size(): Promise<number> {
      return 2;
    }
    async *[Symbol.asyncIterator](): AsyncGenerator<Client> {
      yield* [first, { ...second, is_admin: 0 }] as Client[];
    }
  }
  const options = { from: "numeric", to, merge: true, note: undefined, report: () => undefined };
  await expect(checkSource(new Numeric(), options)).rejects.toMatchObject({
    kind: "refused",
    message: expect.stringMatching(/^client 2 is not valid: is_admin: /),
  });
});

test("a JSON store with a client under another client's key keeps both", async () => {
  const home = await ownDataHome();
  const [from, to] = ["from", "to"].map((name) => end(json, { subfolder: join(home, name) }));
  const [old, changed] = [3, 12].map((id) => newClient({ client_id: id, api_key: `key-${id}` }));
  await fill(from as Endpoint, [old as Client]);
  await fill(to as Endpoint, []);
  // The file after an operator has changed the client_id of record 3 to 12.
  const path = join(home, "to", "clients.json");
  await writeFile(path, JSON.stringify({ 3: changed }));
  expect(await contents(to as Endpoint)).toEqual([changed]);
  await copyDatabase({ from: from as Endpoint, to: to as Endpoint, merge: true });
  const found = (await contents(to as Endpoint)).filter((client) => !isRevoked(client));
  expect(found).toEqual([old, changed]);
  // A hub of HiveMind 5 finds a client only under its own id.
  const records = Object.entries(
    JSON.parse(await readFile(path, "utf8")) as Record<string, Client>,
  );
  expect(records).toHaveLength(12);
  for (const [key, { client_id: id }] of records) expect(key).toBe(String(id));
});

test.skipIf(process.geteuid?.() !== 0).each([
  [json, (subfolder: string) => ({ subfolder }), ["clients.json", "clients.schema_version"]],
  [sqlite, (subfolder: string) => ({ subfolder }), ["clients.db"]],
  [sqlcipher, (at: string) => ({ db_path: join(at, "a.db"), password: "it's" }), ["a.db"]],
] as const)(
  "root leaves a new database to the user in whose folder it is, %s",
  async (name, settings, files) => {
    const [home, user] = [await temporaryFolder(), 65534];
    await chown(home, user, user);
    const folder = join(home, "missing", "data");
    await fill(end(name, settings(folder)), clients);
    {
      await using database = await DatabaseFactory.create(name, settings(folder));
      await database.migrate(0);
    }
    for (const path of [dirname(folder), folder, ...files.map((file) => join(folder, file))]) {
      const { uid, gid, mode } = await stat(path);
      expect([path, uid, gid, mode & 0o077]).toEqual([path, user, user, 0]);
    }
  },
);

test("a migration that ends midway is gone on with by the next, which keeps whom the target has revoked since", async () => {
  const home = await ownDataHome();
  const from = end(sqlite, { subfolder: join(home, "from") });
  const to = end(sqlite, { subfolder: join(home, "to") });
  await fill(from, many(1_700));
  const controller = new AbortController();
  const stopped = copyDatabase({
    ...{ from, to, signal: controller.signal },
    onProgress: ({ phase, done }) => {
      if (phase === "copying" && done >= 1_000) controller.abort();
    },
  });
  await expect(stopped).rejects.toMatchObject({ kind: "interrupted" });
  expect(await notes(home)).toHaveLength(1);
  expect(await contents(to)).toHaveLength(1_000);
  {
    await using target = await DatabaseFactory.create(to.name, to.config);
    await target.deleteItem(7);
  }
  const migration = await copyDatabase({ from, to });
  expect(migration).toMatchObject({
    ...{ resumed: true, copied: 700, unchanged: 999, keptRevoked: [7], verified: true },
  });
  expect(await contents(to)).toHaveLength(1_700);
  expect(await notes(home)).toEqual([]);
});

describe("a migration that ended before all was compared is gone on with, and the target", () => {
  async function begun(): Promise<{ home: string; from: Endpoint; to: Endpoint }> {
    const home = await ownDataHome();
    const from = end(json, { subfolder: join(home, "from") });
    const to = end(sqlite, { subfolder: join(home, "to") });
    await fill(from, clients);
    const stopped = copyDatabase({
      ...{ from, to },
      onProgress: ({ phase }) => {
        if (phase === "comparing") throw new Error("enough");
      },
    });
    await expect(stopped).rejects.toThrow("enough");
    expect(await notes(home)).toHaveLength(1);
    expect(await contents(to)).toHaveLength(10);
    return { home, from, to };
  }

  /** As a hub on this database would. */
  async function change(
    { name, config }: Endpoint,
    id: number,
    to: Partial<Client>,
  ): Promise<void> {
    await using database = await DatabaseFactory.create(name, config);
    const client = await database.getClientById(id);
    await database.updateItem({ ...(client as Client), ...to });
  }

  test("is as it was left: only the comparison is missing", async () => {
    const { home, from, to } = await begun();
    const migration = await copyDatabase({ from, to });
    expect(migration).toMatchObject({
      ...{ resumed: true, copied: 0, unchanged: 6, filledGaps: 0, verified: true },
    });
    expect(await notes(home)).toEqual([]);
  });

  test("has heard of a client since: that stays", async () => {
    const { from, to } = await begun();
    await change(to, 2, { last_seen: 1_900_000_000 });
    const migration = await copyDatabase({ from, to });
    expect(migration).toMatchObject({ copied: 0, unchanged: 6, verified: true });
    expect((await contents(to))[1]?.last_seen).toBe(1_900_000_000);
  });

  test("has changed a client since: refused with what to do, and nothing is written", async () => {
    const { home, from, to } = await begun();
    await change(from, 1, { is_admin: true });
    await change(to, 1, { is_admin: false, api_key: "another since" });
    await change(to, 2, { last_seen: 1_900_000_000 });
    const before = (await contents(to)).map(serializeClient);
    const [note = ""] = await notes(home);
    for (const dryRun of [true, false]) {
      await expect(copyDatabase({ from, to, dryRun })).rejects.toMatchObject({
        kind: "refused",
        message: expect.stringContaining("clients 1: one side has changed"),
        hint: expect.stringContaining(`Remove ${join(home, "hivemind-sqlcipher", note)}`),
      });
    }
    expect((await contents(to)).map(serializeClient)).toEqual(before);
    expect(await notes(home)).toEqual([note]);

    await rm(join(home, "to"), { recursive: true });
    expect(await copyDatabase({ from, to })).toMatchObject({
      resumed: true,
      copied: 6,
      verified: true,
    });
    expect((await contents(to))[0]).toMatchObject({ is_admin: true });
  });

  test("has clients of its own by now: they are asked about with --merge, before anything is written", async () => {
    const { from, to } = await begun();
    await fill(to, [newClient({ client_id: 12, api_key: "theirs" })]);
    await expect(copyDatabase({ from, to })).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("holds clients that the source lacks: 12"),
      hint: expect.stringContaining("--merge"),
    });
    expect(await contents(to)).toHaveLength(11);
    expect(await copyDatabase({ from, to, merge: true })).toMatchObject({
      ...{ copied: 0, unchanged: 6, filledGaps: 1, verified: true },
    });
  });
});

test("a cluster's node is killed in mid-migration: nothing is lost, and the next goes on until every record is equal", {
  timeout: 120_000,
}, async () => {
  const home = await ownDataHome();
  const nodes = await startCluster();
  const [node, victim] = nodes;
  const from = end(sqlcipher, { db_path: join(home, "clients.db"), password: "it's" });
  const to = end(redis, { port: node?.port ?? 0, retry_delay: 0.05 });
  await fill(from, many(3_000));
  const killer = () => {
    unsubscribe(stepChannelName, killer);
    victim?.killNow();
  };
  subscribe(stepChannelName, killer);
  await expect(copyDatabase({ from, to })).rejects.toMatchObject({
    kind: "io",
    message: expect.stringMatching(/^redis:.*cluster is down|cannot use Redis/),
  });
  expect(await notes(home)).toHaveLength(1);

  await victim?.resume();
  for (const each of nodes) await clusterIsUp(each);
  const migration = await copyDatabase({ from, to });
  expect(migration).toMatchObject({ resumed: true, verified: true });
  expect(migration.copied + migration.unchanged).toBe(3_000);
  expect(migration.unchanged).toBeGreaterThanOrEqual(200);
  expect((await contents(to)).map(fingerprint)).toEqual(many(3_000).map(fingerprint));
});

test("the library's migrate holds the lock of each store, unless its caller does", async () => {
  const home = await ownDataHome();
  const from = end(sqlite, { subfolder: join(home, "from") });
  // The directory is created, and so has no lock file before.
  const to = end(sqlcipher, { db_path: join(home, "to", "clients.db"), password: "it's" });
  await fill(from, many(3));
  const store = join(home, "from", "clients.db");
  const attempts: Promise<unknown>[] = [];
  const onProgress = () => {
    attempts.push(acquireLock(store).catch((error: StoreError) => error.kind));
  };
  expect(await migrate({ from, to, onProgress })).toMatchObject({ verified: true });
  expect(new Set(await Promise.all(attempts))).toEqual(new Set(["inUse"]));

  await using lock = await acquireLock(store);
  const again = { from, to, merge: true };
  await expect(migrate(again)).rejects.toMatchObject({ kind: "inUse" });
  expect(await migrate({ ...again, locks: [lock] })).toMatchObject({ unchanged: 3 });
});

test("a difference found in the comparison is said, and nothing is taken for done", async () => {
  const home = await ownDataHome();
  const from = end(json, { subfolder: join(home, "from") });
  const to = end(sqlite, { subfolder: join(home, "to") });
  await fill(from, clients);
  // Somebody else at work on the target, at the worst time.
  const stranger = () => {
    const insert = "INSERT INTO clients (client_id, api_key) VALUES (30, 'stranger')";
    execFileSync("sqlite3", [join(home, "to", "clients.db"), insert]);
  };
  subscribe(stepChannelName, stranger);
  onTestFinished(() => void unsubscribe(stepChannelName, stranger));
  await expect(copyDatabase({ from, to })).rejects.toMatchObject({
    kind: "failed",
    message: expect.stringContaining("the target has 11 records; 10 were expected"),
  });
  expect(await notes(home)).toHaveLength(1);
});

test.each([
  [json, sqlite, "from"],
  [sqlite, json, "to"],
] as const)(
  "from %s to %s, the JSON file that a hub changes during the copy is compared",
  async (...names) => {
    const home = await ownDataHome();
    const [source, target, side] = names;
    const from = end(source, { subfolder: join(home, "from") });
    const to = end(target, { subfolder: join(home, "to") });
    await fill(from, many(3));
    const path = join(home, side, "clients.json");
    const revokeFirst = () => {
      const records = JSON.parse(readFileSync(path, "utf8"));
      records[1].api_key = "revoked";
      writeFileSync(path, JSON.stringify(records));
    };
    subscribe(stepChannelName, revokeFirst);
    onTestFinished(() => void unsubscribe(stepChannelName, revokeFirst));
    await expect(copyDatabase({ from, to })).rejects.toMatchObject({
      kind: "failed",
      message: expect.stringContaining("clients 1 differ from the source"),
    });
  },
);

describe("every record is compared with digests", () => {
  const places: [string, string, () => Promise<JsonObject>][] = [
    ["plain SQLite", sqlite, async () => ({ subfolder: await temporaryFolder() })],
    ["Redis", redis, async () => ({ port: (await RedisServer.start()).port })],
    [
      "a cluster with a hash tag",
      redis,
      async () => ({ port: (await startCluster())[0]?.port ?? 0, cluster_hash_tag: "hub" }),
    ],
    ["a cluster", redis, async () => ({ port: (await startCluster())[0]?.port ?? 0 })],
  ];

  test.each(places)("of what was added to %s", async (_name, plugin, settings) => {
    const config = await settings();
    await using database = await DatabaseFactory.create(plugin, config);
    const isUnchanged = await database.addVerifiable?.(clients);
    const others = await database.addVerifiable?.([newClient({ client_id: 20, api_key: "20" })]);
    const reading = await database.readVerifiable?.();
    const read = (await Array.fromAsync(reading?.batches ?? [])).flat();
    expect(read).toHaveLength(clients.length + 1);
    expect(await isUnchanged?.()).toBe(true);
    expect(await reading?.isUnchanged()).toBe(true);
    {
      await using other = await DatabaseFactory.create(plugin, config);
      const client = await other.getClientById(2);
      await other.updateItem({ ...(client as Client), last_seen: 1_900_000_000 });
    }
    expect(await isUnchanged?.()).toBe(false);
    expect(await others?.()).toBe(true);
    expect(await reading?.isUnchanged()).toBe(false);
    const again = await database.readVerifiable?.();
    await Array.fromAsync(again?.batches ?? []);
    expect(await again?.isUnchanged()).toBe(true);
    await database.addItem(newClient({ client_id: 21, api_key: "21" }));
    expect(await again?.isUnchanged()).toBe(false);
  });

  test("of many clients: all are read back, and not the source", async () => {
    const home = await ownDataHome();
    const server = await RedisServer.start();
    const from = end(sqlcipher, { db_path: join(home, "from.db"), password: "it's" });
    const to = end(redis, { port: server.port });
    const back = end(sqlite, { subfolder: join(home, "back") });
    await fill(from, many(2_300));
    const reads = () =>
      Number(/cmdstat_mget:calls=(\d+)/.exec(server.cli("INFO", "commandstats"))?.[1]);
    const seen: number[] = [];
    const onProgress = ({ phase, done }: { phase: string; done: number }) => {
      if (phase === "comparing") seen.push(done);
    };
    expect(await copyDatabase({ from, to, onProgress })).toMatchObject({
      copied: 2_300,
      verified: true,
    });
    expect(seen).toEqual([...Array.from({ length: 12 }, (_, index) => index * 200), 2_300]);
    expect(reads()).toBe(23);
    expect(await copyDatabase({ from: to, to: back })).toMatchObject({
      copied: 2_300,
      verified: true,
    });
    expect((await contents(back)).map(fingerprint)).toEqual(many(2_300).map(fingerprint));
  });

  async function interfered(
    change: (redisPort: RedisServer, path: string) => void,
    isBack: boolean,
  ) {
    const home = await ownDataHome();
    const server = await RedisServer.start();
    const plain = end(sqlite, { db_path: join(home, "clients.db") });
    const other = end(redis, { port: server.port });
    const [from, to] = isBack ? [other, plain] : [plain, other];
    await fill(from, many(1_100));
    const stranger = () => {
      unsubscribe(stepChannelName, stranger);
      change(server, join(home, "clients.db"));
    };
    subscribe(stepChannelName, stranger);
    await expect(copyDatabase({ from, to })).rejects.toMatchObject({
      kind: "failed",
      message: expect.stringMatching(/^clients 3 differ/),
    });
    expect(await notes(home)).toHaveLength(1);
  }
  const inRedis = (server: RedisServer) => {
    const text = server.cli("GET", "client:client:3").trim();
    server.cli("SET", "client:client:3", text.replace("client 3", "stranger"));
  };
  const inSqlite = (_server: RedisServer, path: string) => {
    execFileSync("sqlite3", [path, "UPDATE clients SET name = 'stranger' WHERE client_id = 3"]);
  };

  test.each([
    ["the target, Redis", inRedis, false],
    ["the target, SQLite", inSqlite, true],
    ["the source, SQLite", inSqlite, false],
    ["the source, Redis", inRedis, true],
  ])("and a change in %s since is found", (_name, change, isBack) => interfered(change, isBack));
});

test("an administrator that was revoked in Redis keeps no permission in another database", async () => {
  const home = await ownDataHome();
  const from = end(redis, { port: (await RedisServer.start()).port });
  const admin = newClient({ client_id: 1, api_key: "admin", is_admin: true });
  await fill(from, [admin, newClient({ client_id: 2, api_key: "key" })]);
  await using origin = await DatabaseFactory.create(redis, from.config);
  await origin.deleteItem(1);
  expect((await origin.getClientById(1))?.is_admin).toBe(true);
  for (const name of [sqlite, json]) {
    const to = end(name, { subfolder: home, name: "new" });
    expect(await copyDatabase({ from, to })).toMatchObject({ copied: 2, verified: true });
    expect((await contents(to))[0]).toEqual(revoked(1));
    const again = await copyDatabase({ from, to, merge: true });
    expect(again).toMatchObject({ unchanged: 2 });
  }
  await using copy = await createTable(await Connection.open(":memory:", { mode: "create" }));
  await copyClients(origin, copy, new AbortController().signal);
  expect(await copy.getClientById(1)).toEqual(revoked(1));
});

test("a client added to the source between check and copy is not revoked as a gap", async () => {
  const home = await ownDataHome();
  const from = end(sqlite, { db_path: join(home, "from.db") });
  const to = end(json, { subfolder: join(home, "to") });
  const [one, two, five, four] = [1, 2, 5, 4].map((id) =>
    newClient({ client_id: id, api_key: `key ${id}` }),
  ) as [Client, Client, Client, Client];
  await fill(from, [one, two, five]);
  await fill(to, [one]);
  let isAdded = false;
  const add = `INSERT INTO clients (client_id, api_key) VALUES (${four.client_id}, '${four.api_key}')`;
  const onProgress = ({ phase, done, total }: { phase: string; done: number; total: number }) => {
    if (phase !== "checking" || done < total || isAdded) return;
    isAdded = true;
    execFileSync("sqlite3", [join(home, "from.db"), add]);
  };
  await expect(copyDatabase({ from, to, merge: true, onProgress })).rejects.toMatchObject({
    kind: "failed",
  });
  expect((await contents(to)).find((client) => client.client_id === 4)).toMatchObject({
    api_key: "key 4",
  });
  expect(await copyDatabase({ from, to, merge: true })).toMatchObject({ keptRevoked: [] });
});

test.each([
  ["a null", null],
  ["another key", "fedcba9876543210"],
])("a crypto key that %s in metadata would replace is a difference", async (_what, inMetadata) => {
  const home = await ownDataHome();
  const from = end(json, { subfolder: join(home, "from") });
  const to = end(sqlite, { db_path: join(home, "to.db") });
  execFileSync("sqlite3", [
    join(home, "to.db"),
    `CREATE TABLE clients (client_id INTEGER PRIMARY KEY, api_key VARCHAR(255), name VARCHAR(255),
      description VARCHAR(255), is_admin BOOLEAN, last_seen REAL, allowed_types TEXT, password VARCHAR(255),
      can_broadcast BOOLEAN, can_escalate BOOLEAN, can_propagate BOOLEAN, metadata TEXT);
    PRAGMA user_version = 2`,
  ]);
  const client = newClient({
    ...{ client_id: 1, api_key: "key 1", crypto_key: "0123456789abcdef" },
    metadata: { crypto_key: inMetadata },
  });
  await fill(from, [client]);
  await expect(copyDatabase({ from, to })).rejects.toMatchObject({
    kind: "failed",
    message: expect.stringMatching(/^clients 1 differ/),
  });
});

describe("bad input: said in words, and nothing changed", () => {
  async function expectRefused(
    from: Endpoint,
    to: Endpoint,
    kind: string,
    words: RegExp,
  ): Promise<void> {
    const home = process.env.XDG_DATA_HOME ?? "";
    await expect(copyDatabase({ from, to })).rejects.toMatchObject({
      kind,
      message: expect.stringMatching(words),
    });
    expect(await notes(home)).toEqual([]);
  }

  async function source(): Promise<{ home: string; from: Endpoint }> {
    const home = await ownDataHome();
    const from = end(json, { subfolder: join(home, "from") });
    await fill(from, clients);
    return { home, from };
  }

  test("Redis is down", async () => {
    const { from } = await source();
    const server = await RedisServer.start();
    await server.kill();
    const to = end(redis, { port: server.port, retry_attempts: 1, retry_delay: 0.01 });
    await expectRefused(from, to, "io", /^cannot use Redis at redis:\/\/.*ECONNREFUSED/);
  });

  test("Redis has another password, or wants one, or its user may not write", async () => {
    const { from } = await source();
    const server = await RedisServer.start(["--requirepass", "right"]);
    const { port } = server;
    await expectRefused(
      from,
      end(redis, { port, password: "wrong" }),
      "wrongPassphrase",
      /wrong password or unknown user/,
    );
    await expectRefused(from, end(redis, { port }), "passphraseUnavailable", /requires a password/);
    server.cli(
      "-a",
      "right",
      "ACL",
      "SETUSER",
      "reader",
      "on",
      ">r",
      "~*",
      "+@read",
      "+@connection",
      "+info",
    );
    await expect(
      copyDatabase({ from, to: end(redis, { port, username: "reader", password: "r" }) }),
    ).rejects.toMatchObject({ kind: "io", message: expect.stringContaining("no permission") });
    expect(server.cli("-a", "right", "DBSIZE")).toBe("0");
    await copyDatabase({ from, to: end(redis, { port, password: "right" }) });
    expect(server.cli("-a", "right", "GET", "client:count")).toBe("10");
  });

  test("a replica cannot be written", async () => {
    const { from } = await source();
    const master = await RedisServer.start(["--repl-diskless-sync-delay", "0"]);
    const replica = await RedisServer.start(["--replicaof", `127.0.0.1 ${master.port}`]);
    await replica.answers("INFO replication", "master_link_status:up");
    await expect(
      copyDatabase({ from, to: end(redis, { port: replica.port }) }),
    ).rejects.toMatchObject({
      kind: "io",
      message: expect.stringContaining("is a read-only replica"),
    });
    expect(master.cli("DBSIZE")).toBe("0");
  });

  test("a cluster has lost its majority", async () => {
    const { from } = await source();
    const [node, second, third] = await startCluster();
    await second?.kill();
    await third?.kill();
    await node?.answers("CLUSTER INFO", "cluster_state:fail");
    const to = end(redis, { port: node?.port ?? 0, retry_attempts: 1, retry_delay: 0.01 });
    await expectRefused(from, to, "io", /cluster is down|cannot use Redis/);
  });

  test("a cluster's node has no slots yet", async () => {
    const { from } = await source();
    const { port } = await RedisServer.start(["--cluster-enabled", "yes"]);
    await expectRefused(from, end(redis, { port }), "io", /the cluster is down/);
  });

  test.each([
    ["is not JSON", '{"1": {"client_id": 1,', /does not parse: .* at character 22$/],
    ["is a list", "[]", /not a JSON object/],
    ["holds something that is no record", '{"1": 5}', /"1" is not a client's record/],
    [
      "holds a record without a key",
      '{"1": {"client_id": 1, "name": "secret-name"}}',
      /"1": not a client's record: api_key/,
    ],
    [
      "has two records with one id",
      '{"1": {"client_id": 1, "api_key": "a"}, "2": {"client_id": 1, "api_key": "b"}}',
      /has client 1 twice, under "1" and "2"/,
    ],
  ])("a JSON store %s", async (_name, text, words) => {
    const { home, from } = await source();
    const path = join(home, "from", "clients.json");
    await writeFile(path, text);
    const to = end(sqlite, { subfolder: join(home, "to") });
    await expectRefused(from, to, "corrupted", words);
    expect(await readFile(path, "utf8")).toBe(text);
    expect(existsSync(join(home, "to"))).toBe(false);
  });

  test("a Redis store has a record under another's id, or one that is no JSON", async () => {
    const home = await ownDataHome();
    const server = await RedisServer.start();
    const from = end(redis, { port: server.port });
    const to = end(sqlite, { subfolder: join(home, "to") });
    server.cli("SET", "client:client:7", '{"client_id": 1, "api_key": "x"}');
    await expectRefused(from, to, "corrupted", /client:client:7 holds the record of another/);
    server.cli("SET", "client:client:7", "{");
    await expectRefused(from, to, "corrupted", /client:client:7 does not parse/);
    server.cli("DEL", "client:client:7");
    server.cli("SET", "client:client:9007199254740993", "{}");
    await expectRefused(from, to, "refused", /client:client:9007199254740993 has an id beyond/);
  });

  test("an id in SQLite would be rounded", async () => {
    const home = await ownDataHome();
    const from = end(sqlite, { subfolder: join(home, "from") });
    await fill(from, many(2));
    const insert = "INSERT INTO clients (client_id, api_key) VALUES (9007199254740993, 'far')";
    execFileSync("sqlite3", [join(home, "from", "clients.db"), insert]);
    const server = await RedisServer.start();
    await expectRefused(from, end(redis, { port: server.port }), "refused", /9007199254740993/);
    expect(server.cli("DBSIZE")).toBe("0");
  });

  test("Redis has a list where the index of a name belongs", async () => {
    const home = await ownDataHome();
    const from = end(sqlite, { subfolder: join(home, "from") });
    await fill(from, many(2));
    const server = await RedisServer.start();
    server.cli("LPUSH", "client:name:client 2", "x");
    await expect(
      copyDatabase({ from, to: end(redis, { port: server.port }) }),
    ).rejects.toMatchObject({
      kind: "corrupted",
      message: expect.stringContaining("holds another kind of value"),
    });
    expect(server.cli("DBSIZE")).toBe("1");
  });

  test("a Redis server counts clients that it does not have", async () => {
    const home = await ownDataHome();
    const server = await RedisServer.start();
    const from = end(sqlite, { subfolder: join(home, "from") });
    await fill(from, many(2));
    const to = end(redis, { port: server.port });
    server.cli("SET", "client:count", "5");
    await expectRefused(from, to, "refused", /counts 5 records, but has 0/);
    expect(server.cli("KEYS", "*").trim()).toBe("client:count");
  });

  test("there is no source, its setting is misspelt, or nobody serves the module", async () => {
    const home = await ownDataHome();
    const to = end(sqlite, { subfolder: join(home, "to") });
    const nowhere = end(json, { subfolder: join(home, "nowhere") });
    await expectRefused(nowhere, to, "notFound", /no such store: .*nowhere/);
    await expectRefused(end(json, { folder: "x" }), to, "usage", /it has no setting "folder"/);
    await expectRefused(end("my-db-plugin", {}), to, "usage", /no database plugin "my-db-plugin"/);
    await expectRefused(to, to, "usage", /is source and target at the same time/);
    expect(await readdir(home)).toEqual([]);
  });

  test.each([
    ["plain", sqlite, "-wal", {}],
    ["encrypted", sqlcipher, "-journal", { password: "it's" }],
  ])(
    "what SQLite left of a store, where a new %s one is to be",
    async (_name, plugin, suffix, password) => {
      const { home, from } = await source();
      const to = end(plugin, { db_path: join(home, "new.db"), ...password });
      const stray = join(home, `new.db${suffix}`);
      await writeFile(stray, "pages of another store");
      await expect(DatabaseFactory.create(plugin, to.config)).rejects.toMatchObject({
        kind: "refused",
        message: expect.stringContaining(`${stray} is left from a store that no longer exists`),
        hint: expect.stringContaining("mv "),
      });
      await expect(copyDatabase({ from, to })).rejects.toMatchObject({ kind: "refused" });
      expect(await readFile(stray, "utf8")).toBe("pages of another store");
      expect(existsSync(join(home, "new.db"))).toBe(false);

      await rename(stray, `${stray}.old`);
      expect(await copyDatabase({ from, to })).toMatchObject({ copied: 6, verified: true });
    },
  );

  test("an encrypted JSON store and its password do not fit", async () => {
    const home = await ownDataHome();
    const place = { subfolder: join(home, "from") };
    await fill(end(json, { ...place, password: "sixteen letters!" }), clients);
    const to = end(sqlite, { subfolder: join(home, "to") });
    const wrong = end(json, { ...place, password: "sixteen_letters!" });
    await expectRefused(wrong, to, "wrongPassphrase", /wrong password, or the file is damaged/);
    const short = end(json, { ...place, password: "short" });
    await expectRefused(short, to, "usage", /exactly 16 characters/);
    const odd = end(json, { ...place, password: "sixteen létters!" });
    await expectRefused(odd, to, "usage", /must have 16, 24 or 32 bytes/);
  });
});
