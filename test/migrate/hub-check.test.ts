/**
 * A migration that hands over to the hub asks the hub: with the real packages of HiveMind 4 and 5,
 * in a home of its own and in the session's user manager.
 */
import { execFile } from "node:child_process";
import { chown, copyFile, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import type { Endpoint } from "../../src/databases/plugin.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { currentAccount } from "../../src/hub/account.js";
import { findHubProcesses } from "../../src/hub/find-hubs.js";
import { readServerJson } from "../../src/hub/server-json.js";
import { resolveHubDatabase } from "../../src/migrate/hub-database.js";
import type { TestedHub } from "../../src/migrate/hubs.js";
import { assertServedOrSwitchBack } from "../../src/migrate/served.js";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import { RedisServer } from "../databases/redis-server.js";
import { isRoot, nobody } from "../files/others.js";
import { hubScript } from "../hub/support.js";
import { removeUnits, systemctl, uniqueName, writeUnits } from "../service/units.js";
import { temporaryFolder } from "../store/temporary.js";

const exec = promisify(execFile);
const json = "hivemind-json-db-plugin";
const sqlcipher = "hivemind-sqlcipher-db-plugin";
const sqlite = "hivemind-sqlite-db-plugin";
const redis = "hivemind-redis-db-plugin";

interface Hub {
  readonly machine: Machine;
  readonly server: string;
  readonly clients: string;
  /** `server.json` and `clients.json`, as they are now. */
  readonly files: () => Promise<string[]>;
}

/**
 * A default hub: two clients in the JSON database, and an encrypted store beside it that is ready.
 */
async function jsonHub(): Promise<Hub> {
  const machine = await Machine.make();
  const server = machine.path("config", "hivemind-core", "server.json");
  const clients = machine.path("data", "hivemind-core", "clients.json");
  await mkdir(dirname(server), { recursive: true });
  const settings = { network_protocol: {}, database: { module: json, [json]: {} } };
  await writeFile(server, JSON.stringify(settings, null, 2));
  {
    const subfolder = dirname(clients);
    await using database = await DatabaseFactory.create(json, { subfolder });
    await database.addItems(
      ["a", "b"].map((key, index) => newClient({ client_id: index + 1, api_key: key })),
    );
  }
  await machine.init();
  const files = () => Promise.all([server, clients].map((path) => readFile(path, "utf8")));
  return { machine, server, clients, files };
}

const switching = ["migrate", "--from", json, "--to", sqlcipher, "--switch"];
const removing = [...switching, "--remove-source"];

async function python(line: "released" | "development"): Promise<string> {
  return join(dirname(await hubScript(line)), "python");
}

/** An environment as ovos-installer leaves it: hivemind-core without the SQLite plugin. */
async function withoutSqlitePlugin(machine: Machine): Promise<string> {
  const source = dirname(dirname(await hubScript("development")));
  const environment = machine.path("venv");
  await exec("cp", ["-a", source, environment]);
  const packages = await exec("sh", ["-c", 'ls -d "$0"/lib/python3.*/site-packages', environment]);
  await exec("sh", [
    "-c",
    'rm -rf "$0"/hivemind_sqlite_database* "$0"/sqlcipher3*',
    packages.stdout.trim(),
  ]);
  return join(environment, "bin", "python");
}

test("a hub without the SQLite plugin is not switched away from its only database", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const interpreter = await withoutSqlitePlugin(hub.machine);
  for (const args of [switching, removing]) {
    const { code, stderr } = await hub.machine.run([...args, "--hub-python", interpreter]);
    expect(stderr).toContain(`the hub in ${interpreter} cannot open an encrypted store`);
    expect(stderr).toContain("pip install --pre");
    expect(code).toBe(17);
  }
  const plain = [
    "migrate",
    "--from",
    json,
    "--to",
    sqlite,
    "--to-setting",
    "name=plain",
    "--switch",
  ];
  const { code, stderr } = await hub.machine.run([...plain, "--hub-python", interpreter]);
  expect([code, stderr]).toEqual([17, expect.stringContaining(`cannot load ${sqlite}`)]);
  expect(await hub.files()).toEqual(before);
  const listed = await hub.machine.json("list-clients", "--revoked");
  expect(listed.document.clients).toEqual([]);
});

