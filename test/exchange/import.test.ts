import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Client, isRevoked, newClient, revoked } from "../../src/client/client.js";
import { formatJson, type JsonObject, parseJson } from "../../src/client/json.js";
import { exportText, exportToFile, resolveExportPath } from "../../src/exchange/export.js";
import {
  applyImport,
  type Format,
  type PreparedImport,
  prepareImport,
  readImport,
} from "../../src/exchange/import.js";
import type { ImportPlan } from "../../src/exchange/plan.js";
import { ClientStore } from "../../src/store/client-store.js";
import { ClientTable } from "../../src/store/client-table.js";
import { Connection } from "../../src/store/connection.js";
import { createSchema, readSchema } from "../../src/store/schema.js";
import { temporaryFolder } from "../store/temporary.js";

async function prepare({
  file,
  ...options
}: {
  store: ClientTable;
  file: string | AsyncIterable<Uint8Array>;
  update?: boolean;
}) {
  return prepareImport(await readImport({ file }), options);
}

async function storeWith(clients: Client[] = []): Promise<ClientTable> {
  const connection = await Connection.open(":memory:", { mode: "create" });
  await createSchema(connection, 2);
  const store = new ClientTable(connection, await readSchema(connection));
  await store.addItems(clients);
  return store;
}

async function* bytes(text: string): AsyncGenerator<Uint8Array> {
  yield Buffer.from(text);
}

async function importInto(
  store: ClientTable,
  text: string,
  options: { update?: boolean } = {},
): Promise<ImportPlan> {
  const prepared = await prepare({ store, file: bytes(text), ...options });
  if (prepared.plan.rejectedCount === 0) await applyImport(prepared, { store });
  return prepared.plan;
}

async function all(store: AsyncIterable<Client>): Promise<Client[]> {
  const found: Client[] = [];
  for await (const client of store) found.push(client);
  return found;
}

async function textOf(store: ClientTable, format: Format, secrets = true): Promise<string> {
  let text = "";
  for await (const piece of exportText({ clients: store, format, secrets })) text += piece;
  return text;
}

const json = (records: unknown[]) => JSON.stringify({ clients: records });
const kitchen = newClient({ client_id: 1, api_key: "k1", name: "kitchen", can_escalate: false });
const hall = newClient({
  client_id: 2,
  api_key: "k2",
  name: "hall",
  allowed_types: ["speak"],
  metadata: parseJson('{"n": 9007199254740993, "skill_blacklist": ["s"]}') as JsonObject,
});

test("a pipe whose program ends at once is read to its end", async () => {
  const pipe = join(await temporaryFolder(), "pipe");
  execFileSync("mkfifo", [pipe]);
  spawn("sh", ["-c", 'printf "[]" >"$1"', "sh", pipe]);
  await expect(readImport({ file: pipe })).resolves.toBeDefined();
});

