/** Arguments and settings that must not be taken for others. */
import { mkdir, readdir, readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { Machine } from "./machine.js";

test("an argument that is not UTF-8 is refused: Node.js would name another file", async () => {
  const machine = await Machine.make();
  const before = [
    ...["/bin/sh", "-c", 'exec "$@" --to "$(printf "%s/b\\344ck" "$0")"', machine.folder],
  ];
  const { code, stderr } = await machine.run(["backup", "--bundle-to", machine.path("b")], {
    before,
  });
  expect([code, stderr]).toEqual([2, expect.stringMatching(/b\ufffdck" is not UTF-8 text/)]);
  expect(await readdir(machine.folder)).toEqual([]);
  // U+FFFD itself is a character like others.
  expect((await machine.run(["status", "--db", machine.path("b\ufffdck.db")])).code).toBe(0);
});

test("a template unit is refused with the way to name an instance", async () => {
  const machine = await Machine.make();
  const { code, stderr } = await machine.run(["doctor", "--unit", "hivemind-core@.service"]);
  expect([code, stderr]).toEqual([2, expect.stringContaining("--unit hivemind-core@INSTANCE")]);
});

test("with --config a second store has a settings file of its own", async () => {
  const machine = await Machine.make();
  await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
  const settings = machine.path("config", "hivemind-sqlcipher", "config.json");
  const saved = await readFile(settings, "utf8");
  const init = [
    ...["init", "--db", machine.path("y", "clients.db"), "--to", machine.path("by")],
    ...["--bundle-to", machine.path("y-bundles"), "--recovery-key-file", machine.path("y.txt")],
  ];
  const config = ["--config", machine.path("y.json")];
  expect((await machine.run([...init, ...config])).code).toBe(0);
  expect(JSON.parse(await readFile(machine.path("y.json"), "utf8"))).toMatchObject({
    store: { path: machine.path("y", "clients.db") },
    backup: { to: machine.path("by") },
  });
  expect(await readFile(settings, "utf8")).toBe(saved);
});

test("a failed init reports the recovery key as such, and removes the directories it made", async () => {
  const machine = await Machine.make();
  await mkdir(machine.path("safe"));
  const key = machine.path("safe", "key.txt");
  const { code, stderr } = await machine.run(
    [...["init", "--recovery-key-file", key, "--bundle-to", machine.path("new", "bundles")]],
    {
      env: { DBUS_SESSION_BUS_ADDRESS: "unix:path=/nonexistent", XDG_RUNTIME_DIR: "/nonexistent" },
    },
  );
  expect([code, stderr]).toEqual([13, expect.not.stringContaining("Recovery key:")]);
  expect(await readdir(machine.folder)).not.toContain("new");
  const done = await machine.run(["init", "--recovery-key-file", key]);
  expect([done.code, done.stderr]).toEqual([0, expect.stringContaining(`Recovery key: ${key}`)]);
  expect(done.stdout).toMatch(/open with the key of age1/);
});

test.each([
  ["init", "--passphrase-file", "--recovery-key-file", "key.txt"],
  ["encrypt", "--passphrase-file", "--bundle-to", "."],
  ["rotate", "--passphrase-file", "--bundle-to", "."],
  ["rotate", "--reencrypt-backups", "--bundle-to", "."],
  ["restore", "--to", "backup.db"],
  ["setup", "--recovery-key-file"],
])("%s refuses an empty path in %s, as from an unset variable", async (name, option, ...more) => {
  const machine = await Machine.make();
  const args = more.map((each) => (each.startsWith("--") ? each : machine.path(each)));
  const { code, stderr } = await machine.run([name, option, "", ...args]);
  expect([code, stderr]).toEqual([2, expect.stringContaining("is empty")]);
});

test.each(["", "/usr/bin", "/nonexistent/python3"])(
  "no unit is printed with the Python %j, which the hub could not start",
  async (python) => {
    const machine = await Machine.make();
    const { code, stderr } = await machine.run([
      ...["run", "--print-unit", "user", "--hub-python", python, "--", "/bin/true"],
    ]);
    expect([code, stderr]).toEqual([
      2,
      expect.stringContaining(`the Python "${python}" cannot be executed`),
    ]);
  },
);
