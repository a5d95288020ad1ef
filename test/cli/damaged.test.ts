import { readdir, readFile, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { openWithSource } from "../../src/keys/unlock.js";
import { Machine } from "./machine.js";

async function damagedStore(): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init("--bundle-to", machine.path("bundles"), "--to", machine.path("backups"));
  const store = await openWithSource(machine.store, { kind: "keyring" }, { mode: "readwrite" });
  const ids = Array.from({ length: 3000 }, (_, index) => index + 1);
  await store.addItems(ids.map((id) => newClient({ client_id: id, api_key: `key ${id}` })));
  await store.close();
  const bytes = await readFile(machine.store);
  bytes.fill(0xff, Math.floor(bytes.length * 0.6), Math.floor(bytes.length * 0.6) + 8);
  await writeFile(machine.store, bytes);
  return machine;
}

test("a store with a damaged page is not taken for a backup of it: every page of the copy is looked at", async () => {
  const machine = await damagedStore();
  const { code, stderr } = await machine.run(["backup", "--service", "none"]);
  expect(code).toBe(14);
  expect(stderr).toMatch(/the copy is damaged.*HMAC verification failed for page \d+/);
  expect(stderr).toContain("Keep the earlier backups");
  expect(stderr).not.toContain(".partial");
  expect(await readdir(machine.path("backups"))).toEqual([]);
});

test("a list that breaks off at a damaged page is one JSON document all the same, with the error in it", async () => {
  const machine = await damagedStore();
  const { code, document } = await machine.json("list-clients");
  expect(code).toBe(14);
  expect(document).toMatchObject({ clients: expect.any(Array), error: { code: 14 } });
  expect(document.clients).not.toEqual([]);
});