describe("an import", () => {
  test("of what was exported as JSON makes the same clients, revoked ones among them, and fills the gaps", async () => {
    await using from = await storeWith([
      kitchen,
      hall,
      revoked(3),
      newClient({ client_id: 7, api_key: "k7" }),
    ]);
    await using to = await storeWith();
    const plan = await importInto(to, await textOf(from, "json"));
    expect([plan.filled, plan.defaulted]).toEqual([3, 0]);
    const clients = await all(to);
    expect(clients.map((client) => client.client_id)).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(clients.slice(2, 6).every(isRevoked)).toBe(true);
    expect(clients.filter((client) => !isRevoked(client))).toEqual(
      (await all(from)).filter((client) => !isRevoked(client)),
    );
    const row = await to.connection.get<{ metadata: string }>(
      "SELECT metadata FROM clients WHERE client_id = 2",
    );
    expect(row?.metadata).toContain("9007199254740993");
  });

  test("of CSV gives new clients what a new client may do, says so, and leaves old ones what they may", async () => {
    await using store = await storeWith([kitchen]);
    const plan = await importInto(
      store,
      "access_key,name,is_admin\nk1,cellar,true\nk2,attic,false\n",
      { update: true },
    );
    expect(plan.defaulted).toBe(1);
    expect(await all(store)).toEqual([
      { ...kitchen, name: "cellar", is_admin: true },
      newClient({ client_id: 2, api_key: "k2", name: "attic", allowed_types: [] }),
    ]);
  });

  test("says who could do more, and where an empty list would mean the default one", async () => {
    const text = json([
      { client_id: 1, api_key: "k1", can_escalate: true, name: "cellar" },
      { client_id: 3, api_key: "k3", allowed_types: [] },
    ]);
    await using store = await storeWith([kitchen, hall]);
    const newer = await prepare({ store, file: bytes(text), update: true });
    expect(newer.widened).toEqual([
      { clientId: 1, name: "kitchen", widenings: [{ field: "can_escalate" }] },
    ]);
    expect([newer.plan.defaulted, newer.plan.emptyLists]).toEqual([1, 0]);
    await store.connection.exec("PRAGMA user_version = 0");
    await store.sync();
    const released = await prepare({ store, file: bytes(text), update: true });
    expect(released.plan.emptyLists).toBe(1);
    // HiveMind 4 admits the key of the rows that fill gaps.
    const gap = () => prepare({ store, file: bytes(json([{ client_id: 5, api_key: "k5" }])) });
    expect([released.plan.isFirstRevoked, (await gap()).plan.isFirstRevoked]).toEqual([
      false,
      true,
    ]);
    await store.addItem(revoked(3));
    expect((await gap()).plan.isFirstRevoked).toBe(false);
    // A hub of the other line may open the store as well, and reads an empty list as the default
    // one.
    await store.updateClient(1, { allowed_types: ["speak"] });
    const emptied = json([{ client_id: 1, api_key: "k1", allowed_types: [] }]);
    for (const version of [0, 2]) {
      await store.connection.exec(`PRAGMA user_version = ${version}`);
      await store.sync();
      const { widened } = await prepare({ store, file: bytes(emptied), update: true });
      expect(widened).toMatchObject([{ clientId: 1, widenings: [{ field: "allowed_types" }] }]);
    }
  });

  test("changes only what a record says", async () => {
    await using store = await storeWith([hall]);
    await importInto(store, json([{ api_key: "k2", can_propagate: false }]), { update: true });
    expect(await all(store)).toEqual([{ ...hall, can_propagate: false }]);
  });

  test("of a record without metadata keeps the metadata that the record does not name", async () => {
    await using store = await storeWith([hall]);
    const n = '"n": 9007199254740993';
    const update = async (fields: object) => {
      await importInto(store, json([{ api_key: "k2", ...fields }]), { update: true });
      return formatJson((await store.getClientById(2))?.metadata ?? null);
    };
    expect(await update({ intent_blacklist: ["i"] })).toBe(
      `{${n}, "skill_blacklist": ["s"], "intent_blacklist": ["i"]}`,
    );
    expect(await update({ site: "porto", skill_blacklist: [], message_blacklist: null })).toBe(
      `{${n}, "intent_blacklist": ["i"], "site": "porto"}`,
    );
    expect(await update({ metadata: { site: "faro" }, floor: 1 })).toBe(
      '{"floor": 1, "site": "faro"}',
    );
    const cleared = json([{ api_key: "k2", skill_blacklist: [] }]);
    await store.updateClient(2, hall);
    const { widened } = await prepare({ store, file: bytes(cleared), update: true });
    expect(widened).toMatchObject([{ widenings: [{ field: "skill_blacklist" }] }]);
  });

  test("skips empty first lines, and counts them", async () => {
    await using store = await storeWith();
    const texts: [string, Format, string][] = [
      ['{"clients": [{"api_key": "a"}, {}]}', "json", "record 2"],
      ['{"api_key": "b"}\n{}', "json", "line 4"],
      ['access_key\n\n"', "csv", "line 5"],
      ["client_id,name,is_admin,access_key,password\nbad", "csv", "line 4"],
    ];
    for (const [text, format, where] of texts) {
      const prepared = await prepare({ store, file: bytes(`\r\n \t\n${text}`) });
      expect([prepared.format, prepared.plan.rejected.map((row) => row.where)]).toEqual([
        format,
        [where],
      ]);
    }
    await expect(prepare({ store, file: bytes("\n\n") })).rejects.toThrow("the file is empty");
  });

  test("names each client of a file once, also by the access key of a revoked id", async () => {
    await using store = await storeWith([kitchen, hall]);
    const rows = [{ client_id: 2, api_key: "revoked" }, { api_key: "k2" }];
    for (const records of [rows, [...rows].reverse()]) {
      const plan = await importInto(store, json(records), { update: true });
      expect(plan.rejected).toEqual([
        { where: "record 2", why: "client 2 is duplicated in the file" },
      ]);
    }
  });

  test("names the position of a revoked row that leaves too large a gap", async () => {
    await using store = await storeWith();
    const plan = await importInto(store, json([{ client_id: 900_000, api_key: "revoked" }]));
    expect(plan.rejected).toEqual([
      { where: "record 1", why: "client 900000 would leave 899999 ids unused" },
    ]);
  });

  test("takes the crypto key out of the metadata of HiveMind 5", async () => {
    await using store = await storeWith([hall]);
    const crypto_key = "0123456789abcdef";
    const metadata = { crypto_key, site: "porto" };
    const records = [
      { api_key: "k1", metadata },
      { api_key: "k2", metadata },
    ];
    await importInto(store, json(records), { update: true });
    for await (const client of store) {
      expect(client).toMatchObject({ crypto_key });
      expect(client.metadata).toEqual({ site: "porto" });
    }
  });

  const refusals: [string, unknown, boolean, RegExp][] = [
    [
      "an access key that is there",
      { client_id: 1, api_key: "k1" },
      false,
      /client 1 has this access key/,
    ],
    [
      "an access key of another id",
      { client_id: 5, api_key: "k1" },
      true,
      /access key belongs to client 1/,
    ],
    ["an id of another", { client_id: 1, api_key: "new" }, true, /client 1 is a different client/],
    [
      "an id that was revoked here",
      { client_id: 3, api_key: "new" },
      true,
      /is revoked in the store/,
    ],
    [
      "a client revoked there and active here",
      { client_id: 1, api_key: "revoked" },
      false,
      /active in the store/,
    ],
    ["a revoked one without an id", { api_key: "revoked" }, true, /no id/],
    ["a gap beyond all measure", { client_id: 5_000_000, api_key: "new" }, true, /unused/],
    ["no access key", { client_id: 9 }, false, /api_key missing/],
    ["an empty access key", { client_id: 9, api_key: "" }, false, /access key missing/],
    ["a wrong type", { client_id: 9, api_key: "new", is_admin: "yes" }, false, /is_admin/],
    ["half a surrogate pair", { client_id: 9, api_key: "new", name: "\ud800" }, false, /surrogate/],
    [
      "an id that would be rounded",
      parseJson('{"client_id": 9007199254740993, "api_key": "n"}'),
      false,
      /is not an integer/,
    ],
  ];
  test.each(refusals)(
    "refuses %s, and then takes nothing else either",
    async (_, bad, update, says) => {
      await using store = await storeWith([kitchen, hall, revoked(3)]);
      const before = await all(store);
      const good = { client_id: 4, api_key: "k4" };
      const text = json([good, bad]).replace("9007199254740992", "9007199254740993");
      const plan = await importInto(store, text, { update });
      expect(plan.rejected).toEqual([{ where: "record 2", why: expect.stringMatching(says) }]);
      expect(await all(store)).toEqual(before);
    },
  );

  test("refuses the second of two with one id or one key, but not two revoked ones", async () => {
    await using store = await storeWith();
    const plan = await importInto(
      store,
      json([
        { client_id: 1, api_key: "a" },
        { client_id: 1, api_key: "b" },
        { client_id: 2, api_key: "a" },
        { client_id: 3, api_key: "revoked" },
        { client_id: 4, api_key: "revoked" },
      ]),
    );
    expect(plan.rejected.map(({ where }) => where)).toEqual(["record 2", "record 3"]);
  });

  test("with --update revokes who is revoked in the file, and never the other way round", async () => {
    await using store = await storeWith([kitchen, hall]);
    const plan = await importInto(store, json([{ client_id: 2, api_key: "revoked" }]), {
      update: true,
    });
    expect([plan.revocations, (await all(store))[1]]).toEqual([[2], revoked(2)]);
    const again = await importInto(store, json([{ client_id: 2, api_key: "revoked" }]));
    expect([again.unchanged, again.rejectedCount]).toEqual([1, 0]);
  });

  test("is not made if the store changed since it was prepared", async () => {
    await using store = await storeWith([kitchen]);
    const prepared = await prepare({
      store,
      file: bytes(json([{ client_id: 2, api_key: "k2" }])),
    });
    await store.addItem(newClient({ client_id: 2, api_key: "other" }));
    await expect(applyImport(prepared, { store })).rejects.toMatchObject({ kind: "inUse" });
    expect((await all(store))[1]).toMatchObject({ api_key: "other" });
  });

  test.each<[withdrawn: string, change: (store: ClientTable) => Promise<unknown>]>([
    ["a permission", (store) => store.updateClient(1, { is_admin: false })],
    ["a message type", (store) => store.updateClient(1, { allowed_types: ["b"] })],
    ["a skill", (store) => store.updateClient(1, { metadata: { skill_blacklist: ["s", "t"] } })],
    ["what HiveMind 4 enforces", (store) => store.connection.exec("PRAGMA user_version = 0")],
  ])("does not give back %s withdrawn since it was prepared", async (_, change) => {
    const client = newClient({
      client_id: 1,
      api_key: "k1",
      is_admin: true,
      allowed_types: ["b", "c"],
      metadata: { skill_blacklist: ["s"] },
    });
    await using store = await storeWith([client]);
    const record = { ...client, allowed_types: ["a", "b", "c"], skill_blacklist: [], metadata: {} };
    const file = bytes(json([record]));
    const prepared = await prepare({ store, file, update: true });
    await change(store);
    const before = await all(store);
    await expect(applyImport(prepared, { store })).rejects.toMatchObject({ kind: "inUse" });
    expect(await all(store)).toEqual(before);
  });

  test("that is interrupted, or fails half-way, leaves nothing behind", async () => {
    await using store = await storeWith([kitchen]);
    const records = Array.from({ length: 1500 }, (_, index) => ({
      client_id: index + 2,
      api_key: `n${index}`,
    }));
    const prepared = await prepare({ store, file: bytes(json(records)) });
    const controller = new AbortController();
    const progress = (done: number) => done >= 1000 && controller.abort(new Error("stop"));
    await expect(
      applyImport(prepared, { store, progress, signal: controller.signal }),
    ).rejects.toThrow("stop");
    expect(await all(store)).toEqual([kitchen]);
  });

  test("while another process has the store open is refused beyond what takes a moment", async () => {
    const path = join(await temporaryFolder(), "clients.db");
    await using store = await ClientStore.create(path, "passphrase");
    const records = Array.from({ length: 10_001 }, (_, index) => `{"api_key": "n${index}"}`);
    const prepared = await prepare({ store, file: bytes(records.join("\n")) });
    const holder = spawn("sh", ["-c", 'exec 3<"$0"; echo open; read line', store.connection.path]);
    await once(holder.stdout, "data");
    await expect(applyImport(prepared, { store })).rejects.toThrow(/has the store open/);
    expect(await store.size()).toBe(0);
    holder.stdin.end();
    await once(holder, "exit");
    await applyImport(prepared, { store });
    expect(await store.size()).toBe(10_001);
  });
});

