import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { lstat, mkdir, readFile, realpath, stat, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { backup as backUp } from "../../src/backup/backup.js";
import { readManifest } from "../../src/backup/manifest.js";
import { verifyBackup } from "../../src/backup/verify.js";
import { readBundle } from "../../src/bundle/bundle.js";
import { newClient } from "../../src/client/client.js";
import { setEntry } from "../../src/keys/keyring.js";
import { waitUntilListening } from "../../src/process/ports.js";
import { withOperation } from "../../src/recovery/recover.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { root, testProgram } from "../built.js";
import { freePort } from "../databases/redis-server.js";
import { holding, property, systemctl, until } from "../service/units.js";
import { copyOfFixture, fixturePassphrases } from "../store/temporary.js";
import {
  committed,
  filesIn,
  type Hub,
  hubOf,
  hubStore,
  idsIn,
  isActive,
  leftovers,
  logOf,
  resultOf,
  runJob,
  settle,
  startJob,
  startUnit,
  startWriter,
  testPassphrase,
} from "./hub.js";

test("a unit that writes all the time is backed up: every commit before its stop is in the copy, and it runs again", async () => {
  const hub = await hubStore(2000);
  await startWriter(hub);
  const invocation = await property(hub.unit, "InvocationID");
  const ran = await runJob(hub);
  const { backup, bundle, service, verified } = resultOf(ran);
  expect(await isActive(hub)).toBe(true);
  expect(await property(hub.unit, "InvocationID")).not.toBe(invocation);

  const known = await committed(hub);
  const copied = await idsIn(backup.path);
  expect(copied.size).toBe(backup.clients.active);
  // The writer notes what it has committed after its commit and stops at a turn's end: all it noted
  // before the window is there, and the copy has no hole.
  const top = Math.max(...copied);
  expect(known.filter((id) => id <= top && !copied.has(id))).toEqual([]);
  expect(copied.size).toBe(top);
  expect(known.some((id) => id > top)).toBe(true);

  expect(verified).toBe(true);
  expect(service).toMatchObject({ unit: hub.unit, wasActive: true, active: true });
  expect(service.stoppedMs).toBeGreaterThan(0);
  expect(backup.path).toMatch(/backups\/clients\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ\.db$/);
  expect(backup.manifest).toBe(backup.path.replace(/db$/, "manifest.json"));
  expect(bundle.path).toBe(join(hub.bundleTo, `clients.${backup.keyId}.bundle.age`));
  expect(bundle.recipients).toEqual([hub.recoveryKey.recipient]);
  expect(await readManifest(backup.manifest)).toMatchObject({
    created_at: backup.createdAt,
    file: basename(backup.path),
    size: backup.size,
    sha256: backup.sha256,
    key_id: backup.keyId,
    clients: backup.clients,
    unit: hub.unit,
    method: "stopped",
  });
  for (const path of [backup.path, backup.manifest, bundle.path]) {
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  }
  for (const folder of [hub.to, hub.bundleTo]) {
    expect((await stat(folder)).mode & 0o777).toBe(0o700);
  }
  expect(leftovers(hub)).toEqual([]);

  const { passphrase } = await readBundle(bundle.path, { identity: hub.recoveryKey.identity });
  expect(await verifyBackup(backup.path, { passphrase })).toMatchObject({ ok: true });
});

test("a store that a link names is backed up with its log, and locked under its own path", async () => {
  const hub = await hubStore();
  await using store = await ClientStore.open(hub.path, testPassphrase);
  await store.addItem(newClient({ client_id: 101, api_key: "only in the log" }));
  const link = join(hub.folder, "clients.db");
  await symlink(hub.path, link);
  const { backup } = resultOf(await runJob({ ...hub, path: link }, { online: true }));
  expect(await idsIn(backup.path)).toContain(101);
  expect(filesIn(hub.folder)).not.toContain("clients.db.lock");
});

test("an aborted backup does not wait for the keyring", async () => {
  const hub = await hubStore();
  await setEntry(hub.path, "current", testPassphrase);
  const reporter = { notice() {}, detail() {}, confirm: () => Promise.reject(new Error("asked")) };
  const aborted = withOperation(hub.path, reporter, (lock) =>
    backUp({
      ...{ lock, to: hub.to, bundleTo: hub.bundleTo, recipients: [hub.recoveryKey.recipient] },
      ...{ source: { kind: "keyring" }, service: { service: "none", storePath: hub.path } },
      ...{ recoveryCommand: ["false"], reporter, signal: AbortSignal.abort() },
    }),
  );
  await expect(aborted).rejects.toMatchObject({ kind: "interrupted" });
  await expect(lstat(hub.to)).rejects.toThrow("ENOENT");
});

test("the copy is byte for byte what stop, cp and start give", async () => {
  const hub = await hubStore(500);
  await startWriter(hub, `ExecStopPost=/bin/sh -c 'cp ${hub.path} ${hub.path}-wal ${hub.folder}'`);
  const { backup } = resultOf(await runJob(hub));
  // What the unit itself saw at its stop, with the log brought into the main file by SQLite.
  const plain = join(hub.folder, "clients.db");
  const { connection } = await openEncrypted(plain, testPassphrase, { mode: "readwrite" });
  await connection.all("PRAGMA wal_checkpoint(TRUNCATE)");
  await connection.close();
  expect(Buffer.compare(await readFile(backup.path), await readFile(plain))).toBe(0);
});

test("what is written while the unit is stopped does not grow with the store", async () => {
  const written = [];
  for (const clients of [100, 4000]) {
    const hub = await hubStore(clients);
    await startWriter(hub, "", 20);
    const { details } = await runJob(hub);
    written.push(Number(/(\d+) bytes were copied/.exec(details)?.[1]));
  }
  expect(Math.max(...written)).toBeLessThan(100 * 4096);
});

test("a unit that is not running is not started", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  await systemctl("stop", hub.unit);
  const { backup, service } = resultOf(await runJob(hub));
  expect(service).toEqual({
    unit: hub.unit,
    wasActive: false,
    active: false,
    stoppedMs: null,
    listeningMs: null,
  });
  expect(await isActive(hub)).toBe(false);
  const copied = await idsIn(backup.path);
  expect((await committed(hub)).filter((id) => !copied.has(id))).toEqual([]);
  expect(copied).toEqual(await idsIn(hub.path));
});

