/**
 * An operation that hands the store over to a hub asks the packages of that hub before it stops it:
 * the Python that the unit runs, and the server.json that the unit's hub reads.
 */
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { getEntry } from "../../src/keys/keyring.js";
import { Machine } from "../cli/machine.js";
import {
  exec,
  property,
  removeUnits,
  systemctl,
  uniqueName,
  writeUnits,
} from "../service/units.js";
import { fixturePassphrases, fixtures } from "../store/temporary.js";
import { hubScript, plugin } from "./support.js";

const encrypted = "sqlcipher4-schema2.db";
const passphrase = fixturePassphrases[encrypted] ?? "";

/** A machine with a store, its `server.json`, and directories for bundle and backups. */
async function machineWith(fixture: string, password?: string): Promise<Machine> {
  const machine = await Machine.make();
  await mkdir(dirname(machine.store), { recursive: true });
  await mkdir(machine.path("bundles"), { mode: 0o700 });
  await mkdir(machine.path("safe"));
  await copyFile(join(fixtures, fixture), machine.store);
  await writeServerJson(machine.path("config"), password);
  return machine;
}

async function writeServerJson(config: string, password?: string): Promise<string> {
  const path = join(config, "hivemind-core", "server.json");
  await mkdir(dirname(path), { recursive: true });
  const settings = { network_protocol: {}, database: { module: plugin, [plugin]: { password } } };
  await writeFile(path, JSON.stringify(settings));
  return path;
}

/** The options of an operation that writes a bundle. */
function bundleOptions(machine: Machine): string[] {
  return [
    ...["--bundle-to", machine.path("bundles")],
    ...["--recovery-key-file", machine.path("safe", "recovery-key.txt")],
  ];
}

/** Starts a unit whose command line shows a hub, which is a process that waits. */
async function startHub(machine: Machine, hub: string, lines: readonly string[] = []) {
  const name = uniqueName();
  const environment = [
    `Environment=XDG_CONFIG_HOME=${machine.path("config")}`,
    `Environment=XDG_DATA_HOME=${machine.path("data")}`,
    `Environment=XDG_STATE_HOME=${machine.path("state")}`,
  ];
  const start = `ExecStart=/bin/sh -c 'exec sleep 600 # "$0"' ${hub} listen`;
  const text = ["[Service]", ...environment, ...lines, start, ""].join("\n");
  await writeUnits({ [`${name}.service`]: text });
  onTestFinished(() => removeUnits(`${name}.service`));
  await systemctl("start", name);
  const invocation = await property(name, "InvocationID");
  return {
    options: ["--service", "systemd-user", "--unit", name],
    isUntouched: async () => (await property(name, "InvocationID")) === invocation,
  };
}

/** A Python environment without the SQLite plugin, as ovos-installer leaves it. */
async function withoutPlugin(machine: Machine): Promise<string> {
  const environment = machine.path("venv");
  await exec("cp", ["-a", dirname(dirname(await hubScript("development"))), environment]);
  await exec("sh", ["-c", `rm -rf ${environment}/lib/python3.*/site-packages/*sqlite_database*`]);
  const script = join(environment, "bin", "hivemind-core");
  const text = await readFile(script, "utf8");
  await writeFile(script, text.replace(/^.*\n/, `#!${environment}/bin/python\n`));
  return script;
}

test("encrypt leaves a hub alone whose plugin ignores the password in server.json", async () => {
  const machine = await machineWith("plain-schema2.db", "ignored until now");
  const before = await readFile(machine.store);
  const hub = await startHub(machine, await hubScript("released"));
  const args = ["encrypt", ...bundleOptions(machine), ...hub.options];
  const { code, stderr } = await machine.run(args);
  expect(stderr).toContain("ignores the password");
  expect(stderr).toContain("--hub none");
  expect(code).toBe(17);
  expect(await hub.isUntouched()).toBe(true);
  expect(await readFile(machine.store)).toEqual(before);
  expect(await getEntry(machine.store, "current")).toBeUndefined();
  expect((await machine.run([...args, "--hub", "none"])).code).toBe(0);
});

test("rotate and restore leave a hub alone that lost its plugin", async () => {
  const machine = await machineWith(encrypted, passphrase);
  await machine.init("--adopt", ...bundleOptions(machine).slice(0, 2), "--service", "none");
  await mkdir(machine.path("backups"));
  const backup = await machine.json("backup", "--to", machine.path("backups"), "--service", "none");
  expect([backup.code, backup.document]).toEqual([0, expect.anything()]);
  const before = await readFile(machine.store);
  const hub = await startHub(machine, await withoutPlugin(machine));
  const { backup: made } = backup.document as { backup: { path: string } };
  for (const args of [["rotate"], ["restore", made.path, "--yes"]]) {
    const { code, stderr } = await machine.run([...args, ...hub.options]);
    expect(stderr).toContain(`the hub in ${machine.path("venv/bin/python")} cannot open`);
    expect(code).toBe(17);
    expect(await hub.isUntouched()).toBe(true);
    expect(await readFile(machine.store)).toEqual(before);
    expect(await getEntry(machine.store, "current")).toBe(passphrase);
  }
});

