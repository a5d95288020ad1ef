/** Lookups and additions by the thousand: what they answer and keep, and how much work they are. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { newClient, revoked } from "../../src/client/client.js";
import { ClientStore } from "../../src/store/client-store.js";
import { ClientTable } from "../../src/store/client-table.js";
import { Connection, Statement } from "../../src/store/connection.js";
import { createSchema, readSchema } from "../../src/store/schema.js";
import { temporaryFolder } from "./temporary.js";

async function emptyTable(): Promise<ClientTable> {
  const connection = await Connection.open(":memory:", { mode: "create" });
  onTestFinished(() => connection.close());
  await createSchema(connection, 2);
  return new ClientTable(connection, await readSchema(connection));
}

function* clients(count: number, first = 1) {
  for (let id = first; id < first + count; id++) {
    yield newClient({ client_id: id, api_key: `key ${id}`, name: `client ${id}` });
  }
}

describe("many lookups side by side", () => {
  test("each get their own answer", async () => {
    const table = await emptyTable();
    await table.addItems(clients(3_000));
    await table.addItem(revoked(3));
    const asked = ["key 1", "key 3", "revoked", "nobody's", "key 2999", "key 1", "'; --", ""];
    const found = await Promise.all(asked.map((key) => table.getClientByApiKey(key)));
    const ids = [1, undefined, undefined, undefined, 2999, 1, undefined, undefined];
    expect(found.map((client) => client?.client_id)).toEqual(ids);
    // Two who ask for the same client do not share one record.
    expect(found[0]).toEqual(found[5]);
    expect(found[0]).not.toBe(found[5]);
  });

  test("find keys of any characters, and of several clients with one key the first", async () => {
    const table = await emptyTable();
    const keys = ['"', "\\", "a\0b", "a", "🚀", "é", "\u2028", "\u0001", "[1]", "null"];
    await table.addItems(
      keys.map((api_key, index) => newClient({ client_id: 10 + index, api_key })),
    );
    await table.addItem(newClient({ client_id: 7, api_key: "twice" }));
    await table.addItem(newClient({ client_id: -7, api_key: "twice" }));
    const found = await Promise.all([...keys, "twice"].map((key) => table.getClientByApiKey(key)));
    expect(found.map((client) => client?.client_id)).toEqual([...keys.map((_, i) => 10 + i), -7]);
  });

  test("see what was written before they were asked for", async () => {
    const table = await emptyTable();
    await table.addItems(clients(10));
    const early = table.getClientByApiKey("key 4");
    await table.updateClient(4, { name: "renamed" });
    const late = await table.getClientByApiKey("key 4");
    expect((await early)?.client_id).toBe(4);
    expect(late?.name).toBe("renamed");
  });

  test("are few statements: five for 2,000, two at a time", async () => {
    const table = await emptyTable();
    await table.addItems(clients(2_000));
    await table.getClientByApiKey("key 1");
    const all = vi.spyOn(Statement.prototype, "all");
    onTestFinished(() => all.mockRestore());
    const keys = Array.from({ length: 2_000 }, (_, index) => `key ${index + 1}`);
    const found = await Promise.all(keys.map((key) => table.getClientByApiKey(key)));
    expect(found.map((client) => client?.api_key)).toEqual(keys);
    expect(all.mock.calls.length).toBeLessThanOrEqual(5);
  });

  test("all fail if the connection is closed", async () => {
    const table = await emptyTable();
    await table.close();
    const asked = ["a", "b"].map((key) => table.getClientByApiKey(key));
    for (const { status } of await Promise.allSettled(asked)) expect(status).toBe("rejected");
  });
});

/** Calls of read that the whole process has made. */
async function readCalls(): Promise<number> {
  return Number(/syscr: (\d+)/.exec(await readFile("/proc/self/io", "utf8"))?.[1]);
}

