/** The store of a hub that does not encrypt it: commands that read open it, and say so. */
import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { sqlitePlugin } from "../../src/databases/sqlite.js";
import { Machine } from "./machine.js";

let machine: Machine;

beforeEach(async () => {
  machine = await Machine.make();
  await mkdir(dirname(machine.store), { recursive: true });
  await using store = await sqlitePlugin.open({ db_path: machine.store }, { mode: "create" });
  await store.addItem(newClient({ client_id: 1, api_key: "of the kitchen", name: "kitchen" }));
});

test.each([
  [["list-clients"], /kitchen/],
  [["show-client", "1"], /kitchen/],
  [["find-client", "--by", "name", "kitchen"], /kitchen/],
  [["sql", "SELECT name FROM clients"], /kitchen/],
])("%s reads it, with a warning", async (args, output) => {
  const { code, stdout, stderr } = await machine.run(args);
  expect([code, stdout]).toEqual([0, expect.stringMatching(output)]);
  expect(stderr).toMatch(/not encrypted/);
});

test("status shows what is in it, and that it is not encrypted", async () => {
  const { code, document } = await machine.json("status");
  expect(code).toBe(0);
  expect(document).toMatchObject({
    format: "plaintext",
    cipher_compatibility: null,
    schema_version: 0,
    clients: { active: 1, revoked: 0 },
  });
  expect((await machine.run(["status"])).stdout).toMatch(/not encrypted/);
});

test.each([
  [["add-client", "--name", "bath"]],
  [["delete-client", "1"]],
  [["sql", "--write", "--yes", "DELETE FROM clients"]],
])("%s is refused, and changes nothing", async (args) => {
  const { code, stderr } = await machine.run(args);
  expect([code, stderr]).toEqual([17, expect.stringMatching(/is not encrypted/)]);
  const { document } = await machine.json("list-clients");
  expect(document).toMatchObject({ clients: [{ client_id: 1, name: "kitchen" }] });
});