test("HiveMind 4's plugin, which ignores passwords, is not given an encrypted store", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const { code, stderr } = await hub.machine.run([
    ...[...switching, "--hub-python", await python("released")],
  ]);
  expect(stderr).toContain("ignores the password");
  expect(code).toBe(17);
  expect(await hub.files()).toEqual(before);
});

test("without a hub, --switch says how to name it or that there is none", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const env = { PATH: "/usr/bin:/bin" };
  const refused = await hub.machine.run(switching, { env });
  expect([refused.code, refused.stderr]).toEqual([17, expect.stringContaining("--hub none")]);
  const removal = await hub.machine.run([...removing, "--hub", "none"], { env });
  expect([removal.code, removal.stderr]).toEqual([2, expect.stringContaining("--hub none")]);
  expect(await hub.files()).toEqual(before);
  expect((await hub.machine.run([...switching, "--hub", "none"], { env })).code).toBe(0);
});

test("a running hub keeps its database, whatever its unit is called, and the unit is named", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const unit = uniqueName();
  const bin = hub.machine.path("bin");
  await mkdir(bin);
  // What matters is the command line, which a process that waits shows as the hub does.
  await symlink("/bin/sleep", join(bin, "sleep"));
  await writeFile(join(bin, "hivemind-core"), "#!/bin/sh\nexec sleep 600\n", { mode: 0o755 });
  const environment = `Environment=XDG_CONFIG_HOME=${hub.machine.path("config")}`;
  const command = `/bin/sh -c 'sleep 600 # "$0"' ${join(bin, "hivemind-core")} listen`;
  await writeUnits({ [`${unit}.service`]: `[Service]\n${environment}\nExecStart=${command}\n` });
  onTestFinished(() => removeUnits(`${unit}.service`));
  await systemctl("start", unit);
  while ((await findHubProcesses(hub.server)).length === 0) await delay(20);
  const { code, stderr } = await hub.machine.run([
    ...[...removing, "--hub-python", await python("development")],
  ]);
  expect(stderr).toContain(`${unit}.service is a running hub`);
  expect(stderr).toContain(`systemctl --user stop '${unit}.service'`);
  expect(code).toBe(17);
  expect(await hub.files()).toEqual(before);

  await systemctl("stop", unit);
  const stopped = await hub.machine.run([
    ...[...switching, "--hub-python", await python("development")],
  ]);
  expect(stopped.stderr).toContain(`${unit}.service starts the hub without its passphrase`);
  expect(stopped.code).toBe(17);
  expect(await hub.files()).toEqual(before);
});

test("the source goes once the hub's own packages have read the clients from the target", async () => {
  const hub = await jsonHub();
  const { code, stderr, stdout } = await hub.machine.run([
    ...[...removing, "--hub-python", await python("development"), "--json"],
  ]);
  expect([code, stderr]).toEqual([0, expect.any(String)]);
  expect(JSON.parse(stdout)).toMatchObject({
    migrated: { removed: [hub.clients], verified: true },
  });
  await expect(readFile(hub.clients)).rejects.toMatchObject({ code: "ENOENT" });
});

test.each([
  [{ active: 1, revoked: 0, found: true }, "read 1 client from the target; expected: 2"],
  [{ active: 2, revoked: 1, found: true }, "read 1 revoked client from the target; expected: 0"],
  [{ active: 2, revoked: 0, found: false }, "do not find a client of the target by its API key"],
])(
  "if the hub's packages do not read the clients from the target (%j), server.json is put back and the source stays",
  async (served, problem) => {
    const hub = await jsonHub();
    const before = await hub.files();
    const interpreter = await standIn(hub.machine, JSON.stringify(served));
    const { code, stderr } = await hub.machine.run([...removing, "--hub-python", interpreter]);
    expect(stderr).toContain(problem);
    expect(stderr).toContain("names the old database again, and the source stays");
    expect(code).toBe(1);
    expect(await hub.files()).toEqual(before);
  },
);

