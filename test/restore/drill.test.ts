/** `drill`: a restore of the newest backup that changes nothing. */
import { createHash } from "node:crypto";
import { mkdir, open, readdir, readFile } from "node:fs/promises";
import { basename } from "node:path";
import { expect, test } from "vitest";
import { Machine } from "../cli/machine.js";

async function machineWithBackup(): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init(
    ...["--service", "none", "--to", machine.path("backups")],
    ...["--bundle-to", machine.path("bundles")],
  );
  await machine.run(["add-client", "--name", "kitchen"]);
  await machine.run(["add-client", "--name", "hall"]);
  await machine.run(["delete-client", "2"]);
  const { code, stderr } = await machine.run(["backup"]);
  expect([code, stderr]).toEqual([0, expect.any(String)]);
  await mkdir(machine.path("tmp"));
  return machine;
}

const recoveryKey = (machine: Machine) => machine.path("safe", "recovery-key.txt");

async function newestBackup(machine: Machine): Promise<string> {
  const names = await readdir(machine.path("backups"));
  return machine.path(
    "backups",
    names
      .filter((name) => name.endsWith(".db"))
      .toSorted()
      .at(-1) ?? "",
  );
}

async function checksum(path: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
}

/** Runs a drill with a temporary directory of its own, which must be empty afterwards. */
async function drill(machine: Machine, ...args: string[]) {
  const answer = await machine.run(["drill", ...args, "--json"], {
    env: { TMPDIR: machine.path("tmp") },
  });
  expect(await readdir(machine.path("tmp"))).toEqual([]);
  return { code: answer.code, document: JSON.parse(answer.stdout), stderr: answer.stderr };
}

async function restoreTestFinding(machine: Machine) {
  const { document } = await machine.json("doctor");
  const checks = document.checks as { name: string; ok: boolean; detail: string }[];
  return checks.find(({ name }) => name === "restore-tried");
}

test("with the keyring it reads every client; with the recovery key it is the restore test of doctor", async () => {
  const machine = await machineWithBackup();
  const before = await checksum(machine.store);
  const backup = await newestBackup(machine);
  const withKeyring = await drill(machine);
  expect(withKeyring).toMatchObject({
    code: 0,
    document: {
      drill: { backup, clients: { active: 1, revoked: 1 }, with_bundle: false },
    },
  });
  expect(await restoreTestFinding(machine)).toMatchObject({ ok: false });

  const withKey = await drill(machine, "--identity", recoveryKey(machine));
  expect(withKey).toMatchObject({ code: 0, document: { drill: { backup, with_bundle: true } } });
  expect(await restoreTestFinding(machine)).toMatchObject({
    ok: true,
    detail: expect.stringContaining(`${backup}, by drill`),
  });
  expect(await checksum(machine.store)).toBe(before);
  const { document } = await machine.json("status");
  expect(document).toMatchObject({
    runs: { drill: { exit_code: 0 } },
    last_restore_test: { backup },
  });
});

test("on an empty machine it needs the backup, its bundle and the recovery key", async () => {
  const machine = await machineWithBackup();
  const [bundle = ""] = (await readdir(machine.path("bundles"))).filter((name) =>
    name.endsWith(".bundle.age"),
  );
  const empty = await Machine.make();
  await mkdir(empty.path("tmp"));
  const rehearsed = await drill(
    empty,
    ...[machine.path("backups"), "--bundle", machine.path("bundles", bundle)],
    ...["--identity", recoveryKey(machine)],
  );
  expect(rehearsed).toMatchObject({
    code: 0,
    document: { drill: { clients: { active: 1, revoked: 1 }, with_bundle: true } },
  });
  expect(await readdir(empty.folder)).not.toContain("data");
});

test("a backup that cannot be restored fails it: damage, no backup, no room for the copy", async () => {
  const machine = await machineWithBackup();
  const backup = await newestBackup(machine);
  await using file = await open(backup, "r+");
  await file.write(Buffer.from([0x55]), 0, 1, 5000);
  const damaged = await drill(machine);
  expect(damaged).toMatchObject({
    code: 14,
    document: {
      error: { message: expect.stringMatching(`${basename(backup)} cannot be restored: sha256: `) },
    },
  });
  const none = await drill(machine, machine.path("tmp"));
  expect(none.code).toBe(10);
  const noRoom = await machine.run(["drill"], { env: { TMPDIR: machine.path("absent") } });
  expect([noRoom.code, noRoom.stderr]).toEqual([
    18,
    expect.stringContaining(`cannot create a directory in ${machine.path("absent")}`),
  ]);
});
