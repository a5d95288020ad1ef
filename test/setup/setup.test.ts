/** Setup from each database, and what it refuses, with units of the session. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { chmod, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { identify } from "../../src/store/cipher.js";
import { mounted } from "../cli/mounted.js";
import { onTerminal } from "../cli/terminal.js";
import { proving } from "../prove-report.js";
import { property, systemctl } from "../service/units.js";
import {
  atSteps,
  breakHub,
  expectDone,
  formerPassword,
  type InstalledHub,
  installHub,
  killAt,
  repairHub,
  restarted,
  statusOf,
} from "./hub.js";

const exec = promisify(execFile);
const sqlite = "hivemind-sqlite-db-plugin";

/** A digest of every file of the machine, and of the unit with its drop-ins. */
async function digest({ machine, unit }: InstalledHub): Promise<string> {
  const hash = createHash("sha256");
  const own = (await readdir(machine.folder, { recursive: true })).sort();
  const ignored = /-shm$|^status|^recovery/;
  for (const name of own) {
    const path = machine.path(name);
    const stats = await stat(path);
    if (ignored.test(name)) continue;
    hash.update(`${name} ${stats.mode}`);
    if (stats.isFile()) hash.update(await readFile(path));
  }
  hash.update((await systemctl("cat", unit)).replaceAll(/^#.*$/gm, ""));
  return hash.digest("hex");
}

test("a plain SQLite store is encrypted in place, and back", async () => {
  const hub = await installHub({ layout: "sqlite" });
  const { machine, options, server } = hub;
  const before = await digest(hub);
  const dry = await machine.run(["setup", "--dry-run", ...options]);
  expect([dry.code, dry.stdout]).toEqual([0, expect.stringContaining("encrypt /")]);
  expect(await digest(hub)).toBe(before);
  const text = await readFile(server, "utf8");

  const done = await machine.run(["setup", ...options, "--json"]);
  expectDone(done);
  const { setup } = JSON.parse(done.stdout);
  expect(setup).toMatchObject({ changed: true, unit: hub.unit, backup: { tested: true } });
  expect(setup.outage).toEqual({ stopped_ms: expect.any(Number), listening_ms: null });
  expect((await identify(machine.store)).format).toBe("sqlcipher");
  expect((await stat(machine.store)).mode & 0o777).toBe(0o600);
  expect(await restarted(hub)).toBe(`${sqlite} with password 5`);
  expect(await readFile(server, "utf8")).toBe(text);
  const status = JSON.parse((await machine.run(["status", "--json"])).stdout);
  expect(status.runs).toMatchObject({ backup: { exit_code: 0, size: expect.any(Number) } });

  const again = JSON.parse((await machine.run(["setup", ...options, "--json"])).stdout);
  expect(again).toEqual({ setup: { changed: false, unit: hub.unit, store: machine.store } });

  // An installer writes the unit again for a hub in another environment.
  const moved = machine.path("moved", "hivemind-core");
  const unitFile = join(process.env.HOME ?? "", ".config/systemd/user", hub.unit);
  await exec("sh", ["-c", `mkdir '${machine.path("moved")}' && cp -p '${hub.script}' '${moved}'`]);
  await writeFile(unitFile, (await readFile(unitFile, "utf8")).replace(hub.script, moved));
  await systemctl("daemon-reload");
  await rm(machine.path("status"));
  const renewed = await machine.run(["setup", ...options, "--json"]);
  expectDone(renewed);
  expect(JSON.parse(renewed.stdout).setup).toMatchObject({ changed: true, backup: null });
  expect(await statusOf(machine)).toBe(`${sqlite} with password 5`);
  expect(await property(hub.unit, "ExecStart")).toContain(` -- ${moved} listen`);

  // A key is made only if one is needed.
  const [, , , ...others] = options;
  const key = machine.path("safe", "other-key.txt");
  const repeat = ["setup", "--yes", "--recovery-key-file", key, ...others];
  await exec("sh", ["-c", `rm '${machine.path("backups")}'/*`]);
  const backedUp = await machine.run(repeat);
  expectDone(backedUp);
  expect(backedUp.stdout).toContain("note: no recovery key is made in");
  expect(backedUp.stdout).toMatch(/^ {2}the recovery key in use$/m);

  const settings = machine.path("config", "hivemind-sqlcipher", "config.json");
  const { recipients: _, ...withoutKey } = JSON.parse(await readFile(settings, "utf8"));
  await writeFile(settings, JSON.stringify(withoutKey));
  const rekeyed = await machine.run([...repeat, "--json"]);
  expectDone(rekeyed);
  expect(JSON.parse(rekeyed.stdout).setup).toMatchObject({
    ...{ recovery_key: "new", backup: { tested: true }, outage: null },
  });
  expect(await readFile(key, "utf8")).toContain("AGE-SECRET-KEY-1");

  await writeFile(settings, JSON.stringify(withoutKey));
  const named = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
  const given = await machine.run(["setup", "--yes", "--recipient", named, ...others, "--json"]);
  expectDone(given);
  expect(JSON.parse(given.stdout).setup).toMatchObject({
    ...{ recovery_key: "kept", backup: { tested: false } },
  });
  expect(JSON.parse(await readFile(settings, "utf8")).recipients).toEqual([named]);

  for (const option of [
    ["--recovery-key-file", key],
    ["--unit", "another"],
    ["--online-backups"],
  ]) {
    const contradicted = await machine.run(["setup", "--undo", "--yes", ...option]);
    expect([contradicted.code, contradicted.stderr]).toEqual([
      2,
      expect.stringContaining(option.join(" ").replace(key, "").trim()),
    ]);
  }
  const unitText = await readFile(unitFile, "utf8");
  const dropIn = join(`${unitFile}.d`, "hivemind-sqlcipher.conf");
  const dropInText = await readFile(dropIn, "utf8");
  const ownRun = `ExecStart="/usr/bin/hivemind-sqlcipher" run -- ${moved} listen $HUB_ARGS`;
  await writeFile(unitFile, unitText.replace(/^ExecStart=.*$/m, ownRun));
  await writeFile(dropIn, dropInText.replace(/ listen$/m, " listen $HUB_ARGS"));
  await systemctl("daemon-reload");
  const looped = await machine.run(["setup", "--undo", "--yes"]);
  expect([looped.code, looped.stderr]).toEqual([
    17,
    expect.stringContaining(`${unitFile} itself starts ${hub.unit} through run`),
  ]);
  expect(looped.stderr).toContain(`Set ExecStart=${moved} listen "$HUB_ARGS" in ${unitFile}`);
  await writeFile(unitFile, unitText);
  await writeFile(dropIn, dropInText);
  await systemctl("daemon-reload");

  await machine.run(["add-client", "--name", "late"]);
  const undone = await machine.run(["setup", "--undo", "--yes", "--json"]);
  expectDone(undone);
  expect((await identify(machine.store)).format).toBe("plaintext");
  expect(await restarted(hub)).toBe(`${sqlite} 6`);
  expect(await property(hub.unit, "DropInPaths")).toBe("");
}, 480_000);

test("a store with its password in server.json is adopted, and back", async () => {
  const hub = await installHub({ layout: "sqlcipher" });
  const { machine, options, server } = hub;
  const done = await machine.run(["setup", ...options]);
  expectDone(done);
  expect(await readFile(server, "utf8")).not.toContain("plain");
  expect(await restarted(hub)).toBe(`${sqlite} with password 5`);
  expect(await property(hub.unit, "DropInPaths")).toContain("hivemind-sqlcipher.conf");

  const undone = await machine.run(["setup", "--undo", "--yes"]);
  expectDone(undone);
  expect(await readFile(server, "utf8")).toContain(formerPassword);
  expect(await property(hub.unit, "DropInPaths")).toBe("");
  expect(await restarted(hub)).toBe(`${sqlite} with password 5`);
}, 480_000);

const layouts = ["json", "sqlite", "sqlcipher"] as const;

// The first in scripts/test: each takes half a minute.
test.each(proving ? layouts : layouts.slice(0, 1))(
  "%s: a hub that exits on the encrypted store runs on its former database again",
  async (layout) => {
    const hub = await installHub({ layout });
    const { machine, options, server } = hub;
    const former = await restarted(hub);
    const text = await readFile(server, "utf8");
    // With Ctrl-C while the hub starts, because the way back needs the keyring.
    let env = atSteps({ "setup.worked": "kill -INT $PPID" });
    if (layout === "sqlite") {
      // If the hub exited at once, encrypt would notice it.
      const breakNow = `echo encrypted exit >'${machine.path("fault")}'`;
      const end = `systemctl --user kill --signal=KILL ${hub.unit}`;
      env = atSteps({ "setup.stored": `${breakNow}; ${end}; kill -INT $PPID` });
    } else await breakHub(hub, "encrypted exit");
    const failed = await machine.run(["setup", ...options], { env });
    const outcome = {
      json: /the hub uses its former database/,
      sqlite: /is plain SQLite again, and the hub uses it/,
      sqlcipher: /the password was written back to .*server\.json/,
    }[layout];
    expect([failed.code, failed.stderr]).toEqual([15, expect.stringMatching(outcome)]);
    expect(await readFile(server, "utf8")).toBe(text);
    expect(await restarted(hub)).toBe(former);
    await repairHub(hub);
    const done = await machine.run(["setup", ...options]);
    expectDone(done);
    expect(await restarted(hub)).toBe(`${sqlite} with password 5`);
  },
  480_000,
);

/** Lets every Node.js of the unit end after a time: before, at or after the end of the watch. */
const endsAfter = (ms: number) => (folder: string) => {
  const script = join(folder, "slow.cjs");
  const wait = `Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ${ms})`;
  writeFileSync(script, `${wait};\nprocess.exit(1);\n`);
  return `Environment=NODE_OPTIONS=--require=${script}\n`;
};

const ends = [
  { layout: "json", how: "at once", unitLines: () => "MemoryDenyWriteExecute=yes\n" },
  { layout: "sqlite", how: "at once", unitLines: endsAfter(0) },
  { layout: "json", how: "after 1 s", unitLines: endsAfter(1000) },
  { layout: "sqlite", how: "after 1 s", unitLines: endsAfter(1000) },
  { layout: "json", how: "after 1.7 s", unitLines: endsAfter(1700) },
  { layout: "sqlite", how: "after 1.7 s", unitLines: endsAfter(1700) },
] as const;

// Only in scripts/prove: each waits for half a minute.
test.each(proving ? ends : [])(
  "$layout: a hub whose unit ends run $how runs as before, without the drop-in",
  async ({ layout, unitLines }) => {
    const hub = await installHub({ layout, unitLines });
    const { machine, options } = hub;
    const former = await restarted(hub);
    const failed = await machine.run(["setup", ...options]);
    expect([failed.code, failed.stderr]).toEqual([
      15,
      expect.stringContaining(`the drop-in was removed, and ${hub.unit} runs as before`),
    ]);
    expect(failed.stderr).not.toContain("The next command of this store tries again.");
    expect(await property(hub.unit, "DropInPaths")).toBe("");
    const restarts = await property(hub.unit, "NRestarts");
    await delay(5_000);
    expect(await property(hub.unit, "ActiveState")).toBe("active");
    expect(await property(hub.unit, "NRestarts")).toBe(restarts);
    expect(await restarted(hub)).toBe(former);
  },
  480_000,
);

test("a passphrase in a file, with a locked keyring as without one", async () => {
  const hub = await installHub();
  const { machine, options } = hub;
  const env = { DBUS_SESSION_BUS_ADDRESS: "unix:path=/nowhere" };
  const before = await digest(hub);
  const refused = await machine.run(["setup", ...options], { env });
  expect([refused.code, refused.stderr]).toEqual([
    13,
    expect.stringContaining("--passphrase-source file:PATH"),
  ]);
  expect(await digest(hub)).toBe(before);
  const file = machine.path("safe", "passphrase");
  await writeFile(file, "correct horse battery staple, in a file\n", { mode: 0o600 });
  const args = ["setup", ...options, "--passphrase-source", `file:${file}`];
  const done = await machine.run(args);
  expectDone(done);
  expect(await restarted(hub)).toBe(`${sqlite} with password 5`);
}, 480_000);

/**
 * Returns the hub's Python with the answers of older packages until pip has replaced them.
 *
 * @param edits - of sed, in the answers
 */
async function untilPip({ machine, script }: InstalledHub, edits: string): Promise<string> {
  const [, real = ""] = /^#!(.*)$/m.exec(await readFile(script, "utf8")) ?? [];
  const python = machine.path("python");
  const text = `#!/bin/sh
[ "$1" != -m ] || { touch "$0.new"; exit; }
${real} "$@" | if [ -e "$0.new" ]; then cat; else sed '${edits}'; fi
`;
  await writeFile(python, text, { mode: 0o755 });
  return python;
}

test("the store has the format of the packages that setup installs, also after a kill", async () => {
  const hub = await installHub();
  const { machine } = hub;
  const version3 = 's/"cipherVersion": "[^"]*"/"cipherVersion": "3.4.2"/';
  const python = await untilPip(hub, version3);
  const setup = ["setup", ...hub.options, "--hub-python", python, "--install-hub-packages"];
  await killAt(hub, "setup.stored", setup);
  await untilPip(hub, `${version3}; s/"takesPassword": true/"takesPassword": false/`);
  const done = await machine.run(setup);
  expect([done.code, done.stderr]).toEqual([0, expect.stringContaining("installing packages")]);
  expect(await restarted(hub)).toBe(`${sqlite} with password 5`);
}, 480_000);

test("HiveMind 4 on plain SQLite: clients with blacklists are refused, and others moved", async () => {
  const hub = await installHub({ layout: "sqlite" });
  const { machine } = hub;
  const withBlacklist = async (skills: string[]) => {
    const subfolder = dirname(machine.store);
    await using database = await DatabaseFactory.create(sqlite, { subfolder });
    const names = { client_id: 1, api_key: "key-1", name: "room 1" };
    await database.updateItem(newClient({ ...names, metadata: { skill_blacklist: skills } }));
  };
  const python = await untilPip(
    hub,
    's/"takesPassword": true/"takesPassword": false/; s/"schemaVersion": 2/"schemaVersion": null/',
  );
  const setup = ["setup", ...hub.options, "--hub-python", python, "--install-hub-packages"];
  await withBlacklist(["skill-lock"]);
  const refused = await machine.run(setup);
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringContaining("is HiveMind 4, which would not enforce the blacklists"),
  ]);
  expect(refused.stderr).not.toContain("installing packages");
  expect((await identify(machine.store)).format).toBe("plaintext");
  expect(await property(hub.unit, "DropInPaths")).toBe("");

  await withBlacklist([]);
  const dry = await machine.run([...setup, "--dry-run"]);
  expect([dry.code, dry.stderr]).toEqual([0, expect.not.stringContaining("HiveMind 4")]);
  const done = await machine.run(setup);
  expect([done.code, done.stderr]).toEqual([0, expect.stringContaining("installing packages")]);
  expect(await restarted(hub)).toBe(`${sqlite} with password 5`);
}, 480_000);