test("a target that is replaced after the comparison is not complete, whatever the hub reads from it", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const folder = hub.machine.path("elsewhere");
  {
    await using target = await DatabaseFactory.create(sqlite, { subfolder: folder });
    await target.addItem(newClient({ client_id: 3, api_key: "c" }));
  }
  const path = join(folder, "clients.db");
  // A restore or a rotation that began before the migration, with the clients of that time.
  const replace = `mv '${path}.old' '${path}'`;
  await copyFile(path, `${path}.old`);
  const { code, stderr } = await hub.machine.run(
    [
      ...["migrate", "--from", json, "--to", sqlite, "--to-setting", `db_path=${path}`],
      ...["--merge", "--switch", "--remove-source", "--hub-python", await python("development")],
    ],
    {
      env: {
        NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
        HIVEMIND_TEST_AT_STEP: JSON.stringify({ "migrate.compared": replace }),
      },
    },
  );
  expect(stderr).toContain("read 1 client from the target; expected: 3");
  expect(stderr).toContain("names the old database again, and the source stays");
  expect(code).toBe(1);
  expect(await hub.files()).toEqual(before);
});

/** Lets a hub read a target with one client in a folder, after a migration from there. */
async function readTarget(folder: string, to: Endpoint, hub: TestedHub): Promise<void> {
  const server = join(folder, "server.json");
  await writeFile(server, "{}");
  const from = { name: json, config: { subfolder: folder, name: "source" } };
  for (const { name, config } of [from, to]) {
    await using database = await DatabaseFactory.create(name, config);
    await database.addItem(newClient({ client_id: 1, api_key: "a" }));
  }
  const copied = { keptRevoked: [], inTarget: { active: 1, revoked: 0 } };
  const target = { from, to, database: resolveHubDatabase(to), copied };
  const before = await readServerJson(server);
  await assertServedOrSwitchBack([hub], target, before, async () => undefined);
}

test.each([
  [sqlite, "clients.db", {}],
  [json, "clients.json", {}],
  [json, "clients.ejson", { password: "sixteen letters!" }],
])(
  "a hub reads a target whose path is a link to another ending, %s by %s",
  async (name, file, more) => {
    const folder = await temporaryFolder();
    await symlink(join(folder, "disk", "hivemind.data"), join(folder, file));
    const to = { name, config: { subfolder: folder, ...more } };
    const hub = { python: [await python("development")] as const, account: currentAccount() };
    await readTarget(folder, to, hub);
  },
);

test.skipIf(!isRoot)("root lets the hub's own user read the target", async () => {
  const folder = await temporaryFolder();
  const interpreter = join(folder, "python");
  // The real interpreter may be in root's home, which this user cannot enter.
  await writeFile(
    interpreter,
    `#!/bin/sh
home=$(sed 's/.*"home": "\\([^"]*\\)".*/\\1/')
cat "$home/hivemind-core/copy.db" >/dev/null && echo '{"active": 1, "revoked": 0, "found": true}'
`,
    { mode: 0o755 },
  );
  await chown(folder, nobody, nobody);
  const account = { uid: nobody, gid: nobody, environment: { PATH: process.env.PATH } };
  const to = { name: sqlite, config: { subfolder: folder } };
  await readTarget(folder, to, { python: [interpreter], account });
  const left = (await readdir("/var/tmp")).filter((name) => name.startsWith("hub-check-"));
  expect(left).toEqual([]);
});

/** Returns an interpreter that answers as the real packages do, until it is to read the target. */
async function standIn(machine: Machine, served: string): Promise<string> {
  const interpreter = machine.path("python");
  const real = await python("development");
  await writeFile(
    interpreter,
    `#!/bin/sh\ncase "$*" in *ClientDatabase\\(request*) echo '${served}';; *) exec ${real} "$@";; esac\n`,
    { mode: 0o755 },
  );
  return interpreter;
}

