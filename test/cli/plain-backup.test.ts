/** Backups of a hub that does not encrypt its clients: plain SQLite, JSON and Redis. */
import { readdirSync, readFileSync } from "node:fs";
import { mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { readBundle } from "../../src/bundle/bundle.js";
import {
  type Client,
  isRevoked,
  newClient,
  revoked,
  serializeClient,
} from "../../src/client/client.js";
import { normalizeClient } from "../../src/client/compare.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { sqlcipherPluginName, sqlitePluginName } from "../../src/databases/sqlite.js";
import { acquireLock } from "../../src/operation/lock.js";
import { root } from "../built.js";
import { RedisServer } from "../databases/redis-server.js";
import { Machine } from "./machine.js";

const clients: readonly Client[] = [
  newClient({
    client_id: 1,
    api_key: "of the kitchen",
    name: "kitchen",
    password: "p",
    metadata: { room: "küche", skill_blacklist: ["skill.a"] },
  }),
  revoked(2),
  newClient({ client_id: 3, api_key: "of the hall", name: "hall", is_admin: true }),
];

interface Hub {
  readonly name: string;
  /** Returns the settings in server.json. */
  settings(): Promise<Record<string, string | number>>;
}

const hubs: readonly Hub[] = [
  { name: sqlitePluginName, settings: async () => ({}) },
  { name: "hivemind-json-db-plugin", settings: async () => ({}) },
  {
    name: "hivemind-redis-db-plugin",
    settings: async () => ({ host: "127.0.0.1", port: (await RedisServer.start()).port }),
  },
];

let machine: Machine;
let settings: Record<string, string | number>;

async function setUp({ name, settings: make }: Hub): Promise<void> {
  settings = await make();
  for (const directory of [dirname(machine.store), machine.path("safe"), serverJson(".")]) {
    await mkdir(directory, { recursive: true });
  }
  await writeFile(
    serverJson("server.json"),
    JSON.stringify({ database: { module: name, [name]: settings } }),
  );
  await using database = await openHub(name, "create");
  for (const client of clients) await database.addItem(client);
}

const serverJson = (file: string) => machine.path("config", "hivemind-core", file);

function openHub(name: string, mode: "create" | "readonly") {
  const location = name.includes("redis")
    ? {}
    : { subfolder: dirname(machine.store), name: "clients" };
  return DatabaseFactory.create(name, { ...settings, ...location }, { mode });
}

const directories = () => ["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")];
const keyFile = () => machine.path("safe", "recovery-key.txt");

async function contentsOf(path: string, password: string): Promise<string[]> {
  const config = { db_path: path, password };
  await using backup = await DatabaseFactory.create(sqlcipherPluginName, config, {
    mode: "readonly",
  });
  const records: string[] = [];
  for await (const client of backup) records.push(serializeClient(normalizeClient(client)));
  return records;
}

beforeEach(async () => {
  machine = await Machine.make();
});

