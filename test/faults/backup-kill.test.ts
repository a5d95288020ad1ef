/**
 * The job is killed, without a chance to react, at each of its steps. What must hold then: the
 * store opens and has every commit; the unit runs, by the timer at the latest; and after the next
 * command nothing is left but finished backups.
 */
import { execFileSync } from "node:child_process";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { backupSteps } from "../../src/backup/journal.js";
import { verifyBackup } from "../../src/backup/verify.js";
import { openEncrypted } from "../../src/store/cipher.js";
import {
  committed,
  filesIn,
  hubOf,
  hubStore,
  isActive,
  leftovers,
  runJob,
  settle,
  startUnit,
  startWriter,
  testPassphrase,
} from "../backup/hub.js";
import { holding, property, systemctl, until } from "../service/units.js";
import { copyOfFixture, fixturePassphrases } from "../store/temporary.js";

/** From here on both files are verified, and the next command completes the backup. */
const completed = ["backup.claiming", "backup.claimed", "backup.committed"];

type Hub = Awaited<ReturnType<typeof hubStore>>;

async function expectWholeStore(hub: Hub, passphrase = testPassphrase): Promise<void> {
  const known = await committed(hub);
  const { connection } = await openEncrypted(hub.path, passphrase, { mode: "readwrite" });
  const rows = await connection.all<{ client_id: number }>("SELECT client_id FROM clients");
  const there = new Set(rows.map((row) => row.client_id));
  expect(known.filter((id) => !there.has(id))).toEqual([]);
  expect(await connection.get("PRAGMA integrity_check")).toEqual({ integrity_check: "ok" });
  await connection.close();
}

async function expectTidy(hub: Hub, backups: number): Promise<void> {
  expect(leftovers(hub)).toEqual([]);
  const files = filesIn(hub.to);
  expect(files).toHaveLength(2 * backups);
  for (const name of files.filter((file) => file.endsWith(".db"))) {
    const verified = await verifyBackup(join(hub.to, name), { passphrase: testPassphrase });
    expect(verified).toMatchObject({ ok: true });
  }
  expect(await systemctl("list-units", "--all", "--type=timer")).not.toContain(hub.unit);
}

for (const step of backupSteps) {
  test(`killed at ${step}: the next command starts the unit and completes or removes the backup`, async () => {
    const hub = await hubStore();
    await startWriter(hub, "", 5);
    const killed = await runJob(hub, { at: { step } });
    expect(killed.signal).toBe("SIGKILL");
    const settled = await settle(hub);
    expect(settled.error).toBeUndefined();
    expect(await isActive(hub)).toBe(true);
    await expectTidy(hub, completed.includes(step) ? 1 : 0);
    await expectWholeStore(hub);
    expect((await runJob(hub)).code).toBe(0);
    await expectTidy(hub, completed.includes(step) ? 2 : 1);
  });
}

test("killed while the unit is stopped: its timer starts it with nobody there to do so, and settles what was left", async () => {
  const hub = await hubStore();
  await startWriter(hub, "", 5);
  const killed = await runJob(hub, { at: { step: "backup.stopped" } });
  expect(killed.signal).toBe("SIGKILL");
  expect(await isActive(hub)).toBe(false);
  const timer = (await readFile(`${hub.path}.journal.json`, "utf8")).match(
    /hivemind-sqlcipher-restart-\w+/,
  )?.[0];
  expect(timer).toBeDefined();
  // The timer's time is not waited for: what it will do then is done now.
  expect(await property(`${timer}.timer`, "ActiveState")).toBe("active");
  await systemctl("start", `${timer}.service`);
  await until(() => isActive(hub));
  await until(() => leftovers(hub).length === 0);
  expect(await settle(hub)).toMatchObject({ notices: [] });
  await expectTidy(hub, 0);
  await expectWholeStore(hub);
});