test("what is in the way is named, and nothing has changed", async () => {
  const hub = await installHub();
  const { machine, options, unit, server } = hub;
  const refuse = async (code: number, ...texts: string[]) => {
    const before = await digest(hub);
    for (const more of [["--dry-run"], []]) {
      const result = await machine.run(["setup", ...options, ...more]);
      for (const text of texts) expect(result.stdout + result.stderr).toContain(text);
      expect(result.code).toBe(code);
    }
    expect(await digest(hub)).toBe(before);
  };
  await systemctl("stop", unit);
  await refuse(17, "does not run", `systemctl --user start ${unit}`);
  await systemctl("start", unit);

  await chmod(server, 0o444);
  await refuse(17, "server.json cannot be changed", "Ansible or Nix");
  await chmod(server, 0o644);
  const mount = await machine.run(["setup", ...options, "--dry-run"], mounted(server));
  expect([mount.code, mount.stdout]).toEqual([17, expect.stringContaining("a mount point")]);

  const dropIn = join(process.env.HOME ?? "", ".config/systemd/user", `${unit}.d/other.conf`);
  await mkdir(dirname(dropIn), { recursive: true });
  const command = `${hub.script} listen`;
  await writeFile(dropIn, `[Service]\nExecStart=\nExecStart=${command}\n`);
  await systemctl("daemon-reload");
  await refuse(17, `${dropIn} sets the command of ${unit}`);
  await exec("rm", ["-r", dirname(dropIn)]);
  await systemctl("daemon-reload");

  await writeFile(machine.store, "not a store");
  await refuse(17, `there is a file at ${machine.store} already`, "mv ");
  await exec("rm", [machine.store]);

  // A desktop does not log in by itself after a reboot.
  const headless = await machine.run(["setup", ...options, "--dry-run", "--headless"], {
    env: { XDG_CURRENT_DESKTOP: "test" },
  });
  expect([headless.code, headless.stdout]).toEqual([
    17,
    expect.stringContaining("after a reboot without a login the hub would wait"),
  ]);

  const other = await machine.run(["setup", "--dry-run", "--unit", "hivemind-no-such"]);
  expect([other.code, other.stdout]).toEqual([
    10,
    expect.stringContaining("no unit or container hivemind-no-such"),
  ]);
}, 480_000);