test("a hub that reads no record does not pass for a target without active clients", async () => {
  const hub = await jsonHub();
  {
    await using source = await DatabaseFactory.create(json, { subfolder: dirname(hub.clients) });
    for (const id of [1, 2]) await source.deleteItem(id);
  }
  const before = await hub.files();
  const served = '{"active": 0, "revoked": 0, "found": true}';
  const interpreter = await standIn(hub.machine, served);
  const { code, stderr } = await hub.machine.run([...removing, "--hub-python", interpreter]);
  expect(stderr).toContain("read 0 revoked clients from the target; expected: 2");
  expect(code).toBe(1);
  expect(await hub.files()).toEqual(before);
});

test("after an attempt that was killed between switch and removal, a failed check does not claim to switch back", async () => {
  const hub = await jsonHub();
  const real = await python("development");
  expect((await hub.machine.run([...switching, "--hub-python", real])).code).toBe(0);
  const before = await hub.files();
  const interpreter = await standIn(hub.machine, '{"active": 0, "revoked": 0, "found": true}');
  const args = [...removing, "--merge", "--hub-python", interpreter];
  const { code, stderr } = await hub.machine.run(args);
  expect(stderr).toContain("names the target since an earlier attempt, and the source stays");
  expect(code).toBe(1);
  expect(await hub.files()).toEqual(before);
});

/** Writes a unit whose hub uses this home, and removes it after the test. */
async function writeHubUnit(name: string, environment: string, command: string): Promise<void> {
  await writeUnits({ [name]: `[Service]\n${environment}\nExecStart=${command}\n` });
  onTestFinished(() => removeUnits(name));
}

test("a unit is found by the configuration directory in its EnvironmentFile, and the way out is named", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const script = await hubScript("development");
  const file = hub.machine.path("env");
  await writeFile(file, `# the hub's\nXDG_CONFIG_HOME="${hub.machine.path("config")}"\n`);
  const unit = `${uniqueName()}.service`;
  await writeHubUnit(unit, `EnvironmentFile=${file}`, `${script} listen`);
  const { code, stderr } = await hub.machine.run([
    ...[...removing, "--hub-python", await python("development")],
  ]);
  expect(stderr).toContain(`${unit} starts the hub without its passphrase`);
  expect(stderr).toContain(`systemctl --user mask '${unit}'`);
  expect(stderr).toContain(`run --print-unit dropin --unit '${unit}'`);
  expect(code).toBe(17);
  expect(await hub.files()).toEqual(before);
});

test("a template without an instance counts as a unit, under its own name", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const unit = `${uniqueName()}@.service`;
  const environment = `Environment=XDG_CONFIG_HOME=${hub.machine.path("config")}`;
  await writeHubUnit(unit, environment, `${await hubScript("development")} listen`);
  const { code, stderr } = await hub.machine.run([
    ...[...removing, "--hub-python", await python("development")],
  ]);
  expect(stderr).toContain(`${unit} starts the hub without its passphrase`);
  expect(stderr).toContain("before the command in its ExecStart=");
  expect(code).toBe(17);
  expect(await hub.files()).toEqual(before);
});

test("a unit that waits for its restart keeps its database", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const unit = `${uniqueName()}.service`;
  const environment = `Environment=XDG_CONFIG_HOME=${hub.machine.path("config")}\nRestart=on-failure\nRestartSec=600`;
  const command = "/bin/sh -c 'exit 1' hivemind-sqlcipher run -- hivemind-core listen";
  await writeHubUnit(unit, environment, command);
  await systemctl("start", unit).catch(() => undefined);
  while ((await systemctl("show", "--property=SubState", "--value", unit)) !== "auto-restart") {
    await delay(20);
  }
  const { code, stderr } = await hub.machine.run([
    ...[...removing, "--hub-python", await python("development")],
  ]);
  expect(stderr).toContain(`${unit} is not stopped`);
  expect(stderr).toContain(`systemctl --user stop '${unit}'`);
  expect(code).toBe(17);
  expect(await hub.files()).toEqual(before);
});

