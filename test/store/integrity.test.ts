import { join } from "node:path";
import { expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { ClientStore } from "../../src/store/client-store.js";
import type { Connection } from "../../src/store/connection.js";
import { findIntegrityErrors } from "../../src/store/integrity.js";
import { temporaryFolder } from "./temporary.js";

async function inStore<Result>(path: string, work: (connection: Connection) => Promise<Result>) {
  await using store = await ClientStore.open(path, "p");
  return await work(store.connection);
}

test("an index that misses a client is found, although the store opens and the client is there", async () => {
  const path = join(await temporaryFolder(), "clients.db");
  await (await ClientStore.create(path, "p")).close();
  expect(await inStore(path, findIntegrityErrors)).toEqual([]);
  // Hides the index, so that the next client is not written to it, as after a copy beside a log.
  const index = await inStore(path, async (connection) => {
    const row = await connection.get<{ rootpage: number; sql: string }>(
      "SELECT rootpage, sql FROM sqlite_schema WHERE name = 'idx_clients_api_key'",
    );
    await connection.exec(
      "PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'idx_clients_api_key'",
    );
    return row;
  });
  await using without = await ClientStore.open(path, "p");
  await without.addItem(newClient({ client_id: 1, api_key: "key of 1" }));
  await without.connection.exec("PRAGMA writable_schema = ON");
  await without.connection.run(
    "INSERT INTO sqlite_schema VALUES ('index', 'idx_clients_api_key', 'clients', ?, ?)",
    [index?.rootpage ?? 0, index?.sql ?? ""],
  );
  await without.close();

  await using store = await ClientStore.open(path, "p");
  expect(await store.getClientById(1)).toMatchObject({ api_key: "key of 1" });
  expect(await store.searchByValue("api_key", "key of 1")).toEqual([]);
  expect((await findIntegrityErrors(store.connection)).join()).toMatch(/idx_clients_api_key/);
});