test("the forms of JSON: a document, a list, a record a line, the JSON plugin's file", async () => {
  const records = [
    { client_id: 1, api_key: "a" },
    { client_id: 2, api_key: "b" },
  ];
  const plugin = await readFile(
    new URL("../fixtures/clients-hivemind-json-db.json", import.meta.url),
    "utf8",
  );
  const texts = [
    json(records),
    JSON.stringify(records, undefined, 2),
    records.map((record) => JSON.stringify(record)).join("\n"),
    JSON.stringify(Object.fromEntries(records.map((record) => [record.client_id, record]))),
  ];
  for (const text of texts) {
    await using store = await storeWith();
    const plan = await importInto(store, text);
    expect([plan.added.length, plan.rejected]).toEqual([2, []]);
  }
  await using store = await storeWith();
  const plan = await importInto(store, plugin);
  expect(plan.rejected).toEqual([]);
  expect(plan.added.length).toBeGreaterThan(1);
});

test("no text crashes an import or is taken by half", async () => {
  await using store = await storeWith([kitchen, revoked(2)]);
  const before = await all(store);
  const value = fc.oneof(
    fc.constantFrom(
      1,
      2,
      3,
      4,
      1e300,
      -1,
      null,
      true,
      "revoked",
      "k1",
      "new",
      "\ud800",
      "a\0",
      [],
      {},
    ),
    fc.string(),
  );
  const record = fc.dictionary(
    fc.constantFrom(
      "client_id",
      "api_key",
      "name",
      "is_admin",
      "allowed_types",
      "metadata",
      "x",
      "__proto__",
    ),
    value,
    { maxKeys: 5 },
  );
  const text = fc.oneof(
    fc.array(record, { maxLength: 4 }).map(json),
    fc
      .array(record, { maxLength: 4 })
      .map((list) => list.map((each) => JSON.stringify(each)).join("\n")),
    fc.string({
      unit: fc.constantFrom("{", "}", "[", "]", '"', ",", ":", "1", "a", "\n", "clients"),
    }),
  );
  await fc.assert(
    fc.asyncProperty(text, fc.boolean(), async (input, update) => {
      let prepared: PreparedImport;
      try {
        prepared = await prepare({ store, file: bytes(input), update });
      } catch (error) {
        expect(error).toMatchObject({ name: "StoreError", kind: "refused" });
        expect(await all(store)).toEqual(before);
        return;
      }
      const { plan } = prepared;
      if (plan.rejectedCount > 0) return;
      const undo = new Error("undo");
      await store
        .transaction(async () => {
          await applyImport(prepared, { store });
          const after = await all(store);
          expect(after.length).toBe(before.length + plan.added.length);
          expect(after.map((client) => client.client_id)).toEqual(
            after.map((_, index) => index + 1),
          );
          expect(isRevoked(after[1] as Client)).toBe(true);
          throw undo;
        })
        .catch((error) => {
          if (error !== undo) throw error;
        });
    }),
    { numRuns: 300 },
  );
});

