/**
 * The hub's own plugin, given the passphrase, after each of the operations that replace the store's
 * file.
 */
import { expect, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import type { RestoreResult } from "../../src/restore/restore.js";
import type { UpgradeSchemaResult } from "../../src/swap/upgrade-schema.js";
import { resultOf, World } from "../swap/world.js";
import { interpreter, runPython } from "./python.js";

const list = `from hivemind_sqlite_database import SQLiteDB
db = SQLiteDB(password=given["password"])
answer = [[client.client_id, client.api_key, client.name, client.is_admin] for client in db]
`;

const add = `from hivemind_plugin_manager.database import Client
from hivemind_sqlite_database import SQLiteDB
db = SQLiteDB(password=given["password"])
if not db.add_item(Client(client_id=6, api_key="by Python", name="hall")): raise SystemExit("not added")
db.commit()
answer = "added"
`;

/** Released plugins ignore their password, so that only the development line can tell. */
async function pythonReads(world: World): Promise<unknown[]> {
  const { current: password } = await world.slots();
  return runPython<unknown[]>("development", world.folder, list, { password });
}

test("the development line's plugin reads, and writes, the store after encrypt, rotate and restore", async () => {
  const world = await World.of("plain-schema2.db");
  resultOf(await world.run("encrypt", world.withoutService));
  const clients = await pythonReads(world);
  expect(clients).toContainEqual([1, expect.any(String), "kitchen-satellite", false]);

  const { backup } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  resultOf(await world.run("rotate", { ...world.withoutService, keepPrevious: true }));
  expect(await pythonReads(world)).toEqual(clients);
  const { current: password } = await world.slots();
  expect(runPython("development", world.folder, add, { password })).toBe("added");
  expect((await world.rows()).join()).toContain("by Python");

  const file = { backup: { file: backup.path } };
  resultOf(await world.run<RestoreResult>("restore", { ...world.withoutService, ...file }));
  expect(await pythonReads(world)).toEqual(clients);
});

const upgrade = (world: World, more: object = {}) =>
  world.run<UpgradeSchemaResult>("upgrade-schema", { ...world.withoutService, ...more });

test("a schema is not upgraded under a hub that does not know the new one", async () => {
  const world = await World.of("plain-schema1.db");
  resultOf(await world.run("encrypt", world.withoutService));
  const before = await world.rows();
  const ran = await upgrade(world, { hubPython: interpreter("released") });
  expect(ran.code).toBe(17);
  expect(ran.error?.message).toMatch(/does not support schema 2: it would ignore every blacklist/);
  expect(await world.rows()).toEqual(before);
});

test("a schema is upgraded for a hub that knows it, after saying what would be lost, with the unit stopped", async () => {
  const world = await World.of("plain-schema1.db");
  resultOf(await world.run("encrypt", world.withoutService));
  await world.startUnit();
  const options = {
    ...(world.options() as { service: object }),
    hubPython: interpreter("development"),
  };
  const refused = await upgrade(world, { ...options, yes: false });
  expect(refused.code).toBe(17);
  expect(refused.questions.join()).toMatch(/2 \(Zé .*\): its message blacklist/);
  expect(refused.questions.join()).toMatch(
    /its skill blacklist \(column skill_blacklist\): metadata has another, which is kept/,
  );

  const { upgraded, service } = resultOf(await upgrade(world, options));
  expect(upgraded).toMatchObject({ from: 1, to: 2, hub: { schemaVersion: 2 } });
  expect(service).toMatchObject({ wasActive: true, active: true });
  expect(await world.isActive).toBe(true);
  expect((await world.rows()).join()).not.toContain('"message_blacklist":"[');
  const again = resultOf(await upgrade(world, options));
  expect(again.upgraded).toMatchObject({ from: 2, to: 2, dropped: [] });
});

test("where no hub can be asked, a yes is enough, and is asked for", async () => {
  const world = await World.of("plain-schema0.db");
  const env = { PATH: "/usr/bin:/bin" };
  const options = JSON.stringify(world.options({ ...world.withoutService, yes: false }));
  const refused = await world.drive(["upgrade-schema", options], env);
  expect([refused.code, refused.questions[0]]).toEqual([
    17,
    expect.stringMatching(/The hub's Python was not found/),
  ]);
  const agreed = JSON.stringify(world.options(world.withoutService));
  const ran = await world.drive<UpgradeSchemaResult>(["upgrade-schema", agreed], env);
  expect(resultOf(ran).upgraded).toMatchObject({ from: 0, to: 2, hub: null });
});
