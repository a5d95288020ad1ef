import { execFileSync } from "node:child_process";
import { mkdir, readdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import { onTerminal } from "../cli/terminal.js";

const backup = ["backup", "--service", "none"];

/** A store whose settings name `disk/backups` and `usb/bundles`; both exist. */
async function machineWithDirectories(): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init("--to", machine.path("disk/backups"), "--bundle-to", machine.path("usb/b"));
  return machine;
}

/** A mounted disk, which keeps its files while it is not mounted. */
async function makeDisk(machine: Machine) {
  const [device, disk] = [machine.path("device"), machine.path("disk")];
  await mkdir(device);
  await mkdir(disk);
  const mount = () => execFileSync("mount", ["--bind", device, disk]);
  const unmount = (path = disk) => execFileSync("umount", [path], { stdio: "ignore" });
  execFileSync("mount", ["-t", "tmpfs", "none", device]);
  mount();
  onTestFinished(() => {
    try {
      unmount();
    } catch {
      // It is unmounted.
    }
    unmount(device);
  });
  return { disk, mount, unmount };
}

test.each(["disk/backups", "usb/b"])(
  "backup does not make %s again, which the settings name",
  async (directory) => {
    const machine = await machineWithDirectories();
    expect(await readdir(machine.path("disk"))).toEqual(["backups"]);
    expect((await machine.run(backup)).code).toBe(0);
    await rm(machine.path(directory), { recursive: true });
    for (const args of [backup, [...backup, "--quiet"], [...backup, "--yes"]]) {
      const { code, stderr } = await machine.run(args);
      expect(code).toBe(18);
      expect(stderr).toContain(`${machine.path(directory)}: no such file or directory`);
      expect(stderr).toContain("Mount its disk");
      expect(stderr).toContain(`mkdir -p -m 700 '${machine.path(directory)}'`);
    }
    await expect(readdir(machine.path(directory))).rejects.toThrow("ENOENT");
    await mkdir(machine.path(directory), { mode: 0o700 });
    expect((await machine.run(backup)).code).toBe(0);
  },
);

test("backup does not make a directory of the settings that the command line names, too", async () => {
  const machine = await machineWithDirectories();
  const missing = machine.path("disk");
  await rm(missing, { recursive: true });
  // Without its record, as on a new machine with the settings of another.
  await rm(machine.path("state"), { recursive: true });
  for (const key of [[], ["--recovery-key-file", machine.path("key")]]) {
    const args = [...backup, "--to", machine.path("disk/backups"), ...key];
    const { code, stderr } = await machine.run(args);
    expect([code, stderr]).toEqual([18, expect.stringContaining("Mount its disk")]);
  }
  await expect(readdir(missing)).rejects.toThrow("ENOENT");
});

test("bundle export does not make the known bundle directory again", async () => {
  const machine = await machineWithDirectories();
  await rm(machine.path("usb"), { recursive: true });
  const known = await machine.run(["bundle", "export"]);
  expect([known.code, known.stderr]).toEqual([18, expect.stringMatching(/Mount its disk/)]);
  expect((await machine.run(["bundle", "export", "--bundle-to", machine.path("new")])).code).toBe(
    0,
  );
});

test("a directory is made when the command line names it first, and never again", async () => {
  const machine = await machineWithDirectories();
  const elsewhere = [...backup, "--to", machine.path("other", "backups")];
  const first = await machine.run(elsewhere);
  expect(first.code).toBe(0);
  expect(first.stderr).toContain(`creating the directory ${machine.path("other", "backups")}`);
  await rename(machine.path("other"), machine.path("away"));
  expect((await machine.run(elsewhere)).code).toBe(18);
  await rename(machine.path("away"), machine.path("other"));
  expect((await machine.run(elsewhere)).code).toBe(0);
});

test("the mount point of an unmounted disk is not taken for the backup directory", async () => {
  const machine = await Machine.make();
  const { disk, mount, unmount } = await makeDisk(machine);
  await machine.init("--to", disk, "--bundle-to", machine.path("bundles"));
  expect((await machine.run(backup)).code).toBe(0);
  unmount();
  const refused = await machine.run(backup);
  expect(refused.code).toBe(18);
  expect(refused.stderr).toContain(`not on the file system that was mounted at ${disk}`);
  expect(await readdir(disk)).toEqual([]);
  for (const args of [[], ["--bundles"]]) {
    const prune = await machine.run(["prune", "--keep-last", "1", ...args]);
    expect([prune.code, prune.stderr]).toEqual([18, expect.stringContaining("Mount its disk")]);
  }
  const { document } = await machine.json("doctor");
  expect(document.checks).toContainEqual(
    expect.objectContaining({
      ...{ name: "directories", ok: false, severity: "error" },
      fix: expect.stringContaining("run backup on a terminal"),
    }),
  );
  mount();
  expect((await machine.run(backup)).code).toBe(0);
  unmount();
  // A script passes --yes for another question.
  const unasked = await machine.run([...backup, "--yes"]);
  expect([unasked.code, unasked.stderr]).toEqual([18, expect.stringContaining("on a terminal")]);
  expect(await readdir(disk)).toEqual([]);
  // The directory has moved to this file system, which is recorded.
  const asked = await onTerminal(machine, [...backup, "--yes"], [["Has the directory", "y\r"]]);
  expect([asked.code, asked.screen]).toEqual([0, expect.stringContaining("is recorded")]);
  expect((await machine.run(backup)).code).toBe(0);
}, 180_000);

