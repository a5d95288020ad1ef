import fc from "fast-check";
import { expect, onTestFinished, test } from "vitest";
import { type Row, rowColumns } from "../../src/store/client-row.js";
import { ClientTable } from "../../src/store/client-table.js";
import { Connection, type SqlValue } from "../../src/store/connection.js";
import { buildPackedSelect, type PackedRows, unpackRows } from "../../src/store/packed-rows.js";
import { createSchema, knownColumns, readSchema } from "../../src/store/schema.js";

const columns = knownColumns.filter((column) => column !== "client_id");

async function emptyTable(): Promise<Connection> {
  const connection = await Connection.open(":memory:", { mode: "create" });
  onTestFinished(() => connection.close());
  await createSchema(connection, 2);
  return connection;
}

async function insert(connection: Connection, values: Record<string, SqlValue>): Promise<void> {
  const row: Record<string, SqlValue> = { api_key: "key", ...values };
  const names = Object.keys(row);
  await connection.run(
    `INSERT OR REPLACE INTO clients (${names.join(", ")}) VALUES (${names.map(() => "?").join(", ")})`,
    Object.values(row),
  );
}

async function packed(connection: Connection): Promise<Row[] | undefined> {
  const sql = buildPackedSelect(knownColumns, "ORDER BY client_id");
  const [answer] = await connection.all<PackedRows>(sql);
  return answer && unpackRows(knownColumns, answer);
}

function plain(connection: Connection): Promise<Row[]> {
  return connection.all<Row>(`SELECT ${rowColumns} FROM clients ORDER BY client_id`);
}

const text = fc.string({ unit: "grapheme" });
const value = fc.oneof(
  text,
  fc.constantFrom("", '["a", 1.0]', '{"b": 1e16}', '"\\\u0000\n\u007f', "null", "1", "🚀"),
  fc.constant(null),
);
const seen = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.double({ min: 1e9, max: 4e9, noNaN: true }),
  fc.integer(),
  fc.constantFrom(-1, 0, -0, 0.1, -0.5, 1763912345.678901, 2 ** 53, -(2 ** 53) + 1, 5e-324, 1e300),
);
const truth = fc.oneof(fc.constantFrom<SqlValue>(0, 1, null, 0.1, 5e-324, "yes", ""), fc.integer());

test("rows come out of their packing as the binding makes them, or not at all", async () => {
  const connection = await emptyTable();
  let exact = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.record(
        Object.fromEntries(
          columns.map((column) => {
            if (column === "last_seen") return [column, seen];
            if (column === "api_key") return [column, text];
            return [column, column.startsWith("can_") || column === "is_admin" ? truth : value];
          }),
        ),
      ),
      async (values) => {
        await insert(connection, { client_id: 1, ...(values as Record<string, SqlValue>) });
        const rows = await packed(connection);
        if (rows === undefined) return;
        exact += 1;
        expect(rows).toEqual(await plain(connection));
      },
    ),
    { numRuns: 2_000, seed: 5 },
  );
  // Those that were read again are the exception: tiny and huge numbers.
  expect(exact).toBeGreaterThan(1_000);
});

test.each<[string, Record<string, SqlValue>, unknown]>([
  ["a blob", { name: Buffer.from("Zoé") }, { name: "Zoé" }],
  ["a time below one second", { last_seen: 0.1 }, { last_seen: 0.1 }],
  ["a time beyond every whole number", { last_seen: 1e300 }, { last_seen: 1e300 }],
  ["text for a time", { last_seen: "never" }, { last_seen: -1 }],
])("a store that has %s in a row is read all the same", async (_name, values, expected) => {
  const connection = await emptyTable();
  await insert(connection, { client_id: 1, last_seen: 1763912345.678901 });
  await insert(connection, { client_id: 2, ...values });
  expect(await packed(connection).catch(() => undefined)).toBeUndefined();
  const clients = [];
  for await (const client of new ClientTable(connection, await readSchema(connection))) {
    clients.push(client);
  }
  expect(clients).toMatchObject([
    { last_seen: 1763912345.678901 },
    { client_id: 2, ...(expected as object) },
  ]);
});

test("a column that another program adds meanwhile is read at once", async () => {
  const connection = await emptyTable();
  await connection.exec("ALTER TABLE clients DROP COLUMN metadata");
  const table = new ClientTable(connection, await readSchema(connection));
  await insert(connection, { client_id: 1 });
  for await (const client of table) expect(client.metadata).toEqual({});
  await connection.exec("ALTER TABLE clients ADD COLUMN metadata TEXT");
  await insert(connection, { client_id: 1, metadata: '{"skill_blacklist": ["s"]}' });
  for await (const client of table) expect(client.metadata).toEqual({ skill_blacklist: ["s"] });
});

test("administrators are those whom a hub takes for such, whatever is in the column", async () => {
  const connection = await emptyTable();
  const table = new ClientTable(connection, await readSchema(connection));
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(truth, fc.uint8Array({ maxLength: 2 })), { minLength: 1, maxLength: 9 }),
      async (values) => {
        for (const [index, is_admin] of values.entries()) {
          await insert(connection, { client_id: index + 1, name: `client ${index}`, is_admin });
        }
        const expected = [];
        for await (const client of table) {
          const { client_id, name, is_admin } = client;
          if (is_admin) expected.push({ client_id, name });
        }
        expect(await table.admins()).toEqual(expected);
      },
    ),
    { numRuns: 300, seed: 5 },
  );
});