test("a unit that is stopped while it is copied stays down", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  const { service } = resultOf(
    await runJob(hub, {
      env: {
        NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
        HIVEMIND_TEST_AT_STEP: JSON.stringify({
          "backup.warm": `systemctl --user stop ${hub.unit}`,
        }),
      },
    }),
  );
  expect(service).toMatchObject({ wasActive: true, active: false, stoppedMs: null });
  expect(await isActive(hub)).toBe(false);
});

/** A hub listens only some time after its start. Its satellites are cut off until then. */
const startMs = 700;

test("a unit with a port is waited for until it listens again, and that is reported", async () => {
  const hub = await hubStore();
  const server = "const s = require('net').createServer().listen(process.argv[2], '127.0.0.1')";
  const file = join(hub.folder, "hub.cjs");
  await writeFile(
    file,
    `const store = require('fs').openSync(${JSON.stringify(hub.path)});
setTimeout(() => { ${server} }, ${startMs});`,
  );
  const port = await freePort();
  await startUnit(hub, `Type=exec\nExecStart=${process.execPath} ${file} ${port}`);
  expect(await waitUntilListening([port], 10_000)).toBeDefined();
  const { service } = resultOf(await runJob(hub));
  expect(service.listeningMs).toBeGreaterThan(startMs);
  expect(await waitUntilListening([port], 100)).toBeDefined();
});

