import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { expect, onTestFinished, test, vi } from "vitest";
import { readDrills, recordDrill } from "../../src/backup/drill-record.js";
import { recordRestoreTest } from "../../src/backup/restore-test.js";
import { newClient } from "../../src/client/client.js";
import { readCopyStates, recordCopy } from "../../src/copies/copy-record.js";
import { checkCopyTargets } from "../../src/diagnostics/backups.js";
import { checkRestoreTest } from "../../src/diagnostics/bundle.js";
import { checkContainers } from "../../src/diagnostics/containers.js";
import { checkCopies, checkFileSystem } from "../../src/diagnostics/files.js";
import { checkHub, checkServerJson } from "../../src/diagnostics/hub.js";
import { fillIdGaps, findIdGaps } from "../../src/diagnostics/id-gaps.js";
import { checkCoreDumps, checkSwap } from "../../src/diagnostics/machine.js";
import { checkSchedule } from "../../src/diagnostics/schedule.js";
import { StoreError } from "../../src/errors.js";
import { parseSource } from "../../src/keys/source.js";
import { readRuns, recordRun } from "../../src/operation/run-record.js";
import { ClientStore } from "../../src/store/client-store.js";
import { interpreter, runPython } from "../interop/python.js";
import { temporaryFolder } from "../store/temporary.js";

const passphrase = "a passphrase";

async function storeWith(path: string, ids: readonly number[]): Promise<ClientStore> {
  await mkdir(dirname(path), { recursive: true });
  const store = await ClientStore.open(path, passphrase, { mode: "create" });
  await store.addItems(ids.map((id) => newClient({ client_id: id, api_key: `key ${id}` })));
  return store;
}

/** Adds clients with the hub's own code, and returns the overwritten ids. */
function hubAdds(home: string, count: number): number[] {
  return runPython<number[]>(
    "development",
    home,
    `from hivemind_core.database import ClientDatabase
plugin = "hivemind-sqlite-db-plugin"
database = ClientDatabase({"module": plugin, plugin: {"password": given["passphrase"]}})
for number in range(given["count"]):
    database.add_client(f"new {number}", f"new key {number}")
answer = [client.client_id for client in database if client.name.startswith("new ") and client.client_id <= given["highest"]]`,
    { passphrase, count, highest: 7 },
  );
}

test("the hub overwrites the predicted client, and none after the gaps are filled", async () => {
  const ids = [1, 2, 3, 4, 7];
  const home = await temporaryFolder();
  const path = join(home, "hivemind-core", "clients.db");
  {
    await using store = await storeWith(path, ids);
    expect(await findIdGaps(store)).toEqual({ missing: 2, next: { overwrites: 7, after: 1 } });
  }
  expect(hubAdds(home, 2)).toContain(7);

  await rm(dirname(path), { recursive: true });
  {
    await using store = await storeWith(path, ids);
    expect(await fillIdGaps(store)).toBe(2);
    expect(await findIdGaps(store)).toEqual({ missing: 0, next: undefined });
    expect(await fillIdGaps(store)).toBe(0);
  }
  expect(hubAdds(home, 3)).toEqual([]);
  await using store = await ClientStore.open(path, passphrase);
  expect((await store.getClientById(7))?.api_key).toBe("key 7");
  expect(await store.counts()).toEqual({ active: 8, revoked: 2 });
});

test("the prediction matches count + 1 for any ids, and filling prevents it", async () => {
  await using store = await storeWith(join(await temporaryFolder(), "clients.db"), []);
  const someIds = fc.uniqueArray(fc.integer({ min: -2, max: 40 }), { maxLength: 25 });
  await fc.assert(
    fc.asyncProperty(someIds, async (ids) => {
      await store.connection.run("DELETE FROM clients");
      await store.addItems(ids.map((id) => newClient({ client_id: id, api_key: `key ${id}` })));
      const { next } = await findIdGaps(store);
      expect(next).toEqual(predict(new Set(ids)));
      await fillIdGaps(store);
      expect(await findIdGaps(store)).toEqual({ missing: 0, next: undefined });
      const kept = new Set<number>();
      for await (const { client_id, api_key } of store) {
        if (api_key !== "revoked") kept.add(client_id);
      }
      expect(kept).toEqual(new Set(ids));
    }),
    { numRuns: 60 },
  );
});

