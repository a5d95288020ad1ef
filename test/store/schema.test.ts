import { describe, expect, onTestFinished, test } from "vitest";
import { Connection } from "../../src/store/connection.js";
import {
  createSchema,
  migrateSchema,
  readSchema,
  readSchemaVersion,
} from "../../src/store/schema.js";
import { copyOfFixture } from "./temporary.js";

async function open(path: string): Promise<Connection> {
  const connection = await Connection.open(path, { mode: "create" });
  onTestFinished(() => connection.close());
  return connection;
}

function migrated(connection: Connection): Promise<unknown[]> {
  return connection.all(
    "SELECT client_id AS id, intent_blacklist AS i, skill_blacklist AS s, message_blacklist AS m, metadata FROM clients",
  );
}

const emptied = { i: null, s: null, m: null };

describe("the migration to schema 2", () => {
  test("of schema 0 moves blacklists into metadata, skips malformed ones, and drops message blacklists", async () => {
    const connection = await open(await copyOfFixture("plain-schema0.db"));
    await migrateSchema(connection);
    expect(await migrated(connection)).toEqual([
      { id: 1, ...emptied, metadata: "{}" },
      {
        id: 2,
        ...emptied,
        metadata:
          '{"intent_blacklist": ["weather:forecast"], "skill_blacklist": ["skill-ovos-shutdown", "skill-volume"]}',
      },
      { id: 3, ...emptied, metadata: "{}" },
      { id: 4, ...emptied, metadata: "{}" },
      { id: 5, ...emptied, metadata: '{"skill_blacklist": ["skill-a"]}' },
    ]);
    expect(await readSchemaVersion(connection)).toBe(2);
    const { columns } = await readSchema(connection);
    expect(columns.has("metadata")).toBe(true);
    expect(await connection.all("PRAGMA index_list(clients)")).toHaveLength(1);
  });

  test("of schema 1 keeps what metadata has already", async () => {
    const connection = await open(await copyOfFixture("plain-schema1.db"));
    await migrateSchema(connection);
    expect((await migrated(connection))[1]).toEqual({
      id: 2,
      ...emptied,
      metadata:
        '{"site": "lisboa", "skill_blacklist": ["kept-as-is"], "intent_blacklist": ["weather:forecast"]}',
    });
    expect((await migrated(connection)).slice(2)).toEqual([
      { id: 3, ...emptied, metadata: "{}" },
      { id: 4, ...emptied, metadata: "{}" },
      { id: 5, ...emptied, metadata: '{"skill_blacklist": ["skill-a"]}' },
    ]);
  });

  test.each(["plain-schema0.db", "plain-schema1.db"])(
    "of %s twice is the same as once",
    async (name) => {
      const connection = await open(await copyOfFixture(name));
      await migrateSchema(connection);
      const once = await connection.all("SELECT * FROM clients");
      await connection.run("PRAGMA user_version = 1");
      await migrateSchema(connection);
      expect(await connection.all("SELECT * FROM clients")).toEqual(once);
    },
  );

  test("leaves schema 2 as it is, and a newer one alone", async () => {
    for (const [name, version] of [
      ["plain-schema2.db", 2],
      ["plain-schema99-from-the-future.db", 99],
    ] as const) {
      const connection = await open(await copyOfFixture(name));
      const before = await connection.all("SELECT * FROM clients");
      const migration = migrateSchema(connection);
      await (version === 2
        ? migration
        : expect(migration).rejects.toMatchObject({ kind: "newerVersion" }));
      expect(await connection.all("SELECT * FROM clients")).toEqual(before);
      expect(await readSchemaVersion(connection)).toBe(version);
    }
  });

  test("keeps bytes of metadata that needs no change, and ids that JavaScript would round", async () => {
    const connection = await open(":memory:");
    await createSchema(connection, 0);
    await connection.exec(`INSERT INTO clients (client_id, api_key, metadata, skill_blacklist) VALUES
      (9007199254740993, 'a', '{ "n":1.50, "é": 1 }', '[]'),
      (9223372036854775807, 'b', '{"big": 9007199254740993, "10": 1, "2": 1e+16}', '["é"]')`);
    await migrateSchema(connection);
    expect(
      await connection.all("SELECT CAST(client_id AS TEXT) AS id, metadata FROM clients"),
    ).toEqual([
      { id: "9007199254740993", metadata: '{ "n":1.50, "é": 1 }' },
      {
        id: "9223372036854775807",
        metadata: '{"big": 9007199254740993, "10": 1, "2": 1e+16, "skill_blacklist": ["\\u00e9"]}',
      },
    ]);
  });

  test("reaches rows of every page, in one transaction", async () => {
    const connection = await open(":memory:");
    await createSchema(connection, 0);
    await connection.run(`WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 1500)
      INSERT INTO clients (client_id, api_key, skill_blacklist) SELECT id, 'k' || id, '["s"]' FROM n`);
    await expect(
      connection.transaction(async () => {
        await migrateSchema(connection);
        throw new Error("undo");
      }),
    ).rejects.toThrow("undo");
    const left = "SELECT count(*) AS n FROM clients WHERE skill_blacklist IS NOT NULL";
    expect(await connection.get(left)).toEqual({ n: 1_500 });
    expect(await readSchemaVersion(connection)).toBe(0);
    await migrateSchema(connection);
    expect(await connection.get(left)).toEqual({ n: 0 });
  });
});

describe("the shape of the table", () => {
  test("is asked of the table", async () => {
    const released = await readSchema(await open(await copyOfFixture("plain-schema0.db")));
    expect(released.version).toBe(0);
    expect(released.columns.has("metadata")).toBe(false);
    expect(released.columns.has("crypto_key")).toBe(true);
  });

  test("must be HiveMind's", async () => {
    const connection = await open(":memory:");
    await expect(readSchema(connection)).rejects.toMatchObject({ kind: "notFound" });
    await connection.run("CREATE TABLE clients (client_id INTEGER PRIMARY KEY, api_key)");
    await expect(readSchema(connection)).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringContaining("allowed_types"),
    });
  });
});