test("if the source changes after the switch, server.json is put back and the source stays", async () => {
  const hub = await jsonHub();
  const [server] = await hub.files();
  const interpreter = hub.machine.path("python");
  const real = await python("development");
  // A hub that starts while the target is read writes to the source.
  await writeFile(
    interpreter,
    `#!/bin/sh\ncase "$*" in *ClientDatabase\\(request*) echo >> ${hub.clients};; esac\nexec ${real} "$@"\n`,
    { mode: 0o755 },
  );
  const { code, stderr } = await hub.machine.run([...removing, "--hub-python", interpreter]);
  expect(stderr).toContain("names the old database again, and the source stays");
  expect(code).not.toBe(0);
  const [serverAfter, clientsAfter] = await hub.files();
  expect(serverAfter).toBe(server);
  expect(clientsAfter).toContain('"api_key": "a"');
});

/** The environment of a hub that uses this home, as lines of a unit. */
function environmentLines(machine: Machine, more: Record<string, string> = {}): string {
  const environment = {
    XDG_CONFIG_HOME: machine.path("config"),
    XDG_DATA_HOME: machine.path("data"),
    ...more,
  };
  return Object.entries(environment)
    .map(([name, value]) => `Environment=${name}=${value}`)
    .join("\n");
}

test("a unit with another data directory is not switched to a database that it does not find", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const unit = `${uniqueName()}.service`;
  const data = hub.machine.path("disk");
  await mkdir(data);
  await writeHubUnit(
    unit,
    environmentLines(hub.machine, { XDG_DATA_HOME: data }),
    `/bin/sh -c 'exit 1' hivemind-sqlcipher run -- ${await hubScript("development")} listen`,
  );
  for (const args of [switching, removing]) {
    const { code, stderr } = await hub.machine.run(args);
    expect(stderr).toContain(`the hub of ${unit} keeps its data in ${data}`);
    expect(stderr).toContain(`XDG_DATA_HOME='${data}' hivemind-sqlcipher migrate`);
    expect(code).toBe(17);
  }
  expect(await hub.files()).toEqual(before);
  const elsewhere = { XDG_DATA_HOME: data };
  const init = ["init", "--recovery-key-file", hub.machine.path("safe", "key-of-disk.txt")];
  const config = ["--config", hub.machine.path("disk.json")];
  const made = await hub.machine.run([...init, ...config], { env: elsewhere });
  expect([made.code, made.stderr]).toEqual([0, expect.any(String)]);
  const { code, stderr } = await hub.machine.run([...switching, ...config], { env: elsewhere });
  expect([code, stderr]).toEqual([10, expect.stringContaining(data)]);
});

test("a hub that reads another server.json keeps the database that it shares, and its file is named", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const elsewhere = hub.machine.path("elsewhere");
  const unit = `${uniqueName()}.service`;
  await writeHubUnit(
    unit,
    environmentLines(hub.machine, { XDG_CONFIG_HOME: elsewhere }),
    `${await hubScript("development")} listen`,
  );
  const args = [...removing, "--hub-python", await python("development")];
  const { code, stderr } = await hub.machine.run(args);
  expect(stderr).toContain(`${unit} uses the source, but reads ${elsewhere}/hivemind-core/server`);
  expect(stderr).toContain(`XDG_CONFIG_HOME='${elsewhere}' hivemind-sqlcipher migrate`);
  expect(code).toBe(17);
  expect(await hub.files()).toEqual(before);
});

test("a hub with a password for another store is no obstacle", async () => {
  const hub = await jsonHub();
  const elsewhere = hub.machine.path("elsewhere");
  const other = join(elsewhere, "hivemind-core", "server.json");
  await mkdir(dirname(other), { recursive: true });
  const settings = { module: sqlite, [sqlite]: { name: "another", password: "another" } };
  await writeFile(other, JSON.stringify({ database: settings }));
  await writeHubUnit(
    `${uniqueName()}.service`,
    environmentLines(hub.machine, { XDG_CONFIG_HOME: elsewhere }),
    `${await hubScript("development")} listen`,
  );
  const to = ["--to", json, "--to-setting", "name=copy", "--switch", "--dry-run"];
  const args = ["migrate", "--from", sqlcipher, ...to, "--hub-python", await python("development")];
  const { code, stderr } = await hub.machine.run(args);
  expect([code, stderr]).toEqual([0, expect.any(String)]);
});