test("killed, and the next command killed too: the one after that puts things right", async () => {
  const hub = await hubStore();
  await startWriter(hub, "", 5);
  for (const step of ["backup.copied", "backup.stopped", "backup.claimed", "backup.armed"]) {
    expect((await runJob(hub, { at: { step } })).signal).toBe("SIGKILL");
  }
  expect((await settle(hub)).error).toBeUndefined();
  expect(await isActive(hub)).toBe(true);
  await expectTidy(hub, 1);
  await expectWholeStore(hub);
});

test("a store that is not in WAL mode is as it was after a kill in mid-copy", async () => {
  const name = "sqlcipher4-schema2.db";
  const path = await copyOfFixture(name);
  const original = await readFile(path);
  const hub = await hubOf(join(path, ".."), path, fixturePassphrases[name]);
  await startUnit(hub, holding(path).replace("[Service]\n", ""));
  for (const step of ["backup.stopped", "backup.copied"]) {
    expect((await runJob(hub, { at: { step } })).signal).toBe("SIGKILL");
    expect((await settle(hub)).error).toBeUndefined();
    expect(await isActive(hub)).toBe(true);
    expect(leftovers(hub)).toEqual([]);
    expect(filesIn(hub.to)).toEqual([]);
    expect(Buffer.compare(await readFile(path), original)).toBe(0);
  }
});

test("settling removes nothing that is not the interrupted backup's own", async () => {
  const hub = await hubStore();
  const none = { service: { service: "none" } };
  expect((await runJob(hub, { ...none, at: { step: "backup.claiming" } })).signal).toBe("SIGKILL");
  const journal = JSON.parse(await readFile(`${hub.path}.journal.json`, "utf8"));
  // Somebody else's files, with the names that the backup was about to take, and of the same kind.
  await writeFile(journal.data.final.copy, "another's");
  await writeFile(join(hub.to, ".backup.db.0123456789ab.partial"), "another's");
  const settled = await settle(hub);
  expect(settled).toMatchObject({ code: 17, error: { kind: "refused" } });
  expect(await readFile(journal.data.final.copy, "utf8")).toBe("another's");
  expect(await readFile(join(hub.to, ".backup.db.0123456789ab.partial"), "utf8")).toBe("another's");
  execFileSync("rm", [journal.data.final.copy]);
  expect((await settle(hub)).notices).toEqual([
    `completed the interrupted backup ${journal.data.final.copy}`,
  ]);
});

test("a verified copy that was damaged after the kill is removed, not completed", async () => {
  const hub = await hubStore();
  const none = { service: { service: "none" } };
  expect((await runJob(hub, { ...none, at: { step: "backup.claiming" } })).signal).toBe("SIGKILL");
  const journal = JSON.parse(await readFile(`${hub.path}.journal.json`, "utf8"));
  execFileSync("truncate", ["-s", "-4096", journal.data.staged.copy]);
  expect((await settle(hub)).code).toBe(0);
  await expectTidy(hub, 0);
});

test("a backup on a disk that has another device number after the power cut is completed, not left without a manifest", async () => {
  const hub = await hubStore();
  const image = join(hub.folder, "disk");
  const other = join(hub.folder, "other-disk");
  const sh = (script: string) => execFileSync("/bin/sh", ["-ec", script, image, hub.to, other]);
  sh(
    'mkdir "$1"; truncate -s 24M "$0"; mkfs.ext4 -q "$0"; mount -o loop "$0" "$1"; rmdir "$1/lost+found"',
  );
  onTestFinished(() => void sh('umount -l "$1"; losetup -j "$2" | cut -d: -f1 | xargs losetup -d'));
  const before = await stat(hub.to);
  const none = { service: { service: "none" } };
  expect((await runJob(hub, { ...none, at: { step: "backup.claimed" } })).signal).toBe("SIGKILL");
  // Another one was plugged in first.
  // The kernel frees the device some time after the unmount.
  const freed = 'umount "$1"; while losetup -j "$0" | grep -q .; do sleep 0.05; done';
  sh(`${freed}; truncate -s 1M "$2"; losetup -f "$2"; mount -o loop "$0" "$1"`);
  expect((await stat(hub.to)).dev).not.toBe(before.dev);
  expect((await settle(hub)).error).toBeUndefined();
  await expectTidy(hub, 1);
});