/** Adds ids like the hub until it overwrites one or has passed all of them. */
function predict(ids: Set<number>) {
  const highest = Math.max(0, ...ids);
  for (let added = 0; ids.size < highest; added++) {
    const id = ids.size + 1;
    if (ids.has(id)) return { overwrites: id, after: added };
    ids.add(id);
  }
  return undefined;
}

test("a gap below a freely chosen id is not filled", async () => {
  await using store = await storeWith(
    join(await temporaryFolder(), "clients.db"),
    [1, 4_000_000_000],
  );
  await expect(fillIdGaps(store)).rejects.toMatchObject({ kind: "refused" });
  expect(await store.size()).toBe(2);
});

test("swap is safe in memory, or if every disk below it is encrypted", async () => {
  const root = await temporaryFolder();
  const swaps = (...areas: string[]) =>
    writeFile(
      join(root, "proc/swaps"),
      `Filename\tType\tSize\tUsed\tPriority\n${areas.map((area) => `${area} partition 1 0 -2\n`).join("")}`,
    );
  const device = async (name: string, below: string[] = [], uuid = "") => {
    await mkdir(join(root, "sys/class/block", name, "slaves"), { recursive: true });
    await mkdir(join(root, "sys/class/block", name, "dm"), { recursive: true });
    await writeFile(join(root, "sys/class/block", name, "dm/uuid"), uuid);
    for (const part of below) {
      await symlink(`../../${part}`, join(root, "sys/class/block", name, "slaves", part));
    }
  };
  await mkdir(join(root, "proc"));
  expect(await checkSwap(root)).toMatchObject({ ok: true });
  await device("plain");
  await device("crypt", ["plain"], "CRYPT-LUKS2-0123-luks\n");
  await device("volume-in-crypt", ["crypt"], "LVM-abc");
  await device("volume-on-both", ["crypt", "plain"], "LVM-abc");
  await swaps("/dev/zram0", "/dev/crypt", "/dev/volume-in-crypt");
  expect(await checkSwap(root)).toMatchObject({ ok: true });
  for (const area of ["/dev/plain", "/dev/volume-on-both", "/swap\\040file"]) {
    await swaps("/dev/zram0", area);
    expect(await checkSwap(root)).toMatchObject({
      ok: false,
      detail: expect.stringContaining(area.replace("\\040", " ")),
      fix: expect.stringContaining("swapoff -a"),
    });
    // What swapoff -a leaves of the list.
    await swaps();
    expect(await checkSwap(root)).toMatchObject({ ok: true });
  }
});

test("core dumps of the hub are a finding that names their destination", async () => {
  const root = await temporaryFolder();
  for (const [process, limit] of [
    ["self", "0"],
    ["77", "unlimited"],
  ] as const) {
    await mkdir(join(root, "proc", process), { recursive: true });
    await writeFile(
      join(root, "proc", process, "limits"),
      `Limit                     Soft Limit           Hard Limit           Units\nMax core file size        ${limit}            unlimited            bytes\n`,
    );
  }
  await mkdir(join(root, "proc/sys/kernel"), { recursive: true });
  await writeFile(
    join(root, "proc/sys/kernel/core_pattern"),
    "|/usr/lib/systemd/systemd-coredump %P\n",
  );
  expect(await checkCoreDumps({ pid: undefined }, root)).toMatchObject({ ok: true });
  expect(await checkCoreDumps({ pid: 77 }, root)).toMatchObject({
    ok: false,
    detail: expect.stringMatching(/the hub .*systemd-coredump$/),
    fix: expect.stringContaining("LimitCORE=0"),
  });
});