test("online, the unit is not stopped, and what was committed before is in the copy", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  const invocation = await property(hub.unit, "InvocationID");
  const known = await committed(hub);
  const { backup, service } = resultOf(await runJob(hub, { online: true }));
  expect(await property(hub.unit, "InvocationID")).toBe(invocation);
  expect(backup.method).toBe("online");
  expect(service.stoppedMs).toBeNull();
  const copied = await idsIn(backup.path);
  expect(known.filter((id) => !copied.has(id))).toEqual([]);
  expect(await verifyBackup(backup.path, { passphrase: testPassphrase })).toMatchObject({
    ok: true,
  });
});

for (const [name, passphrase] of Object.entries(fixturePassphrases)) {
  test(`${name}, not in WAL mode, is copied whole while its unit is stopped, and stays as it is`, async () => {
    const path = await copyOfFixture(name);
    const original = await readFile(path);
    const hub = await hubOf(join(path, ".."), path, passphrase);
    await startUnit(hub, holding(path).replace("[Service]\n", ""));
    const ran = await runJob(hub);
    const { backup } = resultOf(ran);
    expect(ran.notices.join()).toContain("not in WAL mode");
    expect(Buffer.compare(await readFile(backup.path), original)).toBe(0);
    expect(Buffer.compare(await readFile(path), original)).toBe(0);
    expect(await isActive(hub)).toBe(true);
    expect((await readManifest(backup.manifest)).cipher_compatibility).toBe(
      name.includes("cipher3") ? 3 : 4,
    );
    expect(await verifyBackup(backup.path, { passphrase })).toMatchObject({ ok: true });
    const online = await runJob(hub, { online: true });
    expect(online).toMatchObject({ code: 17, error: { kind: "refused" } });
  });
}

test("a unit that gets ready by writing to its store, not in WAL mode, is not kept from that by its backup", async () => {
  const hub = await hubStore();
  const { connection } = await openEncrypted(hub.path, testPassphrase, { mode: "readwrite" });
  await connection.get("PRAGMA journal_mode = DELETE");
  await connection.close();
  await startWriter(hub);
  const { backup } = resultOf(await runJob(hub));
  expect(await isActive(hub)).toBe(true);
  const copied = await idsIn(backup.path);
  expect(copied.size).toBe(Math.max(...copied));
  expect(await verifyBackup(backup.path, { passphrase: testPassphrase })).toMatchObject({
    ok: true,
  });
});

test("nor by one that fails, when somebody has come in between", async () => {
  const hub = await hubStore();
  const { connection } = await openEncrypted(hub.path, testPassphrase, { mode: "readwrite" });
  await connection.get("PRAGMA journal_mode = DELETE");
  await connection.close();
  await startWriter(hub);
  const other = join(hub.folder, "other");
  const ran = await runJob(hub, {
    at: { step: "backup.stopped" },
    env: { HIVEMIND_TEST_COMMAND: openedBy(hub, other) },
  });
  onTestFinished(async () => void process.kill(Number(await readFile(other, "utf8"))));
  expect(ran).toMatchObject({ code: 11, error: { kind: "inUse" } });
  expect(await isActive(hub)).toBe(true);
  expect(filesIn(hub.to)).toEqual([]);
  expect(leftovers(hub)).toEqual([]);
});

test("the passphrase comes from the keyring, and the bundle can be locked by a passphrase", async () => {
  const hub = await hubStore();
  await setEntry(hub.path, "current", testPassphrase);
  const { bundle } = resultOf(
    await runJob(hub, {
      source: { kind: "keyring" },
      service: { service: "none" },
      bundlePassphrase: "a bundle's own",
    }),
  );
  expect(await readBundle(bundle.path, { passphrase: "a bundle's own" })).toMatchObject({
    passphrase: testPassphrase,
  });
});

test("a second backup in the same second gets the next free name, and reuses the bundle", async () => {
  const hub = await hubStore();
  const first = resultOf(await runJob(hub, { service: { service: "none" } }));
  const bundle = await readFile(first.bundle.path);
  const made = Date.parse(first.backup.createdAt);
  for (let second = 0; second < 30; second++) {
    const name = new Date(made + second * 1000).toISOString().slice(0, 19).replaceAll(":", "-");
    await writeFile(join(hub.to, `clients.${name}Z.manifest.json`), "", { flag: "wx" }).catch(
      () => {},
    );
  }
  const second = resultOf(await runJob(hub, { service: { service: "none" } }));
  expect(second.backup.path > first.backup.path).toBe(true);
  expect(filesIn(hub.to).filter((name) => name.endsWith(".db"))).toHaveLength(2);
  expect(await readFile(second.bundle.path)).toEqual(bundle);
});