test("each unit's Python is asked, and a copy that a killed check left is removed", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const lines = environmentLines(hub.machine);
  const byRun = (script: string) => `/bin/true hivemind-sqlcipher run -- ${script} listen`;
  const [newer, older] = [`${uniqueName()}.service`, `${uniqueName()}.service`];
  await writeHubUnit(newer, lines, byRun(await hubScript("development")));
  await writeHubUnit(older, lines, byRun(await hubScript("released")));
  const refused = await hub.machine.run(removing);
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringContaining("released/bin/python3 ignores the password"),
  ]);
  expect(await hub.files()).toEqual(before);

  await removeUnits(older);
  const state = hub.machine.path("state", "hivemind-sqlcipher");
  const left = join(state, "hub-check-4194305-aBc123");
  await mkdir(left, { recursive: true });
  await writeFile(join(left, "copy.json"), "the key of a client");
  const used = join(state, `hub-check-${process.pid}-aBc123`);
  await mkdir(used);
  const { code, stderr } = await hub.machine.run(removing);
  expect([code, stderr]).toEqual([0, expect.any(String)]);
  const names = await readdir(state);
  expect(names.filter((name) => name.startsWith("hub-check-"))).toEqual([basename(used)]);
});

test("each unit's Python has to read the target before the source is removed", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const script = hub.machine.path("hivemind-core");
  const served = '{"active": 0, "revoked": 0, "found": true}';
  const interpreter = await standIn(hub.machine, served);
  await writeFile(script, `#!${interpreter}\n`, { mode: 0o755 });
  const name = uniqueName();
  const scripts = { a: script, b: await hubScript("development"), c: script };
  for (const [suffix, each] of Object.entries(scripts)) {
    const command = `/bin/true hivemind-sqlcipher run -- ${each} listen`;
    await writeHubUnit(`${name}-${suffix}.service`, environmentLines(hub.machine), command);
  }
  const { code, stderr } = await hub.machine.run(removing);
  expect(stderr).toContain(`the hub's packages in ${interpreter} read 0 clients from the target`);
  expect(code).toBe(1);
  expect(await hub.files()).toEqual(before);
});

test("a JSON store whose password the hub would not get is no reason to remove the source", async () => {
  const hub = await jsonHub();
  const before = await hub.files();
  const file = hub.machine.path("password");
  await writeFile(file, "sixteen letters!\n", { mode: 0o600 });
  const args = ["--to-password-source", `file:${file}`, "--switch", "--remove-source"];
  const { code, stderr } = await hub.machine.run([
    ...["migrate", "--from", json, "--to", json, ...args],
    ...["--hub-python", await python("development")],
  ]);
  expect(stderr).toContain("the only place where it reads the password, would lack it");
  expect(code).toBe(17);
  expect(await hub.files()).toEqual(before);
});

test("the hub reads an encrypted JSON store with the password that stays in server.json", async () => {
  const hub = await jsonHub();
  const password = "sixteen letters!";
  const subfolder = dirname(hub.clients);
  {
    await using source = await DatabaseFactory.create(json, { subfolder, name: "old", password });
    await source.addItem(newClient({ client_id: 1, api_key: "a" }));
  }
  const database = { module: json, [json]: { name: "old", password } };
  await writeFile(hub.server, JSON.stringify({ network_protocol: {}, database }));
  const file = hub.machine.path("password");
  await writeFile(file, password, { mode: 0o600 });
  const { code, stderr } = await hub.machine.run([
    ...["migrate", "--from", json, "--to", json, "--to-setting", "name=new"],
    ...["--to-password-source", `file:${file}`, "--switch", "--remove-source"],
    ...["--hub-python", await python("development")],
  ]);
  expect([code, stderr]).toEqual([0, expect.any(String)]);
  const { [json]: settings } = JSON.parse(await readFile(hub.server, "utf8")).database;
  expect(settings).toMatchObject({ name: "new", password });
  const names = await readdir(subfolder);
  expect(names.filter((name) => name.endsWith(".ejson"))).toEqual(["new.ejson"]);
});