test("init --adopt keeps the password in server.json for a hub that run could not start", async () => {
  const machine = await machineWith(encrypted, passphrase);
  const server = machine.path("config", "hivemind-core", "server.json");
  const hub = await startHub(machine, `hivemind-sqlcipher run -- ${await hubScript("released")}`);
  const args = ["init", "--adopt", "--remove-password", ...bundleOptions(machine), ...hub.options];
  const { code, stderr } = await machine.run(args);
  expect(stderr).toContain("ignores the password");
  expect(code).toBe(17);
  expect(await readFile(server, "utf8")).toContain(passphrase);
  expect(await getEntry(machine.store, "current")).toBeUndefined();
});

test("the Python that starts the hub is asked, not that of a preparation or of this PATH", async () => {
  const machine = await machineWith(encrypted, passphrase);
  await machine.init("--adopt", ...bundleOptions(machine).slice(0, 2), "--service", "none");
  const bare = dirname(await withoutPlugin(machine));
  const usable = dirname(await hubScript("development"));
  const path = (folder: string) => [`Environment=PATH=${folder}:/usr/bin:/bin`];
  const preparation = `ExecStartPre=${join(bare, "python")} -c pass`;
  const byRun = "hivemind-sqlcipher run -- hivemind-core";

  const refused = await startHub(machine, byRun, path(bare));
  const env = { PATH: `${usable}:${process.env.PATH}` };
  const { code, stderr } = await machine.run(["rotate", ...refused.options], { env });
  expect([code, stderr]).toEqual([17, expect.stringContaining(join(bare, "python"))]);
  expect(await refused.isUntouched()).toBe(true);

  const accepted = await startHub(machine, byRun, [...path(usable), preparation]);
  const rotated = await machine.run(["rotate", ...accepted.options], {
    env: { PATH: `${bare}:${process.env.PATH}` },
  });
  expect([rotated.code, rotated.stderr]).toEqual([0, expect.any(String)]);
  expect(await accepted.isUntouched()).toBe(false);
});

test("the password is replaced in the server.json that the unit's hub reads", async () => {
  const machine = await machineWith(encrypted, passphrase);
  await machine.init("--adopt", ...bundleOptions(machine).slice(0, 2), "--service", "none");
  const own = machine.path("config", "hivemind-core", "server.json");
  const ofHub = await writeServerJson(machine.path("elsewhere"), passphrase);
  const before = await readFile(own, "utf8");
  const hub = await startHub(machine, await hubScript("development"), [
    `Environment=XDG_CONFIG_HOME=${machine.path("elsewhere")}`,
  ]);
  const { code, stderr } = await machine.run(["rotate", ...hub.options]);
  expect([code, stderr]).toEqual([0, expect.stringContaining(`password in ${ofHub} is replaced`)]);
  expect(await readFile(own, "utf8")).toBe(before);
  const current = await getEntry(machine.store, "current");
  expect(current).not.toBe(passphrase);
  expect(await readFile(ofHub, "utf8")).toContain(current);
});

test("init --adopt takes the password from the server.json that the unit's hub reads", async () => {
  const machine = await machineWith(encrypted);
  const own = machine.path("config", "hivemind-core", "server.json");
  const ofHub = await writeServerJson(machine.path("elsewhere"), passphrase);
  const before = await readFile(own, "utf8");
  const command = `hivemind-sqlcipher run -- ${await hubScript("development")}`;
  const hub = await startHub(machine, command, [
    `Environment=XDG_CONFIG_HOME=${machine.path("elsewhere")}`,
  ]);
  const args = ["init", "--adopt", "--remove-password", ...bundleOptions(machine), ...hub.options];
  const { code, stdout, stderr } = await machine.run([...args, "--json"]);
  expect([code, stderr]).toEqual([0, expect.any(String)]);
  expect(JSON.parse(stdout).adopted).toMatchObject({
    password_from: "server.json",
    password_removed: true,
  });
  expect(await readFile(ofHub, "utf8")).not.toContain(passphrase);
  expect(await readFile(own, "utf8")).toBe(before);
  expect(await getEntry(machine.store, "current")).toBe(passphrase);
});