test("two backups at once: the second is refused and disturbs nothing", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  const first = startJob(hub, { at: { step: "backup.warm", signal: "SIGSTOP" } });
  await stopped(first.child);
  const second = await runJob(hub);
  expect(second).toMatchObject({ code: 11, error: { kind: "inUse" } });
  expect(second.error?.message).toContain(`process ${first.child.pid}`);
  first.child.kill("SIGCONT");
  expect(resultOf(await first.ran).verified).toBe(true);
});

test("another process that has the store open: refused before the unit is stopped", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  const invocation = await property(hub.unit, "InvocationID");
  const other = spawn("/bin/sh", ["-c", `exec 3<${hub.path}; echo up; exec sleep infinity`]);
  onTestFinished(() => void other.kill());
  await new Promise((resolve) => other.stdout.once("data", resolve));
  const ran = await runJob(hub);
  expect(ran).toMatchObject({ code: 11, error: { kind: "inUse" } });
  expect(ran.error?.message).toContain(`${other.pid} (sleep)`);
  expect(await property(hub.unit, "InvocationID")).toBe(invocation);
  expect(filesIn(hub.to)).toEqual([]);
  expect(leftovers(hub)).toEqual([]);
});

test("a process that opens the store while its unit is stopped: refused, nothing kept, the unit runs again", async () => {
  const hub = await hubStore();
  const flag = join(hub.folder, "open");
  const opening = `exec 3<${hub.path}; touch ${flag}; exec sleep infinity`;
  await startWriter(
    hub,
    `ExecStopPost=systemd-run --user --collect --unit=${hub.unit}-other /bin/sh -c "${opening}"\nExecStopPost=/bin/sh -c 'until test -e ${flag}; do sleep 0.01; done'`,
  );
  onTestFinished(() => void systemctl("stop", `${hub.unit}-other`));
  const ran = await runJob(hub);
  expect(ran).toMatchObject({ code: 11, error: { kind: "inUse" } });
  expect(await isActive(hub)).toBe(true);
  expect(filesIn(hub.to)).toEqual([]);
  expect(leftovers(hub)).toEqual([]);
});

test("from the warm copy to the start, the job keeps the lock that its pin is", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  for (const step of ["backup.warm", "backup.armed", "backup.copied"]) {
    const job = startJob(hub, { at: { step, signal: "SIGSTOP" } });
    await stopped(job.child);
    // Whoever opens and closes the store's files by other means than SQLite has lost it by now.
    const { ino } = await stat(`${hub.path}-shm`);
    const locks = await readFile("/proc/locks", "utf8");
    expect(locks).toMatch(new RegExp(` READ +${job.child.pid} \\w+:\\w+:${ino} `));
    job.child.kill("SIGCONT");
    expect(resultOf(await job.ran).verified).toBe(true);
  }
});

test("a unit that something starts before its copy is complete: said, and nothing kept", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  const job = startJob(hub, { at: { step: "backup.copied", signal: "SIGSTOP" } });
  await stopped(job.child);
  await systemctl("start", hub.unit);
  job.child.kill("SIGCONT");
  const ran = await job.ran;
  expect(ran).toMatchObject({ code: 15, error: { kind: "service" } });
  expect(ran.error?.message).toContain("something started");
  expect(await isActive(hub)).toBe(true);
  expect(filesIn(hub.to)).toEqual([]);
  expect(leftovers(hub)).toEqual([]);
});

/** A shell command that has a process open the store, and keep it; its number is in a file then. */
const openedBy = (hub: Hub, pidFile: string) =>
  `/bin/sh -c 'exec 3<${hub.path}; echo $$ >${pidFile}; exec sleep infinity' >/dev/null 2>&1 & until test -s ${pidFile}; do sleep 0.01; done`;