describe.each(hubs)("a hub on $name", (hub) => {
  beforeEach(() => setUp(hub));

  test("is backed up encrypted, with a bundle that its recovery key opens", async () => {
    const { code, document } = await machine.json(
      ...["backup", ...directories(), "--recovery-key-file", keyFile()],
    );
    expect(code).toBe(0);
    expect(document).toMatchObject({
      backup: { clients: { active: 2, revoked: 1 }, method: "online" },
      service: { stopped_ms: null },
      verified: true,
    });
    const { backup, bundle } = document as { backup: { path: string }; bundle: { path: string } };
    expect((await stat(backup.path)).mode & 0o777).toBe(0o600);
    expect(readFileSync(backup.path).includes("kitchen")).toBe(false);
    const identity = await readFile(keyFile(), "utf8");
    const { passphrase } = await readBundle(bundle.path, { identity });
    expect(await contentsOf(backup.path, passphrase)).toEqual(
      clients.map((client) => serializeClient(normalizeClient(client))),
    );
    expect((await machine.run(["verify", backup.path])).code).toBe(0);
    const listed = await machine.json("backups");
    expect(listed.document).toMatchObject({ backups: [{ path: backup.path, mac: true }] });
  });

  test("has one bundle for all its backups", async () => {
    await machine.run(["backup", ...directories(), "--recovery-key-file", keyFile()]);
    // As the timer calls it, which names the store.
    const { code, stderr } = await machine.run(["backup", "--db", machine.store]);
    expect([code, stderr]).toEqual([
      0,
      expect.stringMatching(/is not encrypted; making an encrypted backup/),
    ]);
    const named = (directory: string, ending: string) =>
      readdirSync(machine.path(directory)).filter((name) => name.endsWith(ending));
    expect(named("backups", ".db")).toHaveLength(2);
    expect(named("bundles", ".age")).toHaveLength(1);
  });

  test("is not backed up without a recovery key, and nothing is left", async () => {
    const { code, stderr } = await machine.run(["backup", ...directories()]);
    expect([code, stderr]).toEqual([2, expect.stringMatching(/--recovery-key-file/)]);
    expect(readdirSync(machine.path("backups"))).toEqual([]);
    expect(readdirSync(machine.path("bundles"))).toEqual([]);
  });

  test.each([
    [["list-clients"], /kitchen/],
    [["show-client", "1"], /kitchen/],
    [["find-client", "--by", "name", "kitchen"], /kitchen/],
    [["sql", "SELECT name FROM clients"], /kitchen/],
    [["status"], /2 active, 1 revoked/],
  ])("%s reads it, and reports that it is not encrypted", async (args, output) => {
    const { code, stdout, stderr } = await machine.run(args);
    expect([code, stdout]).toEqual([0, expect.stringMatching(output)]);
    expect(stdout + stderr).toMatch(/not encrypted/);
  });

  test("is not written to by sql", async () => {
    for (const args of [
      ["sql", "DELETE FROM clients"],
      ["sql", "--write", "--yes", "DELETE FROM clients"],
    ]) {
      const { code, stderr } = await machine.run(args);
      expect([10, 17]).toContain(code);
      expect(stderr).toMatch(/^error: /m);
    }
    await using database = await openHub(hub.name, "readonly");
    expect(await database.size()).toBe(3);
  });

  test("gets the clients of its backup again, and what was added since is revoked", async () => {
    const made = await machine.json(
      ...["backup", ...directories(), "--recovery-key-file", keyFile()],
    );
    const { backup } = made.document as { backup: { path: string } };
    {
      await using database = await openHub(hub.name, "create");
      await database.updateItem({ ...(clients[0] as Client), name: "renamed" });
      await database.deleteItem(3);
      await database.addItem(newClient({ client_id: 4, api_key: "of a guest", name: "guest" }));
    }
    const { code, document } = await machine.json(
      "restore",
      backup.path,
      "--into",
      hub.name,
      "--yes",
    );
    expect(code).toBe(0);
    expect(document).toMatchObject({
      restored: { module: hub.name, clients: { active: 1, revoked: 3 }, stayed_revoked: [3] },
    });
    const { restored } = document as { restored: { replaced: string } };
    expect((await machine.run(["verify", restored.replaced])).code).toBe(0);
    const records: string[] = [];
    await using database = await openHub(hub.name, "readonly");
    for await (const client of database) records.push(serializeClient(normalizeClient(client)));
    const wanted = [clients[0] as Client, revoked(2), revoked(3), revoked(4)];
    expect(records).toEqual(wanted.map((client) => serializeClient(normalizeClient(client))));
  });
});

test("a restore into the encrypted store by --into, and one with --to, are refused", async () => {
  await setUp(hubs[1] as Hub);
  await writeFile(machine.path("file"), "");
  for (const [options, message] of [
    [["--into", sqlcipherPluginName], /is the encrypted store/],
    [["--into", "hivemind-json-db-plugin", "--to", machine.path("x.db")], /cannot be combined/],
    [["--into-setting", "name=x"], /needs --into/],
    [["--into", "hivemind-json-db-plugin", "--hub", "auto"], /--hub cannot be combined/],
    ...[
      ["--unit", "hub"],
      ["--service", "systemd"],
      ["--stop-command", "true"],
      ["--start-command", "true"],
      ["--hub", "auto"],
      ["--discard-replaced"],
      ["--readmit-revoked"],
    ].map(
      (option) =>
        [
          ["--to", machine.path("x.db"), ...option],
          RegExp(`${option[0]} cannot be combined with --to`),
        ] as const,
    ),
  ] as const) {
    const { code, stderr } = await machine.run(["restore", machine.path("file"), ...options]);
    expect([code, stderr]).toEqual([2, expect.stringMatching(message)]);
  }
});

