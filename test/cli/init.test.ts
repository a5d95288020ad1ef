/**
 * What `init`, and what makes up for it later, refuses before anything is made, and what it
 * remembers.
 */
import { execFileSync } from "node:child_process";
import { cp, mkdir, open, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { generateRecoveryKey } from "../../src/bundle/recovery-key.js";
import { getEntry } from "../../src/keys/keyring.js";
import { generatePassphrase } from "../../src/keys/passphrase.js";
import { acquireLock, lockPath } from "../../src/operation/lock.js";
import { ClientStore } from "../../src/store/client-store.js";
import { fixtures } from "../store/temporary.js";
import { Machine } from "./machine.js";

const settingsOf = async (machine: Machine) =>
  JSON.parse(await readFile(machine.path("config", "hivemind-sqlcipher", "config.json"), "utf8"));

const isThere = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

test.each(["-wal", "-journal", "-shm"])(
  "a %s that a deleted store left is not taken for the new one's",
  async (suffix) => {
    const machine = await Machine.make();
    await mkdir(dirname(machine.store), { recursive: true });
    await writeFile(machine.store + suffix, "of another store");
    const refused = await machine.run(["init", "--recovery-key-file", machine.path("key")]);
    expect(refused.code).toBe(17);
    expect(refused.stderr).toContain(`mv '${machine.store}${suffix}'`);
    expect(await isThere(machine.store)).toBe(false);
    expect(await isThere(machine.path("key"))).toBe(false);
    expect(await getEntry(machine.store, "current")).toBeUndefined();
    await rm(machine.store + suffix);
    await machine.init();
  },
);

test("unfinished stores of a killed init are removed, and no other file", async () => {
  const machine = await Machine.make();
  const directory = dirname(machine.store);
  await mkdir(directory, { recursive: true });
  const unfinished = [
    ".clients.db.0123456789ab.partial",
    ".clients.db.0123456789ab.partial-journal",
  ];
  const others = [".clients.db.partial", ".other.db.0123456789ab.partial"];
  for (const name of [...unfinished, ...others]) await writeFile(join(directory, name), "");
  await machine.init();
  expect(await readdir(directory)).toEqual(expect.arrayContaining(others));
  for (const name of unfinished) expect(await readdir(directory)).not.toContain(name);
});

test("a generated passphrase that was mistyped opens no store: it makes none either", async () => {
  const machine = await Machine.make();
  const right = generatePassphrase();
  const wrong = `${right[0] === "A" ? "B" : "A"}${right.slice(1)}`;
  await writeFile(machine.path("passphrase"), wrong, { mode: 0o600 });
  const init = ["init", "--recovery-key-file", machine.path("key")];
  const refused = await machine.run([...init, "--passphrase-file", machine.path("passphrase")]);
  expect(refused.code).toBe(17);
  expect(refused.stderr).toContain("group 1");
  expect(await isThere(machine.store)).toBe(false);
});

test("the service that it is told of is remembered, and a unit that is named later goes before it", async () => {
  const machine = await Machine.make();
  const commands = ["--stop-command", "false", "--start-command", "false"];
  await machine.init("--service", "command", ...commands);
  expect(await settingsOf(machine)).toMatchObject({
    backup: { service: "command", stop_command: "false", start_command: "false" },
  });
  await machine.run(["add-client"]);
  const to = ["--to", machine.path("to"), "--bundle-to", machine.path("bundles")];
  const { code, stderr } = await machine.run([
    "backup",
    ...to,
    "--service",
    "auto",
    "--unit",
    "nobodys",
  ]);
  expect([code, stderr]).toEqual([0, expect.stringContaining("no service nobodys was found")]);
});

test("init makes nothing if the directory for backups cannot be made", async () => {
  const machine = await Machine.make();
  const before = await readdir(machine.folder);
  const init = ["init", "--recovery-key-file", machine.path("key")];
  const to = ["--to", "/proc/backups", "--bundle-to", machine.path("bundles")];
  const { code, stderr } = await machine.run([...init, ...to]);
  expect([code, stderr]).toEqual([18, expect.stringContaining("cannot create the directory")]);
  expect(await readdir(machine.folder)).toEqual(before);
  // A failed init leaves none, and does not count as the first use of the directory.
  const elsewhere = ["--to", machine.path("disk", "backups")];
  const absent = ["--passphrase-file", machine.path("absent")];
  expect((await machine.run([...init, ...elsewhere, ...absent])).code).not.toBe(0);
  expect(await readdir(machine.folder)).toEqual(before);
  expect((await machine.run([...init, ...elsewhere])).code).toBe(0);
  expect(await readdir(machine.path("disk"))).toEqual(["backups"]);
});

test("init leaves the lock and the directories of an init that runs already", async () => {
  const machine = await Machine.make();
  const pipe = machine.path("passphrase");
  execFileSync("mkfifo", [pipe]);
  const second = machine.run([
    ...["init", "--passphrase-file", pipe, "--recovery-key-file", machine.path("key")],
  ]);
  // Opens when the second init reads its passphrase: it has found the directories missing.
  await using writer = await open(pipe, "w");
  await mkdir(dirname(machine.store), { recursive: true });
  await using first = await acquireLock(machine.store);
  await writer.writeFile("correct horse");
  await writer.close();
  expect((await second).stderr).toContain("another operation is running");
  expect(await isThere(lockPath(first.storePath))).toBe(true);
});

test("a service in the environment is not saved with one that an option names", async () => {
  const machine = await Machine.make();
  const init = ["init", "--recovery-key-file", machine.path("key"), "--service", "systemd"];
  const { code } = await machine.run(init, { env: { HIVEMIND_SQLCIPHER_UNIT: "of-environment" } });
  expect(code).toBe(0);
  expect((await settingsOf(machine)).backup).toEqual({ service: "systemd" });
});

test("the source of an adopted store's passphrase is remembered", async () => {
  const machine = await Machine.make();
  await mkdir(dirname(machine.store), { recursive: true });
  await (await ClientStore.create(machine.store, "from upstream")).close();
  await writeFile(machine.path("passphrase"), "from upstream", { mode: 0o600 });
  await mkdir(machine.path("bundles"));
  const { code, stderr } = await machine.run([
    ...["init", "--adopt", "--recovery-key-file", machine.path("key"), "--bundle-to"],
    ...[machine.path("bundles"), "--passphrase-source", `file:${machine.path("passphrase")}`],
    ...["--passphrase-file", machine.path("passphrase"), "--service", "none", "--hub", "none"],
  ]);
  expect([code, stderr]).toEqual([0, expect.any(String)]);
  expect(await settingsOf(machine)).toMatchObject({
    passphrase_source: `file:${machine.path("passphrase")}`,
  });
  expect((await machine.run(["list-clients"])).code).toBe(0);
});

test("where a first backup goes is remembered, and goes on being it", async () => {
  const machine = await Machine.make();
  await machine.init();
  const to = (name: string) => [
    ...["--to", machine.path(name, "backups"), "--bundle-to", machine.path(name, "bundles")],
  ];
  expect((await machine.run(["backup"])).stderr).toContain("--to DIRECTORY");
  expect((await machine.run(["backup", ...to("first")])).stderr).toContain(
    "saved these options to",
  );
  await machine.run(["backup", ...to("second")]);
  expect((await settingsOf(machine)).backup).toMatchObject({
    to: machine.path("first", "backups"),
    bundle_to: machine.path("first", "bundles"),
  });
  expect((await machine.run(["backup"])).code).toBe(0);
});

test("a recipient of an exported bundle, or of a backup, is one of those of every later bundle", async () => {
  const machine = await Machine.make();
  await machine.init("--bundle-to", machine.path("bundles"), "--to", machine.path("backups"));
  const { identity, recipient } = await generateRecoveryKey();
  const exported = await machine.run(["bundle", "export", "--recipient", recipient]);
  expect([exported.code, exported.stdout]).toEqual([0, expect.stringContaining(recipient)]);
  await machine.run(["add-client"]);
  const other = await generateRecoveryKey();
  const { document } = await machine.json("backup", "--recipient", other.recipient);
  const { recipients } = await settingsOf(machine);
  expect(recipients).toEqual([expect.any(String), recipient, other.recipient]);
  const { path } = document.bundle as { path: string };
  await writeFile(machine.path("new-key.txt"), identity, { mode: 0o600 });
  const shown = await machine.run(["bundle", "show", path, "-i", machine.path("new-key.txt")]);
  expect([shown.code, shown.stdout]).toEqual([0, expect.stringContaining("PRAGMA key")]);
});

test("no recovery key is made for a bundle that has nowhere to go", async () => {
  const machine = await Machine.make();
  await mkdir(dirname(machine.store), { recursive: true });
  await cp(join(fixtures, "plain-schema2.db"), machine.store);
  const place = [
    "--bundle-to",
    machine.path("nowhere"),
    "--recovery-key-file",
    machine.path("key"),
  ];
  const refused = await machine.run(["encrypt", ...place, "--hub", "none", "--service", "none"]);
  expect([refused.code, refused.stderr]).toEqual([18, expect.stringContaining("mkdir -p -m 700")]);
  expect(await isThere(machine.path("key"))).toBe(false);
  await mkdir(machine.path("nowhere"));
  const source = `file:${machine.path("passphrase")}`;
  await writeFile(machine.path("passphrase"), "a phrase of my own", { mode: 0o600 });
  place.push("--passphrase-source", source);
  const done = ["encrypt", "--to", machine.path("backups"), ...place];
  expect((await machine.run([...done, "--hub", "none", "--service", "none"])).code).toBe(0);
  const { backup, passphrase_source } = await settingsOf(machine);
  expect(backup).toEqual({ to: machine.path("backups"), bundle_to: machine.path("nowhere") });
  expect(passphrase_source).toBe(source);
});

test.each(["encrypt", "init --adopt"])(
  "%s creates its --to for the next backup, and refuses one with the bundles or in a file",
  async (command) => {
    const machine = await Machine.make();
    await mkdir(dirname(machine.store), { recursive: true });
    if (command === "encrypt") await cp(join(fixtures, "plain-schema2.db"), machine.store);
    else await (await ClientStore.create(machine.store, "from upstream")).close();
    await writeFile(machine.path("passphrase"), "from upstream", { mode: 0o600 });
    await mkdir(machine.path("bundles"));
    const before = await readFile(machine.store);
    const into = (to: string) =>
      machine.run([
        ...command.split(" "),
        ...["--to", to, "--bundle-to", machine.path("bundles"), "--service", "none"],
        ...["--recovery-key-file", machine.path("key"), "--hub", "none"],
        ...["--passphrase-file", machine.path("passphrase")],
      ]);
    const together = await into(machine.path("bundles"));
    expect([together.code, together.stderr]).toEqual([
      17,
      expect.stringContaining("is the backup directory"),
    ]);
    const inFile = await into(machine.path("passphrase", "backups"));
    expect([inFile.code, inFile.stderr]).toEqual([
      18,
      expect.stringContaining("cannot create the directory"),
    ]);
    expect(await readFile(machine.store)).toEqual(before);
    expect(await isThere(machine.path("key"))).toBe(false);

    const done = await into(machine.path("new", "backups"));
    expect([done.code, done.stderr]).toEqual([
      0,
      expect.stringContaining("creating the directory"),
    ]);
    const backup = await machine.run(["backup", "--service", "none"]);
    expect([backup.code, backup.stderr]).toEqual([0, expect.any(String)]);
  },
);

test("a backup is made also where what it was told cannot be remembered, which is said", async () => {
  const machine = await Machine.make();
  await machine.init();
  const { recipient } = await generateRecoveryKey();
  const places = ["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")];
  const { code, stdout, stderr } = await machine.run(["backup", ...places, "-r", recipient], {
    // Nobody makes a folder there, root included.
    env: { XDG_CONFIG_HOME: "/sys/hivemind" },
  });
  expect([code, stdout]).toEqual([0, expect.stringContaining("Backed up and verified")]);
  expect(stderr).toContain("these options were not saved: ");
});

test("a settings file that does not exist: init is advised only where no store is known", async () => {
  const machine = await Machine.make();
  const missing = ["list-clients", "--config", machine.path("none.json")];
  const hint = async () => {
    const { code, stderr } = await machine.run(missing);
    expect([code, stderr]).toEqual([10, expect.stringContaining("no such file or directory")]);
    return stderr;
  };
  expect(await hint()).toContain("create the file and the store with hivemind-sqlcipher init");
  await machine.init();
  expect(await hint()).toMatch(/name the settings file of this store\.$/m);
  await rm(machine.store);
  expect(await hint()).not.toContain("init");
});