test("the packages of HiveMind 4 and 5 are checked for the store's format and schema", async () => {
  const choice = { service: "none", unit: "none", storePath: "/nowhere" } as const;
  const store = { schemaVersion: 2, revoked: 0 } as const;
  const ask = (line: "released" | "development", cipherCompatibility: 3 | 4 = 4) =>
    checkHub({
      ...{ service: undefined, choice, hubPython: interpreter(line) },
      store: { ...store, cipherCompatibility },
    });
  expect(await ask("development")).toMatchObject([
    { ok: true, detail: expect.stringMatching(/SQLCipher 4/) },
  ]);
  // SQLCipher 4 reads format 3 only with a PRAGMA, which no hub sends.
  expect(await ask("development", 3)).toMatchObject([
    {
      severity: "error",
      detail: expect.stringMatching(/\(4\..*\) reads format 4, but the store has format 3$/),
      fix: "hivemind-sqlcipher encrypt --cipher-compatibility 4",
    },
  ]);
  const [released] = await ask("released");
  expect(released).toMatchObject({ name: "hub", ok: false, severity: "error" });
  expect(released?.detail).toMatch(/cannot use an encrypted store|enforces no blacklist/);
  expect(released?.fix).toMatch(/pip install/);
});

test("a revoked client in a store of HiveMind 4 is a finding, unless the hub is known to be HiveMind 5", async () => {
  const choice = { service: "none", unit: "none", storePath: "/nowhere" } as const;
  const ask = (facts: object, hubPython?: string) =>
    checkHub({
      ...{ service: undefined, choice, hubPython },
      store: { schemaVersion: 1, cipherCompatibility: 4, revoked: 1, ...facts },
    });
  expect(await ask({})).toMatchObject([
    { severity: "error", detail: expect.stringMatching(/presents the access key "revoked"/) },
  ]);
  expect(await ask({ revoked: 0 })).toMatchObject([{ ok: true }]);
  expect(await ask({ schemaVersion: 2 })).toMatchObject([{ ok: true }]);
  expect(await ask({}, interpreter("development"))).toMatchObject([{ ok: true }]);
});

test("server.json: another store, a password, and a comment that the hub cannot read", async () => {
  const home = await temporaryFolder();
  const path = join(home, "hivemind-core", "server.json");
  await mkdir(dirname(path));
  const plugin = "hivemind-sqlite-db-plugin";
  const before = { ...process.env };
  process.env.XDG_CONFIG_HOME = home;
  process.env.XDG_DATA_HOME = home;
  try {
    const store = join(home, "hivemind-core", "clients.db");
    const check = async (settings: unknown) => {
      await writeFile(path, typeof settings === "string" ? settings : JSON.stringify(settings));
      await chmod(path, 0o644);
      return checkServerJson({ storePath: store, bundleFolder: undefined });
    };
    expect(await check({ database: { module: plugin } })).toMatchObject([{ ok: true }]);
    const open = await check({ database: { module: plugin, [plugin]: { password: "s3cret" } } });
    expect(open).toMatchObject([{ name: "password", ok: false, severity: "error" }]);
    expect(JSON.stringify(open)).not.toContain("s3cret");
    expect(open[0]?.fix).toContain(`chmod 600 '${path}'`);
    expect(await check({ database: { module: "hivemind-json-db-plugin" } })).toMatchObject([
      { ok: false, detail: expect.stringContaining("hivemind-json-db-plugin") },
    ]);
    expect(
      await check({ database: { module: plugin, [plugin]: { name: "others" } } }),
    ).toMatchObject([{ ok: false, detail: expect.stringContaining("others.db") }]);
    expect(await check('{"database": {} /* no */}')).toMatchObject([
      { ok: false, severity: "error", detail: expect.stringMatching(/line 1/) },
    ]);
    await rm(path);
    expect(await checkServerJson({ storePath: store, bundleFolder: undefined })).toMatchObject([
      { ok: true },
    ]);
  } finally {
    process.env = before;
  }
});