test("a restore into a SQLite database other than the store is refused during an operation on it", async () => {
  await setUp(hubs[1] as Hub);
  await writeFile(machine.path("file"), "");
  const target = join(dirname(machine.store), "guest.db");
  await writeFile(target, "");
  await using _ = await acquireLock(target);
  const { code, stderr } = await machine.run([
    ...[
      "restore",
      machine.path("file"),
      "--into",
      sqlitePluginName,
      "--into-setting",
      "name=guest",
    ],
  ]);
  expect([code, stderr]).toEqual([11, expect.stringContaining(`is running on ${target}`)]);
});

const killedAt = (step: string) => ({
  NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
  HIVEMIND_TEST_AT_STEP: JSON.stringify({ [step]: "kill" }),
});

test.each(["beginning", "finished", "verified", "bundled", "claiming", "claimed", "committed"])(
  "a backup killed at %s leaves nothing after the next backup but backups that verify",
  async (step) => {
    await setUp(hubs[1] as Hub);
    const args = ["backup", ...directories(), "--recovery-key-file", keyFile()];
    const killed = await machine.run(args, { env: killedAt(`backup.${step}`) });
    expect(killed.code).toBeNull();
    expect((await machine.run(["backup", ...directories()])).code).toBe(0);
    const names = readdirSync(machine.path("backups"));
    const backups = names.filter((name) => name.endsWith(".db"));
    expect(backups).toHaveLength(["claiming", "claimed", "committed"].includes(step) ? 2 : 1);
    expect(names).toHaveLength(2 * backups.length);
    for (const name of backups) {
      expect((await machine.run(["verify", machine.path("backups", name)])).code).toBe(0);
    }
    const bundles = readdirSync(machine.path("bundles")).map((name) =>
      name.split(".").slice(2).join("."),
    );
    expect(bundles.toSorted()).toEqual(
      Array.from({ length: bundles.length / 2 }, () => ["bundle.age", "bundle.age.proof.json"])
        .flat()
        .toSorted(),
    );
    expect((await machine.json("status")).document).toMatchObject({ pending: null, problems: [] });
  },
);

test("a restore killed before it has written is recovered, and run again", async () => {
  await setUp(hubs[1] as Hub);
  const made = await machine.json("backup", ...directories(), "--recovery-key-file", keyFile());
  const { backup } = made.document as { backup: { path: string } };
  {
    await using database = await openHub("hivemind-json-db-plugin", "create");
    await database.updateItem({ ...(clients[0] as Client), name: "renamed" });
  }
  const args = ["restore", backup.path, "--into", "hivemind-json-db-plugin", "--yes"];
  const killed = await machine.run(args, { env: killedAt("restore-into.writing") });
  expect(killed.code).toBeNull();
  const { code, stderr } = await machine.run(args);
  expect([code, stderr]).toEqual([0, expect.stringMatching(/was interrupted: run it again/)]);
  expect((await machine.json("status")).document).toMatchObject({ pending: null });
  await using database = await openHub("hivemind-json-db-plugin", "readonly");
  expect((await database.getClientById(1))?.name).toBe("kitchen");
});

describe.each(hubs.slice(0, 2))("a hub on $name", (hub) => {
  test("that has lost its database gets the clients of its backup, and revoked ids for gaps", async () => {
    await setUp(hub);
    {
      await using database = await openHub(hub.name, "create");
      await database.addItem(newClient({ client_id: 6, api_key: "of the attic", name: "attic" }));
    }
    const made = await machine.json("backup", ...directories(), "--recovery-key-file", keyFile());
    const { backup } = made.document as { backup: { path: string } };
    for (const name of ["clients.db", "clients.json"]) {
      await rm(join(dirname(machine.store), name), { force: true });
    }
    const args = ["restore", backup.path, "--into", hub.name];
    const asked = await machine.run(args);
    if (hub.name.includes("json")) {
      expect([asked.code, asked.stderr]).toEqual([2, expect.stringMatching(/may overwrite/)]);
      // The bundle's passphrase is in the keyring, so the origin of the backup is no question.
      const opened = await machine.run([...args, "--identity", keyFile()]);
      expect([opened.code, opened.stderr]).toEqual([2, expect.stringMatching(/may overwrite/)]);
    }
    const { code, document } = await machine.json(...args, "--yes");
    expect([code, document]).toEqual([
      0,
      expect.objectContaining({
        restored: expect.objectContaining({ clients: { active: 3, revoked: 3 } }),
      }),
    ]);
    await using database = await openHub(hub.name, "readonly");
    const ids = [1, 2, 3, 4, 5, 6];
    const found = await database.getClientsById(ids);
    expect(found.map((client) => client && !isRevoked(client))).toEqual([
      ...[true, false, true, false, false, true],
    ]);
  });
});