test("a crash loop and a masked unit", async () => {
  const looping = await installHub({ isStarted: false });
  await writeFile(looping.server, "{}");
  await systemctl("start", looping.unit);
  while ((await property(looping.unit, "NRestarts")) === "0") {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const args = ["setup", "--dry-run", ...looping.options];
  const loop = await looping.machine.run(args);
  expect(loop.stdout).toContain(`${looping.unit} ends again and again`);
  await systemctl("stop", looping.unit);
  // A unit in this directory cannot be masked, but one that the package manager installed can.
  const path = join(process.env.HOME ?? "", ".config/systemd/user", looping.unit);
  await exec("ln", ["-sf", "/dev/null", path]);
  await systemctl("daemon-reload");
  const masked = await looping.machine.run(args);
  expect(masked.stdout).toContain(`${looping.unit} is masked`);
  expect(masked.stdout).toContain(`systemctl --user unmask ${looping.unit}`);
}, 240_000);

test("without --yes and a terminal, and without a place for the recovery key, nothing changes", async () => {
  const hub = await installHub();
  const before = await digest(hub);
  const args = hub.options.filter((option) => option !== "--yes");
  const unconfirmed = await hub.machine.run(["setup", ...args]);
  expect([unconfirmed.code, unconfirmed.stderr]).toEqual([2, expect.stringContaining("--yes")]);
  const keyless = await hub.machine.run(["setup", "--yes", ...hub.options.slice(3)]);
  expect([keyless.code, keyless.stderr]).toEqual([
    2,
    expect.stringContaining("--recovery-key-file"),
  ]);
  expect(await digest(hub)).toBe(before);
}, 240_000);

test("on a terminal, one confirmation includes the packages; a key that was not written down is not used", async () => {
  const hub = await installHub({ layout: "sqlite" });
  const { machine, unit } = hub;
  const python = await untilPip(hub, 's/"takesPassword": true/"takesPassword": false/');
  const args = [
    ...["setup", "--unit", unit, "--hub-python", python],
    ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")],
  ];
  const { code, screen } = await onTerminal(machine, args, [
    ["Continue?", "y\r"],
    ["written it down?", "n\r"],
  ]);
  expect(screen).toContain("install with pip a SQLite plugin");
  expect(screen).toContain("installing packages");
  expect(screen).toContain("not confirmed: the recovery key was not written down");
  expect(screen).toContain("discard it");
  expect(screen).not.toContain("nothing changed");
  expect(code).toBe(17);
  expect((await identify(machine.store)).format).toBe("plaintext");
});
