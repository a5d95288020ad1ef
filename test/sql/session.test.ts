import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { newClient, revoked } from "../../src/client/client.js";
import { JsonNumber } from "../../src/client/json.js";
import { formatRowsAsCsv, formatRowsAsJson } from "../../src/sql/results.js";
import { SqlSession } from "../../src/sql/session.js";
import { parseStatements, type Statement } from "../../src/sql/statements.js";
import { ClientStore } from "../../src/store/client-store.js";
import { temporaryFolder } from "../store/temporary.js";

async function makeStore(): Promise<ClientStore> {
  const store = await ClientStore.create(join(await temporaryFolder(), "clients.db"), "passphrase");
  await store.addItems([
    newClient({ client_id: 1, api_key: "k1", name: "kitchen", last_seen: 1763912345.678901 }),
    newClient({ client_id: 2, api_key: "k2", name: "" }),
    revoked(3),
  ]);
  return store;
}

const one = (sql: string) => parseStatements(sql)[0] as Statement;
const n = (text: string) => new JsonNumber(text);

async function bytesBelow(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of await readdir(folder)) {
    found[name] = createHash("sha256")
      .update(await readFile(join(folder, name)))
      .digest("hex");
  }
  return found;
}

describe("a query", () => {
  test("answers exactly what is stored: large numbers, bytes, nothing, and columns of one name", async () => {
    await using store = await makeStore();
    const session = await SqlSession.on(store);
    const sql = `SELECT 9007199254740993, -9223372036854775808, 1e16, 0.1, 1e999, NULL, '', 'it''s', x'00ff', 1 AS "a""b", 2 AS "a""b"`;
    const { columns, rows } = await session.read(one(sql));
    expect(rows).toEqual([
      [
        ...["9007199254740993", "-9223372036854775808", "1.0e+16", "0.1", "9.0e+999"].map(n),
        ...[null, "", "it's", Buffer.from([0, 255]), n("1"), n("2")],
      ],
    ]);
    expect(columns.slice(-2)).toEqual(['a"b', 'a"b:1']);
    expect(formatRowsAsJson({ columns: ["id"], rows: [[n("9007199254740993")]] })).toBe(
      '{"columns": ["id"], "rows": [[9007199254740993]]}',
    );
    expect(
      formatRowsAsCsv({
        columns: ["a", "b,c"],
        rows: [
          [null, ""],
          ["x\ny", Buffer.from([10])],
        ],
      }),
    ).toBe(`a,"b,c"\r\n,""\r\n"x\ny",X'0A'\r\n`);
  });

  test("answers text with a NUL whole, and computes each value once", async () => {
    await using store = await makeStore();
    const session = await SqlSession.on(store);
    const text = "'ab' || char(0) || 'é'";
    expect((await session.read(one(`SELECT ${text}, char(0), 'T41', x'00'`))).rows).toEqual([
      ["ab\0é", "\0", "T41", Buffer.from([0])],
    ]);
    const random = "CASE WHEN random() > 0 THEN char(0, 97) ELSE 1 END";
    const drawn = `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c LIMIT 200) SELECT ${random} FROM c`;
    for (const [value] of (await session.read(one(drawn))).rows)
      expect(["\0a", n("1")]).toContainEqual(value);
    const changes = parseStatements(
      `UPDATE clients SET name = ${text} WHERE client_id = 1 RETURNING name`,
    );
    expect((await session.dryRun(changes)).results[0]?.rows).toEqual([["ab\0é"]]);
  });

  test("keeps its order, tells its columns without rows, and may be any form of SELECT", async () => {
    await using store = await makeStore();
    const session = await SqlSession.on(store);
    const ids = async (sql: string) =>
      (await session.read(one(sql))).rows.map(([id]) => Number(id));
    expect(await ids("SELECT client_id FROM clients ORDER BY client_id DESC")).toEqual([3, 2, 1]);
    expect(
      await ids("WITH c AS (SELECT * FROM clients) SELECT client_id FROM c ORDER BY name, 1 DESC"),
    ).toEqual([3, 2, 1]);
    expect(await ids("VALUES (2), (1) -- in this order")).toEqual([2, 1]);
    expect(await ids("SELECT count(*) FROM pragma_table_info('clients')")).toEqual([16]);
    expect(await session.read(one("SELECT client_id, name FROM clients WHERE 0"))).toEqual({
      columns: ["client_id", "name"],
      rows: [],
    });
    expect(
      (await session.read(one("SELECT random() AS r, typeof(r) FROM (SELECT random() AS r)"))).rows,
    ).toHaveLength(1);
  });

  test("that SQLite does not understand fails in its words, and the next one is answered", async () => {
    await using store = await makeStore();
    const session = await SqlSession.on(store);
    await expect(session.read(one("SELECT nowhere FROM clients"))).rejects.toMatchObject({
      kind: "failed",
      message: "no such column: nowhere",
    });
    await expect(session.read(one("SELECT ?"))).rejects.toThrow(/parameters/);
    expect((await session.read(one("PRAGMA user_version"))).rows).toEqual([[n("2")]]);
  });

  test("never changes a byte, nor leaves a file", async () => {
    const store = await makeStore();
    const { path } = store.connection;
    const { key } = store;
    await store.close();
    const before = await bytesBelow(dirname(path));
    {
      await using again = await ClientStore.open(path, key);
      const session = await SqlSession.on(again);
      for (const sql of [
        "SELECT * FROM clients",
        "PRAGMA integrity_check",
        "EXPLAIN DELETE FROM clients",
        "SELECT sqlcipher_export('temp')",
        "SELECT load_extension('x')",
      ]) {
        await session.read(one(sql)).catch(() => undefined);
      }
      for (const sql of ["DELETE FROM clients", "CREATE TABLE t(a)", "ANALYZE"]) {
        await expect(session.read(one(sql))).rejects.toMatchObject({ kind: "refused" });
        // Behind the check of what is a change stands SQLite's own.
        await expect(session.read({ text: sql, kind: "report" })).rejects.toMatchObject({
          kind: "io",
        });
      }
    }
    expect(await bytesBelow(dirname(path))).toEqual(before);
  });
});