/** A writer that is started and stopped by commands; each start is a process, by its number. */
async function commandHub(hub: Hub) {
  const pidFile = join(hub.folder, "pid");
  const starts = join(hub.folder, "starts");
  const writer = `${process.execPath} ${testProgram("backup/writer")} ${hub.path} ${hub.passphraseFile} ${logOf(hub)}`;
  const service = {
    service: "command",
    startCommand: `setsid ${writer} </dev/null >/dev/null 2>&1 & echo $! | tee -a ${starts} > ${pidFile}`,
    stopCommand: `kill $(cat ${pidFile}) && tail --pid=$(cat ${pidFile}) -f /dev/null`,
  };
  const pid = async () => Number(await readFile(pidFile, "utf8"));
  const started = async () => (await readFile(starts, "utf8")).trim().split("\n").map(Number);
  execFileSync("/bin/sh", ["-c", service.startCommand]);
  onTestFinished(async () => {
    for (const each of await started()) {
      try {
        process.kill(each, "SIGKILL");
      } catch {
        // It has ended, as all but the last should.
      }
    }
  });
  await until(async () => (await committed(hub)).length > 20);
  return { service, pid, started };
}

/** The processes that a process has begun, and theirs. */
function descendants(pid: number | undefined): { pid: number; name: string }[] {
  const listed = spawnSync("pgrep", ["-l", "-P", String(pid)], { encoding: "utf8" }).stdout;
  return [...listed.matchAll(/^(\d+) (.*)$/gm)].flatMap(([, child, name = ""]) => [
    { pid: Number(child), name },
    ...descendants(Number(child)),
  ]);
}

test("a hub with commands of its own that the watcher starts while the job is still at it: said, and there is one hub", async () => {
  const hub = await hubStore();
  const { service, pid, started } = await commandHub(hub);
  const job = startJob(hub, { service, at: { step: "backup.copied", signal: "SIGSTOP" } });
  await stopped(job.child);
  expect(await started()).toHaveLength(1);
  // Its time is not waited for: its clock is what ends early. The job goes on before the hub has
  // its store open.
  const clock = descendants(job.child.pid).find(({ name }) => name === "sleep");
  expect(clock).toBeDefined();
  if (clock?.pid !== undefined) process.kill(clock.pid, "SIGKILL");
  await until(async () => (await started()).length === 2);
  job.child.kill("SIGCONT");
  const ran = await job.ran;
  expect(ran).toMatchObject({ code: 15, error: { kind: "service" } });
  expect(ran.error?.message).toContain("the restart timer started");
  expect(await started()).toHaveLength(2);
  const known = (await committed(hub)).length;
  await until(async () => (await committed(hub)).length > known);
  expect(process.kill(await pid(), 0)).toBe(true);
  expect(filesIn(hub.to)).toEqual([]);
  expect(leftovers(hub)).toEqual([]);
});

test("a program that has opened the store meanwhile is not taken for that hub: it is started all the same", async () => {
  const hub = await hubStore();
  const { service, pid, started } = await commandHub(hub);
  const other = join(hub.folder, "other");
  const ran = await runJob(hub, {
    service,
    at: { step: "backup.stopped" },
    env: { HIVEMIND_TEST_COMMAND: openedBy(hub, other) },
  });
  onTestFinished(async () => void process.kill(Number(await readFile(other, "utf8"))));
  expect(ran).toMatchObject({ code: 11, error: { kind: "inUse" } });
  expect(await started()).toHaveLength(2);
  expect(process.kill(await pid(), 0)).toBe(true);
  expect(leftovers(hub)).toEqual([]);
});