describe("an export", () => {
  test("without secrets holds none of them, nor those who were revoked", async () => {
    const secret = newClient({ client_id: 1, api_key: "kkk", password: "ppp", crypto_key: "ccc" });
    await using store = await storeWith([secret, revoked(2)]);
    for (const format of ["csv", "json"] as const) {
      expect(await textOf(store, format, false)).not.toMatch(/kkk|ppp|ccc|revoked/);
      expect(await textOf(store, format, true)).toMatch(/kkk[\s\S]*revoked/);
    }
  });

  test("goes to a file of its own, 0600, whole or not at all, and never over another", async () => {
    const folder = await temporaryFolder();
    const path = await resolveExportPath(folder, "csv");
    expect(path).toBe(join(folder, "hivemind_clients.csv"));
    async function* failing() {
      yield "half";
      throw new Error("no more");
    }
    await expect(exportToFile(path, failing())).rejects.toThrow();
    expect(await readdir(folder)).toEqual([]);
    async function* text() {
      yield "one ";
      yield "two";
    }
    await exportToFile(path, text());
    expect(await readFile(path, "utf8")).toBe("one two");
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    await writeFile(path, "mine");
    await expect(exportToFile(path, text())).rejects.toMatchObject({ kind: "refused" });
    expect([await readFile(path, "utf8"), await readdir(folder)]).toEqual([
      "mine",
      ["hivemind_clients.csv"],
    ]);
  });
});