test("a store on a file system of another machine is a finding", async () => {
  const on = (type: number) => checkFileSystem("/data/clients.db", async () => type);
  expect(await on(0xef53)).toEqual([]);
  for (const [type, name] of [
    [0x6969, "NFS"],
    [0x01021997, "9p"],
    [0x6a656a63, "virtiofs"],
    [0xff534d42, "SMB"],
  ] as const) {
    expect(await on(type)).toMatchObject([
      { severity: "warning", detail: expect.stringContaining(`/data is on ${name}:`) },
    ]);
  }
});

test("a broken symbolic link with the name of a file in plain text is no finding", async () => {
  const directory = await temporaryFolder();
  const locations = {
    ...{ storePath: join(directory, "clients.db"), settingsPath: join(directory, "settings") },
    ...{ backupFolder: undefined, bundleFolder: undefined },
  };
  await symlink("missing", join(directory, "clients.json"));
  const checks = await checkCopies(locations);
  expect(checks.filter(({ detail }) => detail.includes(directory))).toEqual([]);
});

test("a JSON database that the hub of another account uses is not to be deleted", async () => {
  const home = await temporaryFolder();
  const place = (name: string) => join(home, name, "hivemind-core");
  await mkdir(place("data"), { recursive: true });
  await mkdir(place("config"), { recursive: true });
  await writeFile(join(place("data"), "clients.json"), "{}");
  const locations = {
    ...{ storePath: join(place("data"), "clients.db"), settingsPath: join(home, "settings") },
    ...{ backupFolder: undefined, bundleFolder: undefined },
  };
  const fixes = async () =>
    (await checkCopies(locations)).filter(({ name }) => name === "plaintext").map(({ fix }) => fix);
  const erase = [expect.stringContaining("shred")];
  expect(await fixes()).toEqual(erase);

  await writeFile(join(home, "hivemind-core"), "read _\n");
  const environment = { XDG_DATA_HOME: join(home, "data"), XDG_CONFIG_HOME: join(home, "config") };
  const env = { ...process.env, ...environment };
  const hub = spawn("/bin/sh", [join(home, "hivemind-core"), "listen"], { env });
  onTestFinished(() => void hub.kill("SIGKILL"));
  await once(hub, "spawn");
  const setModule = (module: string) =>
    writeFile(join(place("config"), "server.json"), JSON.stringify({ database: { module } }));
  await setModule("hivemind-json-db-plugin");
  expect(await fixes()).toEqual(["hivemind-sqlcipher setup"]);
  await setModule("hivemind-sqlite-db-plugin");
  expect(await fixes()).toEqual(erase);
});

test("a passphrase source in an engine's secrets is a finding", async () => {
  const check = (text: string) =>
    checkContainers({ storePath: "/data/clients.db", source: parseSource(text) }, undefined, {
      isEncrypted: true,
      passphrase: undefined,
    });
  const found = [{ severity: "error", fix: expect.stringContaining("bundle import") }];
  expect(await check("command:podman secret inspect --showsecret hub")).toMatchObject(found);
  expect(await check("file:/var/lib/containers/storage/secrets/filedriver/x")).toMatchObject(found);
  expect(await check("keyring")).toEqual([]);
});

test("a failed backup, drill or prune is a finding by its record until one succeeds", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  const run = { at: "2026-11-24T18:50:00Z", duration_ms: 1, stopped_ms: null, size: null };
  const record = (operation: string, exit_code: number) =>
    recordRun(store, operation, { ...run, exit_code });
  const failures = async () =>
    [await checkSchedule(store, parseSource("keyring"), "")].flat().filter(({ ok }) => !ok);
  for (const operation of ["rotate", "backup", "drill", "prune"]) {
    await record(operation, 0);
    await record(operation, 18);
  }
  expect(await failures()).toMatchObject(
    ["backup", "drill", "prune"].map((operation) => ({
      detail: `the last ${operation} failed on ${run.at}: exit code 18`,
      fix: `Remove the cause; then: hivemind-sqlcipher ${operation}`,
    })),
  );
  for (const operation of ["backup", "drill", "prune"]) await record(operation, 0);
  expect(await failures()).toEqual([]);
});