test("a hub that is stopped and started by commands is backed up, also when the job is killed meanwhile", async () => {
  const hub = await hubStore();
  const { service, pid } = await commandHub(hub);
  const first = await pid();
  const { backup, service: report } = resultOf(await runJob(hub, { service }));
  expect(report).toMatchObject({ unit: null, wasActive: true, active: true });
  expect(await pid()).not.toBe(first);
  const copied = await idsIn(backup.path);
  expect(copied.size).toBe(Math.max(...copied));

  // Neither while it runs nor while it is stopped does a kill leave two hubs, or none.
  const processes = (words: string) =>
    spawnSync("pgrep", ["-f", words], { encoding: "utf8" }).stdout.split("\n").filter(Boolean);
  for (const step of ["backup.armed", "backup.stopped"]) {
    const before = await pid();
    expect((await runJob(hub, { service, at: { step } })).signal).toBe("SIGKILL");
    await until(() => processes(`trap.*${hub.folder}`).length === 0);
    expect(processes(`^${process.execPath}.*backup-writer.js ${hub.path}`)).toEqual([
      `${await pid()}`,
    ]);
    // A command may be stopping the hub: the recovery stops it, even where it was not stopped yet.
    expect(await pid()).not.toBe(before);
    expect(leftovers(hub)).toEqual([]);
  }
  expect(filesIn(hub.to)).toHaveLength(2);
});

test("a unit that will not stop: an error in words, nothing kept, and it runs", async () => {
  const hub = await hubStore();
  await startUnit(
    hub,
    `${holding(hub.path).replace("[Service]\n", "")}ExecStop=/bin/false\nKillMode=none\nTimeoutStopSec=1\nSendSIGKILL=no`,
  );
  const ran = await runJob(hub);
  expect(ran).toMatchObject({ code: 15, error: { kind: "service" } });
  expect(ran.error?.message).toContain(hub.unit);
  expect(await isActive(hub)).toBe(true);
  expect(filesIn(hub.to)).toEqual([]);
  expect(leftovers(hub)).toEqual([]);
});

test("a unit that does not start again: error 15 says what state things are in, and the next command starts it", async () => {
  const hub = await hubStore();
  const gate = join(hub.folder, "gate");
  await writeFile(gate, "");
  await startWriter(
    hub,
    `ExecStartPre=/bin/sh -c 'test -e ${gate}'\nExecStopPost=/bin/rm -f ${gate}`,
  );
  const ran = await runJob(hub);
  expect(ran).toMatchObject({ code: 15, error: { kind: "service" } });
  expect(ran.error?.message).toContain("is not running again");
  expect(await isActive(hub)).toBe(false);
  expect(filesIn(hub.to)).toEqual([]);
  await writeFile(gate, "");
  const next = await settle(hub);
  expect(next.notices).toEqual([`started ${hub.unit}, which an interrupted backup had stopped`]);
  expect(await isActive(hub)).toBe(true);
  expect(leftovers(hub)).toEqual([]);
  expect(await systemctl("list-units", "--all", "--type=timer")).not.toContain(hub.unit);
});

test("a unit that does not exist, a recipient that does not parse, a wrong passphrase: each its code, before anything", async () => {
  const hub = await hubStore();
  expect(await runJob(hub)).toMatchObject({ code: 10, error: { kind: "notFound" } });
  expect(await runJob(hub, { recipients: ["age1nonsense"] })).toMatchObject({
    code: 2,
    error: { kind: "usage" },
  });
  await writeFile(hub.passphraseFile, "wrong");
  expect(await runJob(hub, { service: { service: "none" } })).toMatchObject({
    code: 12,
    error: { kind: "wrongPassphrase" },
  });
  expect(filesIn(hub.to)).toEqual([]);
  expect(filesIn(hub.bundleTo)).toEqual([]);
});

test("the bundle in the backups' folder, or a folder that is a file: refused, and nothing is made", async () => {
  const hub = await hubStore();
  for (const bundleTo of [hub.to, join(hub.to, "below"), hub.folder]) {
    const ran = await runJob(hub, { bundleTo, service: { service: "none" } });
    expect(ran).toMatchObject({ code: 17, error: { kind: "refused" } });
  }
  await writeFile(hub.to, "a file");
  const ran = await runJob(hub, { service: { service: "none" } });
  expect(ran).toMatchObject({ code: 18, error: { kind: "io" } });
  expect(ran.error?.message).toContain(hub.to);
  expect(filesIn(hub.bundleTo)).toEqual([]);
  expect(leftovers(hub)).toEqual([]);
});