test("no operation writes a bundle into the mount point of an unmounted disk", async () => {
  const machine = await Machine.make();
  const { disk, unmount } = await makeDisk(machine);
  const none = ["--service", "none", "--hub", "none"];
  await machine.init("--to", machine.path("backups"), "--bundle-to", disk);
  const { document } = await machine.json(...backup);
  const { path } = document.backup as { path: string };
  unmount();
  const assertRefused = async (...args: string[]) => {
    const { code, stderr } = await machine.run([...args, ...none]);
    expect([code, stderr]).toEqual([18, expect.stringContaining("not on the file system")]);
  };
  await assertRefused("rotate", "--yes");
  const passphrase = machine.path("passphrase");
  await writeFile(passphrase, "any", { mode: 0o600 });
  await assertRefused("init", "--adopt", "--bundle-to", disk, "--passphrase-file", passphrase);
  const restored = await machine.run(["restore", path, "--yes", ...none]);
  expect([restored.code, restored.stderr]).toEqual([
    0,
    expect.stringMatching(/no bundle will be written.*not on the file system/),
  ]);
  expect((await machine.run(["decrypt", "--yes", ...none])).code).toBe(0);
  await assertRefused("encrypt", "--yes");
  expect(await readdir(disk)).toEqual([]);
}, 180_000);

test("the recovery of a backup waits for a disk that is not mounted", async () => {
  const machine = await Machine.make();
  const { disk, mount, unmount } = await makeDisk(machine);
  const link = machine.path("link");
  await symlink(join(disk, "backups"), link);
  await mkdir(join(disk, "backups"), { mode: 0o700 });
  await machine.init("--to", link, "--bundle-to", machine.path("bundles"));
  const env = {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify({ "backup.warm": "kill" }),
  };
  expect((await machine.run(backup, { env })).code).toBe(null);
  unmount();
  await mkdir(join(disk, "backups"));
  const { code, stderr } = await machine.run(["list-clients"]);
  expect([code, stderr]).toEqual([0, expect.stringMatching(/remain: .*not on the file system/)]);
  // The recovery cannot ask whether the directory has moved.
  const refused = await machine.run(backup);
  expect([refused.code, refused.stderr]).toEqual([18, expect.stringMatching(/gone for good: rm/)]);
  expect(refused.stderr).not.toContain("on a terminal");
  mount();
  expect((await machine.run(["list-clients"])).stderr).toContain("left by an interrupted backup");
  expect(await readdir(join(disk, "backups"))).toEqual([]);
}, 180_000);

test("the recovery of a rotation waits for the disk of its bundle", async () => {
  const machine = await Machine.make();
  const { disk, mount, unmount } = await makeDisk(machine);
  await machine.init("--to", machine.path("backups"), "--bundle-to", disk);
  const env = {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify({ "rotate.bundled": "kill" }),
  };
  const rotate = ["rotate", "--service", "none", "--hub", "none"];
  const bundles = await readdir(disk);
  expect((await machine.run(rotate, { env })).code).toBe(null);
  expect(await readdir(disk)).not.toEqual(bundles);
  unmount();
  const { code, stderr } = await machine.run(["list-clients"]);
  expect([code, stderr]).toEqual([0, expect.stringMatching(/remain: .*not on the file system/)]);
  mount();
  expect((await machine.run(["list-clients"])).stderr).not.toContain("are left");
  expect(await readdir(disk)).toEqual(bundles);
}, 180_000);

test("a directory of copies on another disk than before is skipped until its move is confirmed", async () => {
  const machine = await Machine.make();
  const { disk, unmount } = await makeDisk(machine);
  await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
  const copied = [...backup, "--copy-to", disk];
  expect((await machine.run(copied)).code).toBe(0);
  unmount();
  const skipped = await machine.run(copied);
  expect(skipped.stderr).toMatch(/not copied to .*not on the file system/);
  expect(await readdir(disk)).toEqual([]);
  const asked = await onTerminal(machine, copied, [["Has the directory", "y\r"]]);
  expect([asked.code, asked.screen]).toEqual([0, expect.stringContaining("is recorded")]);
  expect(await readdir(disk)).not.toEqual([]);
  const prune = await machine.run(["prune", "--keep-last", "1", "--bundles"]);
  expect([prune.code, prune.stderr]).toEqual([0, ""]);
}, 180_000);
