/** Two stores on one machine, with one settings file: each keeps its own settings. */
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { beforeEach, expect, test } from "vitest";
import { Machine } from "./machine.js";

let machine: Machine;
let second: string;

const settings = async () =>
  JSON.parse(await readFile(machine.path("config/hivemind-sqlcipher/config.json"), "utf8"));

async function run(...args: string[]) {
  const { code, stdout, stderr } = await machine.run([...args, "--json"]);
  if (code !== 0) throw new Error(stderr + stdout);
  return JSON.parse(stdout);
}

beforeEach(async () => {
  machine = await Machine.make();
  second = machine.path("y", "clients.db");
  await mkdir(machine.path("y"));
  await machine.init(
    ...["--unit", "hivemind-first", "--to", machine.path("backups")],
    ...["--bundle-to", machine.path("bundles")],
  );
  await writeFile(machine.path("safe", "passphrase"), "of the second store 1\n", { mode: 0o600 });
});

async function initSecond() {
  const { code, stderr } = await machine.run([
    ...["init", "--db", second, "--service", "none", "--to", machine.path("by")],
    ...["--bundle-to", machine.path("by-bundles")],
    ...["--passphrase-source", `file:${machine.path("safe", "passphrase")}`],
    ...["--recovery-key-file", machine.path("safe", "second-key.txt")],
  ]);
  expect(code).toBe(0);
  return stderr;
}

test("init of a second store leaves the first one's settings as they are, and says so", async () => {
  const before = await settings();
  expect(await initSecond()).toMatch(/commands without --db use another store/);
  const { stores, ...topLevel } = await settings();
  expect(topLevel).toEqual(before);
  expect(stores).toEqual({
    [second]: {
      passphrase_source: `file:${machine.path("safe", "passphrase")}`,
      recipients: [expect.stringMatching(/^age1/)],
      backup: { to: machine.path("by"), bundle_to: machine.path("by-bundles"), service: "none" },
    },
  });
  expect(stores[second].recipients).not.toEqual(before.recipients);
});

test("commands about the second store use its settings, those without --db the first one's", async () => {
  await initSecond();
  const backup = await run("backup", "--db", second);
  expect(backup.backup.path).toContain(machine.path("by/"));
  expect(backup.bundle.path).toContain(machine.path("by-bundles/"));
  const status = await run("status");
  expect([status.path, status.last_backup]).toEqual([machine.store, null]);
  const ofSecond = await run("status", "--db", second);
  expect(ofSecond.last_backup.path).toBe(backup.backup.path);
});

test("rotate of the second store changes the source in its own section alone", async () => {
  await initSecond();
  const before = await settings();
  await writeFile(machine.path("safe", "next"), "next of the second store\n", { mode: 0o600 });
  await run(
    ...["rotate", "--db", second, "--hub", "none"],
    ...["--passphrase-file", machine.path("safe", "next")],
  );
  const next = `file:${machine.path("safe", "next")}`;
  before.stores[second].passphrase_source = next;
  expect(await settings()).toEqual(before);
  expect((await run("list-clients", "--db", second)).clients).toEqual([]);
});

test("what a backup of the second store remembers goes to its own section", async () => {
  const before = await settings();
  await machine.run([
    ...["init", "--db", second, "--service", "none"],
    ...["--recovery-key-file", machine.path("safe", "second-key.txt")],
  ]);
  await run(
    ...["backup", "--db", second, "--to", machine.path("by")],
    ...["--bundle-to", machine.path("by-bundles")],
  );
  const { stores, ...topLevel } = await settings();
  expect(topLevel).toEqual(before);
  expect(stores[second].backup).toMatchObject({
    to: machine.path("by"),
    bundle_to: machine.path("by-bundles"),
  });
});

test("the hint for a file that is not JSON writes settings that later commands need no options for", async () => {
  const { recipients } = await settings();
  const config = machine.path("config/hivemind-sqlcipher/config.json");
  await writeFile(config, '{"backup": ');
  const { code, stderr } = await machine.run(["backup"]);
  expect(code).toBe(2);
  const hint = /Correct it there, or write new settings: (.*)/.exec(stderr)?.[1] ?? "";
  expect(hint).toBe(
    `mv '${config}' '${config}.broken' && hivemind-sqlcipher backup --to DIRECTORY --bundle-to DIRECTORY --recipient RECIPIENT`,
  );
  await rename(config, `${config}.broken`);
  await run(
    ...["backup", "--service", "none", "--to", machine.path("backups")],
    ...["--bundle-to", machine.path("bundles"), "--recipient", recipients[0]],
  );
  expect(await settings()).toEqual({
    backup: { to: machine.path("backups"), bundle_to: machine.path("bundles") },
    recipients,
  });
  await run("backup", "--service", "none");
});

test("prune --bundles of one store keeps the bundle that another store or its backups need", async () => {
  const none = ["--service", "none", "--hub", "none"];
  const { backup, bundle } = await run("backup", "--service", "none");
  const key = ["--identity", machine.path("safe", "recovery-key.txt")];
  await run(
    "restore",
    backup.path,
    "--db",
    second,
    "--bundle",
    bundle.path,
    ...key,
    ...none,
    "--yes",
  );
  await run(
    ...["backup", "--db", second, "--service", "none", "--to", machine.path("by")],
    ...["--bundle-to", machine.path("bundles"), "--recipient", bundle.recipients[0]],
  );
  await run("rotate", "--keep-previous", ...none);
  await run("backup", "--service", "none");
  const prune = async () => (await run("prune", "--keep-last", "1", "--bundles")).prune;
  expect(await prune()).toMatchObject({ removed: [{ path: backup.path }], removed_bundles: [] });
  // The second store has another key now, but its backup has the former.
  await run("rotate", "--db", second, ...none);
  expect((await prune()).removed_bundles).toEqual([]);
  await rm(machine.path("by"), { recursive: true });
  await mkdir(machine.path("by"));
  expect((await prune()).removed_bundles).toContain(bundle.path);
});
