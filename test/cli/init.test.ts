/** `init`: what it refuses before anything is made, and what it remembers. */
import { mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { getEntry } from "../../src/keys/keyring.js";
import { generatePassphrase } from "../../src/keys/passphrase.js";
import { ClientStore } from "../../src/store/client-store.js";
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
