/** `drill`: a restore of the newest backup that changes nothing. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cp,
  mkdir,
  open,
  readdir,
  readFile,
  rm,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test } from "vitest";
import { manifestPath } from "../../src/backup/manifest.js";
import { StoreError } from "../../src/errors.js";
import { drill as drillInProcess } from "../../src/restore/drill.js";
import { Machine } from "../cli/machine.js";
import { temporaryFolder } from "../store/temporary.js";

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

/** Returns doctor's checks of restore tests, by name. */
async function testChecks(machine: Machine) {
  const { document } = await machine.json("doctor");
  const checks = document.checks as { name: string; ok: boolean; detail: string }[];
  const ofTests = checks.filter(({ name }) => name.endsWith("-tried"));
  return Object.fromEntries(ofTests.map(({ name, ok, detail }) => [name, { ok, detail }]));
}

test("with the keyring it is a restore test, with the recovery key also a test of the bundle", async () => {
  const machine = await machineWithBackup();
  const before = await checksum(machine.store);
  const backup = await newestBackup(machine);
  const never = { ok: false, detail: "no backup was ever restored, or verified with its bundle" };
  expect(await testChecks(machine)).toEqual({ "restore-tried": never });
  const withKeyring = await drill(machine);
  expect(withKeyring).toMatchObject({
    code: 0,
    document: {
      drill: { backup, clients: { active: 1, revoked: 1 }, with_bundle: false },
    },
  });
  const byDrill = { ok: true, detail: expect.stringContaining(`${backup}, by drill`) };
  const noBundle = "no test with the bundle and its recovery key is recorded";
  expect(await testChecks(machine)).toEqual({
    "restore-tried": byDrill,
    "bundle-tried": { ok: false, detail: noBundle },
  });
  expect((await machine.json("status")).document).toMatchObject({
    ...{ last_restore_test: { backup }, last_bundle_test: null },
  });

  const withKey = await drill(machine, "--identity", recoveryKey(machine));
  expect(withKey).toMatchObject({ code: 0, document: { drill: { backup, with_bundle: true } } });
  expect(await testChecks(machine)).toEqual({ "restore-tried": byDrill, "bundle-tried": byDrill });
  expect(await checksum(machine.store)).toBe(before);
  const { document } = await machine.json("status");
  expect(document).toMatchObject({
    runs: { drill: { exit_code: 0 } },
    ...{ last_restore_test: { backup }, last_bundle_test: { backup } },
  });

  // A later drill with the keyring does not displace the test with the key.
  await drill(machine);
  const bundleTest = { last_bundle_test: document.last_bundle_test };
  expect((await machine.json("status")).document).toMatchObject(bundleTest);
});

test("status and the metrics have the last drill of each target, but no mistyped target", async () => {
  const machine = await machineWithBackup();
  const [backups, elsewhere] = [machine.path("backups"), machine.path("elsewhere")];
  await cp(backups, elsewhere, { recursive: true });
  const backup = await newestBackup(machine);
  const { size } = await stat(backup);
  await drill(machine, elsewhere);
  expect((await drill(machine, machine.path("absent"))).code).toBe(10);
  await rm(backup);
  expect((await drill(machine)).code).not.toBe(0);
  await rm(elsewhere, { recursive: true });
  expect((await drill(machine, `${elsewhere}/`)).code).toBe(10);
  const { drills } = (await machine.json("status")).document as { drills: { target: string }[] };
  const byTarget = Object.fromEntries(drills.map(({ target, ...others }) => [target, others]));
  expect(byTarget).toEqual({
    [elsewhere]: {
      ...{ at: expect.any(String), duration_ms: expect.any(Number), exit_code: 10, size },
      succeeded_at: expect.any(String),
    },
    [backups]: {
      ...{ at: expect.any(String), duration_ms: expect.any(Number), size: null },
      ...{ exit_code: expect.any(Number), succeeded_at: null },
    },
  });
  const { stdout: text } = await machine.run(["status", "--format", "prometheus"]);
  const labels = `{store="${machine.store}",target="${elsewhere}"}`;
  for (const sample of [`bytes${labels} ${size}`, `exit_code${labels} 10`]) {
    expect(text).toContain(`hivemind_sqlcipher_drill_${sample}\n`);
  }
  for (const name of ["timestamp_seconds", "success_timestamp_seconds", "duration_seconds"]) {
    expect(text).toContain(`hivemind_sqlcipher_drill_${name}${labels} `);
  }
  const run = `{store="${machine.store}",operation="drill",target="${elsewhere}"}`;
  expect(text).toContain(`hivemind_sqlcipher_run_exit_code${run} 10\n`);
  const { status, stdout, stderr } = spawnSync("promtool", ["check", "metrics"], {
    input: text,
    encoding: "utf8",
  });
  expect([status, stdout, stderr]).toEqual([0, "", ""]);
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
  // Without the key_id in the file, its bundle is found by the manifest.
  await file.write(Buffer.alloc(512), 0, 512, 0);
  expect((await drill(machine, "--identity", recoveryKey(machine))).code).toBe(14);
  const none = await drill(machine, machine.path("tmp"));
  expect(none.code).toBe(10);
  const noRoom = await machine.run(["drill"], { env: { TMPDIR: machine.path("absent") } });
  expect([noRoom.code, noRoom.stderr]).toEqual([
    18,
    expect.stringContaining(`cannot create a directory in ${machine.path("absent")}`),
  ]);
});

test("the copies of killed drills are removed, those of running drills are not", async () => {
  const machine = await machineWithBackup();
  const { pid: gone } = spawnSync("true");
  for (const pid of [gone, process.pid]) {
    const directory = machine.path("tmp", `hivemind-sqlcipher-drill-${pid}-abcdef`);
    await mkdir(directory);
    await writeFile(join(directory, "clients.db"), "");
  }
  const { code } = await machine.run(["drill"], { env: { TMPDIR: machine.path("tmp") } });
  expect(code).toBe(0);
  const running = `hivemind-sqlcipher-drill-${process.pid}-abcdef`;
  expect(await readdir(machine.path("tmp"))).toEqual([running]);
});

test("an interrupted drill stops copying", async () => {
  const backup = join(await temporaryFolder(), "clients.2026-11-24T18-50-00Z.db");
  const size = 256 << 20;
  await writeFile(backup, "");
  await truncate(backup, size);
  await writeFile(manifestPath(backup), "{}");
  const controller = new AbortController();
  let isOver = false;
  const drilled = drillInProcess({
    backup,
    secret: { passphrase: "none" },
    signal: controller.signal,
  })
    .catch((error: unknown) => error)
    .finally(() => {
      isOver = true;
    });
  let copied = 0;
  while (!isOver) {
    for (const name of await readdir(tmpdir())) {
      if (!name.startsWith(`hivemind-sqlcipher-drill-${process.pid}-`)) continue;
      const copy = await stat(join(tmpdir(), name, basename(backup))).catch(() => undefined);
      copied = Math.max(copied, copy?.size ?? 0);
    }
    if (copied > 0) controller.abort(new StoreError("interrupted", "interrupted by the test"));
    await delay(1);
  }
  expect(await drilled).toMatchObject({ kind: "interrupted" });
  expect(copied).toBeGreaterThan(0);
  expect(copied).toBeLessThan(size / 2);
});