describe("a change", () => {
  test("is rehearsed without a trace, and kept when it is applied", async () => {
    await using store = await makeStore();
    const session = await SqlSession.on(store);
    const statements = parseStatements(
      "UPDATE clients SET name = 'x' WHERE client_id < 3; DELETE FROM clients WHERE client_id = 3; SELECT count(*) FROM clients",
    );
    const rehearsed = await session.dryRun(statements);
    expect(rehearsed).toMatchObject({
      changes: [{ rows: 2 }, { rows: 1 }],
      results: [{ rows: [[n("2")]] }],
      clients: { before: { active: 2, revoked: 1 }, after: { active: 2, revoked: 0 } },
    });
    expect(await store.size()).toBe(3);
    expect(await session.apply(statements, rehearsed)).toEqual(rehearsed);
    expect(await store.size()).toBe(2);
    await expect(session.read({ text: "DELETE FROM clients", kind: "report" })).rejects.toThrow();
  });

  test("is not kept if it fails half-way, does something else than rehearsed, or spoils the table", async () => {
    await using store = await makeStore();
    const session = await SqlSession.on(store);
    await expect(
      session.apply(parseStatements("DELETE FROM clients; INSERT INTO nowhere VALUES (1)")),
    ).rejects.toThrow("no such table: nowhere");
    const statements = parseStatements("DELETE FROM clients WHERE name = ''");
    const rehearsed = await session.dryRun(statements);
    await store.connection.exec("PRAGMA query_only = OFF");
    await store.addItem(newClient({ client_id: 4, api_key: "k4" }));
    await expect(session.apply(statements, rehearsed)).rejects.toMatchObject({ kind: "inUse" });
    for (const sql of ["DROP TABLE clients", "ALTER TABLE clients RENAME COLUMN name TO label"]) {
      await expect(session.apply(parseStatements(sql))).rejects.toMatchObject({ kind: "refused" });
    }
    expect(await store.size()).toBe(4);
  });

  test("that would hold up another process is broken off", async () => {
    await using store = await makeStore();
    const session = await SqlSession.on(store);
    const endless = parseStatements(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) UPDATE clients SET name = (SELECT max(i) FROM n)",
    );
    const holder = spawn("sh", ["-c", 'exec 3<"$0"; echo open; read line', store.connection.path]);
    await once(holder.stdout, "data");
    await expect(session.apply(endless)).rejects.toThrow(/would block/);
    holder.stdin.end();
    await once(holder, "exit");
    expect(await store.getClientById(1)).toMatchObject({ name: "kitchen" });
  });
});