test("a failed prune of a target is a finding although those of other targets succeed", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  const times = { duration_ms: 1, stopped_ms: null, size: null };
  const record = (name: string, exit_code: number, { isConfigured = true, days = 0 } = {}) => {
    const at = new Date(Date.now() - days * 86_400_000).toISOString();
    const target = { name, isDefault: name === "/srv/backup", isConfigured };
    return recordRun(store, "prune", { ...times, at, exit_code }, target);
  };
  const failures = async () =>
    [await checkSchedule(store, parseSource("keyring"), "")].flat().filter(({ ok }) => !ok);
  const unknown = { isConfigured: false };
  await record("/srv/backup", 0);
  await record("/media/an old disk", 18);
  await record("/mistyped", 10, unknown);
  await record("/srv/other", 0);
  await record("/srv/backup", 0);
  expect(Object.keys(await readRuns(store))).toEqual([
    ...["prune /media/an old disk", "prune /srv/other", "prune"],
  ]);
  expect(await failures()).toMatchObject([
    {
      detail: expect.stringMatching(
        /^the last prune of \/media\/an old disk failed on .* code 18$/,
      ),
      fix: "Remove the cause; then: hivemind-sqlcipher prune '/media/an old disk'",
    },
  ]);
  await record("/srv/other", 18, unknown);
  expect(await failures()).toHaveLength(2);
  // Without a scheduler that repeats it.
  await record("/media/an old disk", 18, { days: 40 });
  expect(await failures()).toMatchObject([{ detail: expect.stringContaining("/srv/other") }]);
  for (let count = 0; count < 25; count += 1) await record(`/dated/${count}`, 0, unknown);
  expect(Object.keys(await readRuns(store))).toHaveLength(21);
});

test("a success that a clock ahead has recorded does not hide that nothing succeeds any more", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  const [ahead, now] = [new Date(Date.now() + 86_400_000), new Date()];
  const copy = { target: "/media/usb", contents: "backups", copied: [], durationMs: 1 } as const;
  const failed = { ...copy, errors: [new StoreError("io", "disk full")] };
  const report = { ...copy, errors: [], skipped: null, postponed: 0 };
  const run = { duration_ms: 1, stopped_ms: null, size: null };
  const drill = { target: "/media/usb", duration_ms: 1, size: null };
  const record = async (at: Date, exit_code: number) => {
    const times = { at: at.toISOString(), exit_code };
    await recordRun(store, "backup", { ...run, ...times });
    await recordDrill(store, { ...drill, ...times }, { isConfigured: true });
    await recordCopy(store, exit_code === 0 ? report : { ...report, ...failed }, at);
  };
  const targets = [{ target: "/media/usb", contents: "backups" }] as const;
  await record(ahead, 0);
  expect(await checkCopyTargets(store, targets)).toMatchObject([{ ok: false }]);
  await record(now, 18);
  const never = { succeeded_at: null };
  expect((await readRuns(store)).backup).toMatchObject(never);
  expect(await readDrills(store)).toMatchObject([never]);
  expect(await readCopyStates(store, targets)).toMatchObject([never]);
});

test("a restore test from the future is a finding", async () => {
  const store = join(await temporaryFolder(), "clients.db");
  vi.useFakeTimers({ now: Date.now() + 86_400_000, toFake: ["Date"] });
  onTestFinished(() => void vi.useRealTimers());
  const details = { how: "drill", backup: "/b/clients.db", key_id: "k" } as const;
  await recordRestoreTest(store, details, { withBundle: true });
  vi.useRealTimers();
  const unset = { settingsPath: "", backupFolder: undefined, bundleFolder: undefined };
  expect(await checkRestoreTest({ storePath: store, ...unset }, undefined)).toMatchObject(
    ["restore-tried", "bundle-tried"].map((name) => ({
      ...{ name, ok: false, detail: expect.stringContaining("is from the future") },
    })),
  );
});
