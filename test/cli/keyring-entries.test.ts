/**
 * Entries that are not where they should be: twice, in another collection, or under another path.
 */
import { cp, mkdir, readdir, rename, symlink } from "node:fs/promises";
import { dirname } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { deleteEntry, getEntry, listEntries, setEntry } from "../../src/keys/keyring.js";
import { OwnBus } from "../keys/own-keyring.js";
import { Machine } from "./machine.js";

let bus: OwnBus;

beforeAll(async () => {
  bus = await OwnBus.start();
  bus.enter();
  await bus.startKeyring("open sesame");
  await bus.createCollection("Vault", "open the vault");
});

afterAll(async () => {
  await bus[Symbol.asyncDispose]();
});

async function machineWithBackup(): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init("--bundle-to", machine.path("bundles"), "--to", machine.path("backups"));
  const { code, stderr } = await machine.run(["backup", "--service", "none"]);
  if (code !== 0) throw new Error(stderr);
  return machine;
}

async function bundleOf(machine: Machine): Promise<string> {
  const names = await readdir(machine.path("bundles"));
  return machine.path("bundles", names.find((name) => name.endsWith(".age")) ?? "none");
}

async function importBundle(machine: Machine) {
  const key = machine.path("safe", "recovery-key.txt");
  return machine.run(["bundle", "import", await bundleOf(machine), "--identity", key]);
}

test.each(["session", "Vault"])(
  "a stale entry in the collection %s does not hide the right one",
  async (collection) => {
    const machine = await machineWithBackup();
    await bus.putEntry(machine.store, "stale words", collection);
    expect((await machine.run(["list-clients", "--no-key-cache"])).code).toBe(0);
    expect((await importBundle(machine)).code).toBe(0);
    const rotated = await machine.run(["rotate", "--service", "none", "--hub", "none"]);
    expect([rotated.code, rotated.stderr]).toEqual([0, expect.any(String)]);
    expect((await machine.run(["list-clients"])).code).toBe(0);
  },
);

test("a stale entry in the default collection, the right one elsewhere: the right one is found, and both are named", async () => {
  const machine = await machineWithBackup();
  const passphrase = (await getEntry(machine.store, "current")) ?? "";
  await bus.putEntry(machine.store, passphrase, "Vault");
  await bus.putEntry(machine.store, "stale words", "login");
  const { code, stderr } = await machine.run(["list-clients", "--no-key-cache"]);
  expect([code, stderr]).toEqual([0, expect.stringMatching(/collection "Vault".*"Login"/)]);
  expect((await importBundle(machine)).code).toBe(0);
  expect(await getEntry(machine.store, "current")).toBe(passphrase);
});

test("no entry opens the store: the collections are named, and bundle import repairs it", async () => {
  const machine = await machineWithBackup();
  await setEntry(machine.store, "current", "stale words");
  await bus.putEntry(machine.store, "other stale words", "session");
  const failed = await machine.run(["list-clients", "--no-key-cache"]);
  expect([failed.code, failed.stderr]).toEqual([
    12,
    expect.stringMatching(/collection "Login".*collection "session"/),
  ]);
  expect(failed.stderr).not.toMatch(/\binit\b/);
  const imported = await importBundle(machine);
  expect([imported.code, imported.stderr]).toEqual([0, expect.any(String)]);
  expect((await machine.run(["list-clients"])).code).toBe(0);
  expect((await readdir(dirname(machine.store))).filter((n) => n.includes("journal"))).toEqual([]);
});

test("an entry in another, locked collection: the collection is named, and no wrong advice is given", async () => {
  const machine = await machineWithBackup();
  const passphrase = (await getEntry(machine.store, "current")) ?? "";
  await deleteEntry(machine.store, "current");
  await bus.putEntry(machine.store, passphrase, "Vault");
  await bus.lock("Vault");
  const { code, stderr } = await machine.run(["list-clients", "--no-key-cache"]);
  expect([code, stderr]).toEqual([13, expect.stringContaining('the collection "Vault"')]);
  // The line for a server unlocks only the default collection.
  expect(stderr).not.toMatch(/\binit\b|gnome-keyring-daemon/);
  const { stdout } = await machine.run(["doctor", "--json"]);
  const { checks } = JSON.parse(stdout) as { checks: { name: string }[] };
  expect(checks.find(({ name }) => name === "keyring")).toMatchObject({
    severity: "error",
    detail: expect.stringContaining('the collection "Vault"'),
    fix: expect.stringMatching(/^At a desktop, .* the collection's password\.\nOr use no keyring/),
  });
});

test("the data directory moved: the entry is found by the key_id, and taken over on request", async () => {
  const machine = await machineWithBackup();
  const before = machine.store;
  const data = dirname(before);
  await mkdir(machine.path("big"));
  await rename(data, machine.path("big", "hivemind-core"));
  await symlink(machine.path("big", "hivemind-core"), data);
  const moved = machine.path("big", "hivemind-core", "clients.db");
  const failed = await machine.run(["list-clients"]);
  expect([failed.code, failed.stderr]).toEqual([13, expect.stringContaining(before)]);
  expect(failed.stderr).toContain("--yes");
  expect(failed.stderr).not.toMatch(/\binit\b/);
  expect(await getEntry(moved, "current")).toBeUndefined();
  // -y in the arguments of the hub is no answer to this program.
  const hub = await machine.run(["run", "--hub-python", "/bin/false", "--", "/bin/true", "-y"]);
  expect([hub.code, hub.stderr]).toEqual([13, expect.stringContaining("--yes")]);
  expect(await getEntry(moved, "current")).toBeUndefined();
  const taken = await machine.run(["list-clients", "--yes"]);
  expect([taken.code, taken.stderr]).toEqual([0, expect.stringContaining(moved)]);
  expect(await getEntry(moved, "current")).toBe(await getEntry(before, "current"));
  expect((await machine.run(["backup", "--service", "none"])).code).toBe(0);
});

test("previous passphrases follow a moved store, and what the new path had stays", async () => {
  const machine = await machineWithBackup();
  await machine.run(["rotate", "--keep-previous", "--service", "none", "--hub", "none"]);
  const old = machine.store;
  await mkdir(machine.path("elsewhere"));
  await cp(dirname(old), machine.path("elsewhere", "hivemind-core"), { recursive: true });
  const copy = machine.path("elsewhere", "hivemind-core", "clients.db");
  await setEntry(copy, "current", "of an older store there");
  const list = ["list-clients", "--db", copy];
  expect((await machine.run(list)).code).toBe(12);
  expect((await machine.run([...list, "--yes"])).code).toBe(0);
  const secrets = (await listEntries(copy)).map(({ secret }) => secret);
  expect(secrets).toContain("of an older store there");
  for (const { secret } of await listEntries(old)) expect(secrets).toContain(secret);
});

test("a path without a store: the store that the keyring knows is named, not hidden by a new one", async () => {
  const machine = await machineWithBackup();
  const elsewhere = { XDG_DATA_HOME: machine.path("snap") };
  const { code, stderr } = await machine.run(["list-clients"], { env: elsewhere });
  expect([code, stderr]).toEqual([10, expect.stringContaining(machine.store)]);
  const other = machine.path("other.db");
  expect((await machine.run(["list-clients", "--db", other])).stderr).toContain(
    `hivemind-sqlcipher init --db '${other}'`,
  );
  await rename(machine.store, machine.path("gone.db"));
  const gone = await machine.run(["list-clients"]);
  expect([gone.code, gone.stderr]).toEqual([10, expect.stringContaining("restore BACKUP")]);
  expect(gone.stderr).not.toMatch(/\binit\b/);
});
