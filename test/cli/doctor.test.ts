import { chmod, copyFile, mkdir, readFile, rm, utimes, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { manifestPath } from "../../src/backup/manifest.js";
import { newClient } from "../../src/client/client.js";
import { getEntry } from "../../src/keys/keyring.js";
import { ClientStore } from "../../src/store/client-store.js";
import { fixtures } from "../store/temporary.js";
import { Machine } from "./machine.js";

interface Check {
  name: string;
  ok: boolean;
  severity: "error" | "warning" | "note";
  detail: string;
  fix: string | null;
}

/** A shell without core dumps on a desktop, so that doctor has no finding. */
const inOrder = {
  before: ["/bin/sh", "-c", 'ulimit -c 0; exec "$@"', "sh"],
  env: { XDG_CURRENT_DESKTOP: "test", SSH_CONNECTION: "", PATH: "/usr/bin:/bin" },
};

async function diagnose(machine: Machine, ...args: string[]) {
  const { code, stdout } = await machine.run(["doctor", "--json", ...args], inOrder);
  const document = JSON.parse(stdout) as { ok: boolean; filled: number | null; checks: Check[] };
  expect(code).toBe(document.ok ? 0 : 1);
  for (const { ok, severity, fix } of document.checks) {
    expect(ok).toBe(severity === "note");
    expect(ok).toBe(fix === null);
  }
  const findings = document.checks.filter(({ ok }) => !ok);
  // The swap of the machine that runs the tests may be unencrypted.
  const names = findings.map(({ name }) => name).filter((name) => name !== "swap");
  return { ...document, findings, names };
}

test("every finding has a fix, and is gone after it", async () => {
  const machine = await Machine.make();
  // Another device than that of the backups.
  const bundles = `/dev/shm/doctor-${process.pid}`;
  await mkdir(bundles, { mode: 0o700 });
  onTestFinished(() => rm(bundles, { recursive: true, force: true }));
  const directories = ["--to", machine.path("backups"), "--bundle-to", bundles];
  // A revoked client in a store of HiveMind 4 is a finding.
  await machine.init(...directories, "--schema-version", "2");
  {
    const passphrase = (await getEntry(machine.store, "current")) ?? "";
    await using store = await ClientStore.open(machine.store, passphrase);
    await store.addItems([1, 4].map((id) => newClient({ client_id: id, api_key: `key ${id}` })));
  }
  const plain = `${dirname(machine.store)}/clients.json`;
  const old = `${machine.store}.replaced.2026-01-01T00-00-00Z`;
  await writeFile(plain, "{}");
  await copyFile(machine.store, old);
  await chmod(machine.store, 0o644);

  const first = await diagnose(machine);
  expect(first.names.sort()).toEqual(
    ["copies", "id-gaps", "last-backup", "permissions", "plaintext", "restore-tried"].sort(),
  );
  const text = await machine.run(["doctor"], inOrder);
  expect(text.code).toBe(1);
  expect(text.stdout).toMatch(/^ERROR {4}id-gaps .* overwrites client 4\n +fix: .*--fill-gaps$/m);
  const fix = (name: string) => first.findings.find((check) => check.name === name)?.fix ?? "";
  expect(fix("permissions")).toBe(`chmod 600 '${machine.store}'`);
  expect(fix("plaintext")).toContain(`shred -u '${plain}'`);

  await chmod(machine.store, 0o600);
  await rm(plain);
  await rm(old);
  const { document } = await machine.json("backup", "--service", "none");
  const { backup, bundle } = document as Record<"backup" | "bundle", { path: string }>;
  await machine.run([
    ...["verify", backup.path, "--bundle", bundle.path],
    ...["--identity", machine.path("safe", "recovery-key.txt")],
  ]);
  const mended = await diagnose(machine, "--fill-gaps");
  expect(mended.names).toEqual([]);
  expect(mended.filled).toBe(2);

  // The age comes from the manifest, not from the file's time stamp.
  const manifest = manifestPath(backup.path);
  const aged = (await readFile(manifest, "utf8")).replace(
    /"created_at": "[^"]+"/,
    '"created_at": "2026-01-01T00:00:00.000Z"',
  );
  await writeFile(manifest, aged);
  await utimes(manifest, new Date(), new Date());
  await rm(bundle.path);
  const later = await diagnose(machine);
  expect(later.names.sort()).toEqual(["bundle", "last-backup"]);
  await machine.run(["rotate", "--hub", "none", "--service", "none"]);
  const rotated = await diagnose(machine);
  expect(rotated.findings.find(({ name }) => name === "restore-tried")?.detail).toMatch(
    /since the passphrase changed/,
  );
  const again = (await machine.json("backup", "--service", "none")).document;
  const newest = (again.backup as { path: string }).path;
  await machine.run(["restore", newest, "--to", machine.path("tried.db")]);
  const tried = (await diagnose(machine)).checks.find(({ name }) => name === "restore-tried");
  expect(tried).toMatchObject({
    ok: true,
    detail: expect.stringContaining(`${newest}, by restore`),
  });
}, 180_000);