test.for(["released", "development"] as const)(
  "a hub is switched to a Redis server that its own plugin reaches, %s",
  async (line) => {
    const hub = await jsonHub();
    const before = await hub.files();
    const server = await RedisServer.start(["--requirepass", "for Redis only"]);
    const file = hub.machine.path("redis-password");
    await writeFile(file, "for Redis only\n", { mode: 0o600 });
    const to = ["--to", redis, "--to-setting", `port=${server.port}`];
    const source = ["--to-password-source", `file:${file}`];
    const args = ["migrate", "--from", json, ...to, "--switch"];
    const python = join(dirname(await hubScript(line)), "python");
    const named = [...source, "--hub-python", python];

    // A stand-in for a plugin of the hub that cannot use what this program can.
    const interpreter = hub.machine.path("python");
    const proxy = `#!/bin/sh\ncase "$*" in *ClientDatabase\\(database*) exec ${python} -c 'print("\\"TypeError: no ssl\\"")';; *) exec ${python} "$@";; esac\n`;
    await writeFile(interpreter, proxy, { mode: 0o755 });
    const refused = await hub.machine.run([...args, ...source, "--hub-python", interpreter]);
    expect(refused.stderr).toContain(`the hub in ${interpreter} cannot open redis://`);
    expect(refused.stderr).toContain("TypeError: no ssl");
    expect(refused.code).toBe(17);

    const unit = `${uniqueName()}.service`;
    await writeHubUnit(unit, environmentLines(hub.machine), `${await hubScript(line)} listen`);
    const without = await hub.machine.run([...args, ...named]);
    expect([without.code, without.stderr]).toEqual([
      17,
      expect.stringContaining(
        `${unit} starts the hub without its password: the hub could not open the Redis server`,
      ),
    ]);
    expect(await hub.files()).toEqual(before);
    await removeUnits(unit);
    const { code, stderr } = await hub.machine.run([...args, ...named]);
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    expect(JSON.parse(await readFile(hub.server, "utf8")).database.module).toBe(redis);
  },
);

test("the source goes only if the clients are on the disk of the Redis server", async () => {
  const hub = await jsonHub();
  const server = await RedisServer.start();
  server.cli("ACL", "SETUSER", "limited", "on", "nopass", "~*", "&*", "+@all", "-bgsave");
  const args = [
    ...["migrate", "--from", json, "--to", redis, "--to-setting", `port=${server.port}`],
    ...["--switch", "--remove-source", "--hub-python", await python("development"), "--json"],
  ];
  // Either user is admitted with any password.
  const password = hub.machine.path("redis-password");
  await writeFile(password, "any\n", { mode: 0o600 });
  const limited = ["--to-setting", "username=limited", "--to-password-source", `file:${password}`];
  const kept = await hub.machine.run([...args, ...limited]);
  expect([kept.code, kept.stderr]).toEqual([
    0,
    expect.stringMatching(/was not removed: after a power failure the target may lack.*bgsave/),
  ]);
  expect(JSON.parse(kept.stdout)).toMatchObject({
    migrated: { switched: hub.server, removed: [] },
  });

  const usual = ["--merge", "--to-setting", "username=default"];
  const done = await hub.machine.run([...args, ...usual]);
  expect([done.code, done.stderr]).toEqual([0, expect.not.stringContaining("was not removed")]);
  expect(JSON.parse(done.stdout)).toMatchObject({ migrated: { removed: [hub.clients] } });
  await server.kill();
  await server.resume();
  await using database = await DatabaseFactory.create(redis, { port: server.port });
  expect(await database.size()).toBe(2);
});

test("a Redis server with an append-only log syncs it", async () => {
  const server = await RedisServer.start(["--appendonly", "yes", "--appendfsync", "no"]);
  await using database = await DatabaseFactory.create(redis, { port: server.port });
  const rewrites = () => server.cli("INFO", "persistence").match(/aof_rewrites:\d+/)?.[0];
  const before = rewrites();
  await database.persist?.();
  expect([before, rewrites()]).toEqual(["aof_rewrites:0", "aof_rewrites:1"]);
});