test("a folder for backups that is a link is followed; a link that has a backup's name is not", async () => {
  const hub = await hubStore();
  await mkdir(join(hub.folder, "elsewhere"));
  await symlink("elsewhere", hub.to);
  const { backup } = resultOf(await runJob(hub, { service: { service: "none" } }));
  expect(await realpath(backup.path)).toBe(backup.path);
  expect((await lstat(backup.path)).isFile()).toBe(true);
});

/** Waits until a job has stopped itself at its step. */
async function stopped({ pid }: ChildProcess): Promise<void> {
  await until(async () => / T /.test(await readFile(`/proc/${pid}/stat`, "utf8")));
}

/** A file system of its own, as the private session's root may mount one. */
async function mountSmall(path: string, options: string): Promise<void> {
  execFileSync("mkdir", ["-p", path]);
  execFileSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", path]);
  onTestFinished(() => void execFileSync("umount", ["-l", path]));
}

test("a disk without room for the copy is found out before anything is made", async () => {
  const hub = await hubStore(2000);
  await startWriter(hub);
  const invocation = await property(hub.unit, "InvocationID");
  await mountSmall(hub.to, "size=3m,mode=700");
  const ran = await runJob(hub);
  expect(ran).toMatchObject({ code: 18, error: { kind: "io" } });
  expect(ran.error?.message).toContain("no space left");
  expect(await property(hub.unit, "InvocationID")).toBe(invocation);
  expect(filesIn(hub.to)).toEqual([]);
});

