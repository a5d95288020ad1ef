/** When a recovery key is handed out, and what becomes of it when the command fails. */
import { cp, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import type { Bundle } from "../../src/bundle/bundle.js";
import { generateRecoveryKey } from "../../src/bundle/recovery-key.js";
import { getEntry } from "../../src/keys/keyring.js";
import { ClientStore } from "../../src/store/client-store.js";
import { OwnBus } from "../keys/own-keyring.js";
import { fixtures } from "../store/temporary.js";
import { failingRename } from "./failing-rename.js";
import { Machine } from "./machine.js";

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

const settingsPath = (machine: Machine) =>
  machine.path("config", "hivemind-sqlcipher", "config.json");

const recipientsOf = async (machine: Machine): Promise<string[]> =>
  JSON.parse(await readFile(settingsPath(machine), "utf8")).recipients ?? [];

async function upstreamStore(passphrase: string): Promise<Machine> {
  const machine = await Machine.make();
  await mkdir(dirname(machine.store), { recursive: true });
  await mkdir(machine.path("bundles"));
  await (await ClientStore.create(machine.store, passphrase)).close();
  return machine;
}

function adoptWith(machine: Machine, passphrase: string) {
  const file = machine.path(`passphrase-${passphrase}`);
  return async () => {
    await writeFile(file, passphrase, { mode: 0o600 });
    return machine.run([
      ...["init", "--adopt", "--passphrase-file", file, "--service", "none", "--hub", "none"],
      ...["--recovery-key-file", machine.path("key"), "--bundle-to", machine.path("bundles")],
    ]);
  };
}

test("a wrong passphrase for a store to adopt leaves neither key nor recipient; the right one gets its key", async () => {
  const machine = await upstreamStore("right");
  expect((await adoptWith(machine, "wrong")()).code).toBe(12);
  expect(await exists(machine.path("key"))).toBe(false);
  expect(await exists(settingsPath(machine))).toBe(false);
  const { code, stderr } = await adoptWith(machine, "right")();
  expect([code, stderr]).toEqual([0, expect.stringContaining(machine.path("key"))]);
  const [name = ""] = (await readdir(machine.path("bundles"))).filter((n) => n.endsWith(".age"));
  const show = ["bundle", "show", machine.path("bundles", name), "-i", machine.path("key")];
  expect((await machine.run(show)).stdout).toContain("PRAGMA key");
});

test("a recovery key file that is asked for is written, whatever recipients the settings have", async () => {
  const machine = await Machine.make();
  const { recipient } = await generateRecoveryKey();
  await mkdir(dirname(settingsPath(machine)), { recursive: true });
  await writeFile(settingsPath(machine), JSON.stringify({ recipients: [recipient] }));
  await machine.init("--bundle-to", machine.path("bundles"));
  const text = await readFile(machine.path("safe", "recovery-key.txt"), "utf8");
  const own = /age1\w+/.exec(text)?.[0] ?? "no recipient";
  expect(await recipientsOf(machine)).toEqual([recipient, own]);
  const { document } = await machine.json("bundle", "export");
  expect((document.bundle as Bundle).recipients.sort()).toEqual([recipient, own].sort());
});

test("recipients that are reused are named, with the option for a new key", async () => {
  const machine = await Machine.make();
  const { recipient } = await generateRecoveryKey();
  await mkdir(dirname(settingsPath(machine)), { recursive: true });
  await writeFile(settingsPath(machine), JSON.stringify({ recipients: [recipient] }));
  const { code, stdout, stderr } = await machine.run(["init"]);
  expect([code, stdout]).toEqual([0, expect.stringContaining(`open with the key of ${recipient}`)]);
  expect(stderr).toMatch(new RegExp(`${recipient}.*--recovery-key-file`));
});

test("an init that fails for want of a keyring hands out no key, and leaves no recipient to the next", async () => {
  await using bus = await OwnBus.start();
  await bus.startKeyring();
  const machine = await Machine.make();
  const init = ["init", "--recovery-key-file", machine.path("key")];
  const env = bus.environment;
  const { DBUS_SESSION_BUS_ADDRESS, XDG_RUNTIME_DIR } = env;
  const failed = await machine.run(init, { env: { DBUS_SESSION_BUS_ADDRESS, XDG_RUNTIME_DIR } });
  expect([failed.code, failed.stderr]).toEqual([
    13,
    expect.stringContaining("no default collection"),
  ]);
  expect(failed.stderr).not.toContain(machine.path("key"));
  expect(await exists(machine.path("key"))).toBe(false);
  expect(await exists(settingsPath(machine))).toBe(false);
  expect((await machine.run(init)).code).toBe(0);
  expect(await recipientsOf(machine)).toHaveLength(1);
});

test.each([
  ["bundle", ".bundle.age"],
  ["bundle's verification record", ".bundle.age.proof.json"],
  ["store", "clients.db"],
])(
  "an init whose %s cannot be written takes key, recipient, passphrase and store back",
  async (_, end) => {
    const machine = await Machine.make();
    await mkdir(machine.path("bundles"));
    const init = ["init", "--recovery-key-file", machine.path("key")];
    const withBundle = [...init, "--bundle-to", machine.path("bundles")];
    const env = await failingRename(machine, end);
    const { code, stderr } = await machine.run(withBundle, { env });
    expect([code, stderr]).toEqual([18, expect.stringContaining(end)]);
    expect(await exists(machine.path("key"))).toBe(false);
    // A bundle that stayed would be encrypted to a key that nobody has.
    expect(await readdir(machine.path("bundles"))).toEqual([]);
    expect(await exists(settingsPath(machine))).toBe(false);
    expect(await exists(machine.store)).toBe(false);
    expect(await getEntry(machine.store, "current")).toBeUndefined();
    expect((await machine.run(withBundle)).code).toBe(0);
  },
);

test("a new key is taken back if the settings cannot be written, and their error is reported", async () => {
  const machine = await Machine.make();
  await machine.init("--bundle-to", machine.path("bundles"));
  const before = await recipientsOf(machine);
  const key = ["--recovery-key-file", machine.path("key")];
  const env = await failingRename(machine, "config.json");
  const { code, stderr } = await machine.run(["bundle", "export", ...key], { env });
  expect([code, stderr]).toEqual([18, expect.stringContaining("config.json")]);
  expect(stderr).not.toContain("keep it");
  expect(await exists(machine.path("key"))).toBe(false);
  expect(await recipientsOf(machine)).toEqual(before);
});

test("an init that fails before it wrote its key leaves a file that has appeared there", async () => {
  const machine = await Machine.make();
  const key = machine.path("key");
  // The passphrase is read between the check of the key file and its creation.
  const source = `command:echo theirs >'${key}'; echo horse staple`;
  const init = ["init", "--recovery-key-file", key, "--passphrase-source", source];
  const { code, stderr } = await machine.run(init);
  expect([code, stderr]).toEqual([17, expect.stringContaining(key)]);
  expect(await readFile(key, "utf8")).toBe("theirs\n");
});

test("a conversion that fails takes its recovery key back, and the next one gets another", async () => {
  const machine = await Machine.make();
  await mkdir(dirname(machine.store), { recursive: true });
  await mkdir(machine.path("bundles"));
  await cp(join(fixtures, "plain-schema99-from-the-future.db"), machine.store);
  const encrypt = [
    ...["encrypt", "--recovery-key-file", machine.path("key"), "--bundle-to"],
    ...[machine.path("bundles"), "--hub", "none", "--service", "none"],
  ];
  const failed = await machine.run(encrypt);
  expect([failed.code, failed.stderr]).toEqual([16, expect.not.stringContaining("Recovery key:")]);
  expect(await exists(machine.path("key"))).toBe(false);
  expect(await exists(settingsPath(machine))).toBe(false);
  await rm(machine.store);
  await cp(join(fixtures, "plain-schema2.db"), machine.store);
  const done = await machine.run(encrypt);
  expect([done.code, done.stderr]).toEqual([0, expect.stringContaining("Recovery key:")]);
  expect(await exists(machine.path("key"))).toBe(true);
});

test("a bundle with a passphrase has no recipients: options for them are refused, not ignored", async () => {
  const machine = await Machine.make();
  await machine.init("--bundle-to", machine.path("bundles"));
  await writeFile(machine.path("words"), "horse staple", { mode: 0o600 });
  const { code } = await machine.run([
    ...["bundle", "export", "--bundle-passphrase-file", machine.path("words")],
    ...["--recovery-key-file", machine.path("key")],
  ]);
  expect(code).toBe(2);
});