test.runIf(process.platform === "linux")(
  "a lookup reads hardly more pages of a store of 50,000 clients than of one of 500",
  async () => {
    const folder = await temporaryFolder();
    const readsIn = async (count: number): Promise<number> => {
      const path = join(folder, `${count}.db`);
      const store = await ClientStore.create(path, "a passphrase");
      await store.addItems(clients(count));
      await store.close();
      let fewest = Number.POSITIVE_INFINITY;
      for (let turn = 0; turn < 3; turn++) {
        await using cold = await ClientStore.open(path, store.key);
        const before = await readCalls();
        expect(await cold.getClientByApiKey(`key ${count - 7}`)).toBeDefined();
        fewest = Math.min(fewest, (await readCalls()) - before);
      }
      return fewest;
    };
    const few = await readsIn(500);
    const many = await readsIn(50_000);
    // Some levels more of the index and of the table; reading the table itself would be thousands.
    expect(many - few).toBeLessThan(16);
  },
);

describe("many additions", () => {
  test("replace those there are, add the others, and keep what rows share and what they do not", async () => {
    const table = await emptyTable();
    await table.addItems(clients(1_300));
    const changed = [...clients(2_000, 700)].map((client) => ({
      ...client,
      is_admin: client.client_id % 3 === 0,
      last_seen: client.client_id / 7,
      name: client.client_id % 5 === 0 ? null : client.name,
      crypto_key: client.client_id === 1_500 ? "0123456789abcdef" : null,
    }));
    expect(await table.addItems(changed)).toBe(2_000);
    expect(await table.size()).toBe(2_699);
    const ids = changed.map(({ client_id }) => client_id);
    expect(await table.getClientsById(ids)).toEqual(changed);
  });

  test("are kept a batch at a time: one that fails is not kept at all, nor what follows", async () => {
    const table = await emptyTable();
    await table.connection.exec(`CREATE TRIGGER refuse BEFORE INSERT ON clients
      WHEN new.client_id = 901 BEGIN SELECT raise(ABORT, 'not this one'); END`);
    let given = 0;
    async function* counted() {
      for (const client of clients(20_000)) {
        given += 1;
        yield client;
      }
    }
    await expect(table.addItems(counted())).rejects.toThrow("not this one");
    expect(await table.size()).toBe(500);
    expect(given).toBeLessThan(20_000);
    await table.connection.exec("DROP TRIGGER refuse");
    expect(await table.addItems(clients(1_000))).toBe(1_000);
  });

  test("fail with what their source fails with, after what was begun", async () => {
    const table = await emptyTable();
    function* failing() {
      yield* clients(700);
      throw new Error("the source is exhausted");
    }
    await expect(table.addItems(failing())).rejects.toThrow("the source is exhausted");
    expect(await table.size()).toBe(500);
  });

  test("within a transaction are kept with it or not at all", async () => {
    const table = await emptyTable();
    const undone = table.transaction(async () => {
      await table.addItems(clients(1_700));
      expect(await table.size()).toBe(1_700);
      throw new Error("changed my mind");
    });
    await expect(undone).rejects.toThrow("changed my mind");
    expect(await table.size()).toBe(0);
  });
});

test("a page that cannot be read fails when it is asked for, however long the one before is used", async () => {
  const table = await emptyTable();
  await table.addItems(clients(1_000));
  const unhandled: unknown[] = [];
  const note = (error: unknown) => unhandled.push(error);
  process.on("unhandledRejection", note);
  onTestFinished(() => void process.off("unhandledRejection", note));
  const read = table[Symbol.asyncIterator]();
  const all = Statement.prototype.all;
  let calls = 0;
  const failing = vi.spyOn(Statement.prototype, "all").mockImplementation(function (
    this: Statement,
    params,
  ) {
    calls += 1;
    return calls === 1 ? all.call(this, params) : Promise.reject(new Error("the disk is gone"));
  } as typeof all);
  onTestFinished(() => failing.mockRestore());
  expect((await read.next()).value?.client_id).toBe(1);
  // The next page is tried packed, and then as it is.
  await vi.waitFor(() => expect(calls).toBe(3), { timeout: 20_000 });
  await new Promise(setImmediate);
  expect(unhandled).toEqual([]);
  await expect(
    (async () => {
      while (!(await read.next()).done);
    })(),
  ).rejects.toThrow("the disk is gone");
});