test("a disk that fails when it is asked for its room is one that fails: said so, and nothing is stopped", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  const invocation = await property(hub.unit, "InvocationID");
  const failing = `
    import fs from "node:fs";
    import { syncBuiltinESMExports } from "node:module";
    fs.promises.statfs = async () => { throw Object.assign(new Error("EIO"), { code: "EIO" }); };
    syncBuiltinESMExports();`;
  const ran = await runJob(hub, {
    env: { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(failing)}` },
  });
  expect(ran).toMatchObject({ code: 18, error: { kind: "io" } });
  expect(ran.error?.message).toContain(`${hub.to}: input/output error`);
  expect(await property(hub.unit, "InvocationID")).toBe(invocation);
  expect(leftovers(hub)).toEqual([]);
});

test("a disk that gets full in mid-copy: an error in words, nothing left, and the unit untouched or running again", async () => {
  const hub = await hubStore(4000);
  await startWriter(hub);
  await mountSmall(hub.to, "size=60m,mode=700");
  const job = startJob(hub, { at: { step: "backup.bundled", signal: "SIGSTOP" } });
  await stopped(job.child);
  execFileSync("dd", ["if=/dev/zero", `of=${hub.to}/other`, "bs=1M", "count=57", "status=none"]);
  job.child.kill("SIGCONT");
  const ran = await job.ran;
  expect(ran).toMatchObject({ code: 18, error: { kind: "io" } });
  expect(ran.error?.message).toContain("no space left on device");
  expect(await isActive(hub)).toBe(true);
  expect(filesIn(hub.to)).toEqual(["other"]);
  expect(leftovers(hub)).toEqual([]);
});

test("a disk that gets full while the unit is stopped: it runs again, and nothing is left", async () => {
  const hub = await hubStore(100);
  await mountSmall(hub.to, "size=12m,mode=700");
  // What the unit writes at its stop comes to the copy in the window, where there is no room for it
  // any more.
  const fill = `dd if=/dev/zero of=${hub.to}/other bs=4k count=4000`;
  await startWriter(hub, `ExecStop=/bin/sh -c '${fill} || true'`, 0);
  const ran = await runJob(hub);
  expect(ran).toMatchObject({ code: 18, error: { kind: "io" } });
  expect(await isActive(hub)).toBe(true);
  expect(filesIn(hub.to)).toEqual(["other"]);
  expect(leftovers(hub)).toEqual([]);
});

test("a read-only folder says so, and nothing is stopped", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  const invocation = await property(hub.unit, "InvocationID");
  await mountSmall(hub.to, "size=60m,ro");
  const ran = await runJob(hub);
  expect(ran).toMatchObject({ code: 18, error: { kind: "io" } });
  expect(ran.error?.message).toContain("read-only");
  expect(await property(hub.unit, "InvocationID")).toBe(invocation);
  expect(leftovers(hub)).toEqual([]);
});

test("so it does for a store that is copied only while its unit is stopped", async () => {
  const hub = await hubStore();
  const { connection } = await openEncrypted(hub.path, testPassphrase, { mode: "readwrite" });
  await connection.get("PRAGMA journal_mode = DELETE");
  await connection.close();
  await startUnit(hub, holding(hub.path));
  const invocation = await property(hub.unit, "InvocationID");
  await mountSmall(hub.to, "size=60m,ro");
  expect(await runJob(hub)).toMatchObject({ code: 18, error: { kind: "io" } });
  expect(await property(hub.unit, "InvocationID")).toBe(invocation);
  expect(leftovers(hub)).toEqual([]);
});

test("the store's disk gets read-only when all is done: the backup stays, the error says so, and settling finds it complete", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  // An immutable file cannot be removed, as nothing can from a disk that the system has made
  // read-only.
  const journal = `${hub.path}.journal.json`;
  const ran = await runJob(hub, {
    at: { step: "backup.committed" },
    env: { HIVEMIND_TEST_COMMAND: `chattr +i ${journal}` },
  });
  onTestFinished(() => void spawnSync("chattr", ["-i", journal], { stdio: "ignore" }));
  expect(ran).toMatchObject({ code: 18, error: { kind: "io" } });
  const [name = ""] = filesIn(hub.to).filter((file) => file.endsWith(".db"));
  const path = join(hub.to, name);
  expect(ran.error?.message).toContain(`the backup ${path} is complete and verified`);
  expect(ran.error?.message).toContain(journal);
  expect(await verifyBackup(path, { passphrase: testPassphrase })).toMatchObject({ ok: true });
  expect(await isActive(hub)).toBe(true);
  const before = filesIn(hub.to);
  expect(before).toHaveLength(2);

  execFileSync("chattr", ["-i", journal]);
  const settled = await settle(hub);
  expect(settled).toMatchObject({
    code: 0,
    notices: [`completed the interrupted backup ${path}`],
  });
  expect(filesIn(hub.to)).toEqual(before);
  expect(leftovers(hub)).toEqual([]);
});

for (const [signal, step] of [
  ["SIGTERM", "backup.warm"],
  ["SIGTERM", "backup.armed"],
  ["SIGINT", "backup.stopped"],
  ["SIGTERM", "backup.copied"],
] as const) {
  test(`${signal} at ${step}: the unit runs, and nothing is left`, async () => {
    const hub = await hubStore();
    await startWriter(hub);
    const ran = await runJob(hub, { at: { step, signal } });
    expect(ran).toMatchObject({ code: 130, error: { kind: "interrupted" } });
    expect(await isActive(hub)).toBe(true);
    expect(filesIn(hub.to)).toEqual([]);
    expect(leftovers(hub)).toEqual([]);
    expect(await systemctl("list-units", "--all", "--type=timer")).not.toContain(hub.unit);
  });
}

test("SIGINT when all is copied: the backup is there whole, or nothing of it; the unit runs", async () => {
  const hub = await hubStore();
  await startWriter(hub);
  const ran = await runJob(hub, { at: { step: "backup.finished", signal: "SIGINT" } });
  expect([0, 130]).toContain(ran.code);
  expect(filesIn(hub.to)).toHaveLength(ran.code === 0 ? 2 : 0);
  expect(await isActive(hub)).toBe(true);
  expect(leftovers(hub)).toEqual([]);
});
