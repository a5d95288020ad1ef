/**
 * Setup and its undo, killed after each step: the unit starts at once, on the database that it had
 * or on the encrypted store, with every client; and the same command goes on.
 */
import { readFile, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { sqliteModule } from "../../src/hub/server-json.js";
import { systemctl } from "../service/units.js";
import { atSteps, breakHub, expectDone, installHub, jsonModule, killAt, restarted } from "./hub.js";

const store = "hivemind-sqlite-db-plugin with password";

/** Without the steps whose state for the next setup is that of a neighbour. */
const setupSteps = [
  ...["setup.settings", "setup.recorded", "init.passphrase-kept", "recipients.kept"],
  ...["init.store-made", "init.settings-saved", "setup.drop-in"],
  ...["setup.armed", "setup.stopped", "migrate.copied", "setup.copied", "setup.switched"],
  ...["backup.verified", "setup.backed-up", "setup.tested", "setup.plain-removed"],
];

const undoSteps = [
  ...["undo.backed-up", "setup.stopped", "migrate.compared", "undo.copied"],
  ...["undo.switched", "undo.drop-in", "undo.moved", "undo.schedule"],
];

test("killed after one step after the other, each time with a start of the unit in between", async () => {
  const hub = await installHub();
  const setup = ["setup", ...hub.options];
  let expected = `${jsonModule} 5`;
  for (const step of setupSteps) {
    await killAt(hub, step, setup);
    if (step === "setup.switched") expected = `${store} 5`;
    expect(await restarted(hub), step).toBe(expected);
  }
  expectDone(await hub.machine.run(setup));
  const undo = ["setup", "--undo", "--yes"];
  for (const step of undoSteps) {
    await killAt(hub, step, undo);
    if (step === "undo.switched") expected = `${jsonModule} 5`;
    expect(await restarted(hub), step).toBe(expected);
  }
  expectDone(await hub.machine.run(undo));
  expect(await restarted(hub)).toBe(`${jsonModule} 5`);
}, 1_200_000);

test("killed while the hub is stopped: settle or the same command starts it", async () => {
  const hub = await installHub();
  const { machine } = hub;
  const setup = ["setup", ...hub.options];
  await killAt(hub, "setup.stopped", setup);
  await killAt(hub, "setup.copied", setup);
  expect((await machine.run(["settle"])).code).toBe(0);
  const subfolder = machine.path("data", "hivemind-core");
  {
    await using json = await DatabaseFactory.create(jsonModule, { subfolder });
    await json.addItems([newClient({ client_id: 6, api_key: "late" })]);
  }
  await killAt(hub, "setup.switched", setup);
  expectDone(await machine.run(setup));
  expect(await restarted(hub)).toBe(`${store} 6`);
}, 480_000);

test.each(["init.store-made", "setup.drop-in"])(
  "killed at %s: a store that server.json names since then is not emptied",
  async (step) => {
    const hub = await installHub();
    const { machine, server } = hub;
    const setup = ["setup", ...hub.options];
    await killAt(hub, step, setup);
    const before = await readFile(machine.store);
    const named = machine.path("named.json");
    const block = { name: "clients", subfolder: "hivemind-core", password: "another" };
    const settings = JSON.parse((await readFile(server, "utf8")).replace(/^.*\n/, ""));
    settings.database = { module: sqliteModule, [sqliteModule]: block };
    await writeFile(named, JSON.stringify(settings));
    const env = atSteps({ "setup.settings": `cp '${named}' '${server}'` });
    const { code, stderr } = await machine.run(setup, { env });
    expect([code, stderr]).toEqual([17, expect.stringContaining(`names ${machine.store}`)]);
    expect(await readFile(machine.store)).toEqual(before);
  },
  240_000,
);

test("a client that is added during the copy is not lost", async () => {
  const hub = await installHub();
  const { machine } = hub;
  const json = machine.path("data", "hivemind-core", "clients.json");
  const clients = JSON.parse(await readFile(json, "utf8"));
  const added = machine.path("added.json");
  const late = { ...clients["5"], client_id: 6, api_key: "late", name: "late" };
  await writeFile(added, JSON.stringify({ ...clients, "6": late }));
  const setup = ["setup", ...hub.options];
  const env = atSteps({ "migrate.compared": `cp '${added}' '${json}'` });
  const { code, stderr } = await machine.run(setup, { env });
  expect([code, stderr]).toEqual([
    17,
    expect.stringContaining("has changed since the start of the migration"),
  ]);
  expect(stderr).toContain("run setup again");
  expect(await restarted(hub)).toBe(`${jsonModule} 6`);
  expect((await machine.run(setup)).code).toBe(0);
  expect(await restarted(hub)).toBe(`${store} 6`);
}, 480_000);

test("a hub that a killed setup handed over is not restarted, and its store not emptied", async () => {
  const hub = await installHub();
  const { machine, server } = hub;
  const before = await readFile(server, "utf8");
  const setup = ["setup", ...hub.options];
  await killAt(hub, "setup.started", setup);
  const after = await readFile(server, "utf8");
  expect((await machine.run(["settle"])).code).toBe(0);
  expect((await machine.run(["add-client", "--name", "late"])).code).toBe(0);

  // As a user may do it.
  await writeFile(server, before);
  expect(await restarted(hub)).toBe(`${jsonModule} 5`);
  const revoked = await machine.run(["delete-client", "5"]);
  expect(revoked.stderr).toContain(`does not use ${machine.store}: its server.json names`);
  expect(revoked.stdout).toMatch(/: revoked in \S+clients\.db$/m);
  const refused = await machine.run(setup);
  expect([refused.code, refused.stderr]).toEqual([17, expect.stringContaining("lacks: 6")]);

  await writeFile(server, after);
  await breakHub(hub, "encrypted wait");
  await systemctl("restart", hub.unit);
  const done = await machine.run([...setup, "--json"]);
  expect(done.code).toBe(0);
  expect(JSON.parse(done.stdout).setup.outage).toBeNull();
  expect(await restarted(hub)).toBe(`${store} 5`);
}, 480_000);