test("a store that does not open is a finding, and is not changed", async () => {
  const machine = await Machine.make();
  await mkdir(dirname(machine.store), { recursive: true });
  await copyFile(`${fixtures}sqlcipher4-schema2.db`, machine.store);
  const before = await readFile(machine.store);
  const { findings } = await diagnose(machine);
  const store = findings.find(({ name }) => name === "store");
  expect(store).toMatchObject({ severity: "error", detail: expect.stringMatching(/keyring/) });
  expect(await readFile(machine.store)).toEqual(before);
  expect((await machine.run(["doctor", "--fill-gaps"])).code).toBe(13);
  await rm(machine.store);
  const { findings: absent } = await diagnose(machine);
  expect(absent.find(({ name }) => name === "store")?.fix).toMatch(/init/);
});

test("an unusable keyring is a finding with the command to type", async () => {
  const machine = await Machine.make();
  const { stdout } = await machine.run(["doctor", "--json"], {
    env: { DBUS_SESSION_BUS_ADDRESS: "unix:path=/nonexistent", XDG_RUNTIME_DIR: "/nonexistent" },
  });
  const { checks } = JSON.parse(stdout) as { checks: { name: string }[] };
  expect(checks.find(({ name }) => name === "keyring")).toMatchObject({
    severity: "error",
    detail: expect.stringMatching(/no session bus/),
    fix: expect.stringMatching(/export XDG_RUNTIME_DIR=.*--passphrase-source/s),
  });
});

test("without the system manager, only a command that stops the hub's unit fails", async () => {
  expect(process.geteuid?.(), "this test needs root").toBe(0);
  const machine = await Machine.make();
  await writeFile(machine.path("passphrase"), "correct horse battery", { mode: 0o600 });
  const bundles = machine.path("bundles");
  const settings = ["--to", machine.path("backups"), "--bundle-to", bundles];
  const source = ["--passphrase-source", `file:${machine.path("passphrase")}`];
  await machine.init(...settings, ...source, "--service", "systemd", "--unit", "hub");
  const says = "the system manager of systemd does not respond";

  const refused = await machine.run(["backup"]);
  expect([refused.code, refused.stderr]).toEqual([15, expect.stringContaining(says)]);
  const { document } = await machine.json("backup", "--service", "none");
  const { backup, bundle } = document as Record<string, { path: string }>;
  const key = ["--identity", machine.path("safe", "recovery-key.txt")];
  const commands = [
    ["verify", backup?.path ?? ""],
    ["bundle", "show", bundle?.path ?? "", ...key],
    ["restore", backup?.path ?? "", "--yes", "--service", "none", "--hub", "none"],
  ];
  for (const command of commands) {
    const { code, stderr } = await machine.run(command);
    expect([command[0], code, stderr]).toEqual([command[0], 0, expect.stringContaining(says)]);
  }
  const status = await machine.json("status");
  expect(status).toMatchObject({
    code: 0,
    document: { problems: [expect.stringContaining(says)] },
  });
  const { findings } = await diagnose(machine);
  const found = findings.find(({ name }) => name === "settings");
  expect(found?.detail).toContain(says);
});
