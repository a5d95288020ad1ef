/**
 * Copies of backups in other directories: what each target gets, and what is left when a target is
 * missing, full, broken, or the process is killed.
 */
import { execFileSync } from "node:child_process";
import { copyFile, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";

interface Copy {
  target: string;
  contents: "backups" | "bundle";
  copied: { path: string; checked_by: string }[];
  skipped: string | null;
  errors: { code: number; message: string; hint?: string }[];
}

const backup = ["backup", "--service", "none"];

async function machineWithStore(): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init("--to", machine.path("backups"), "--bundle-to", machine.path("bundles"));
  return machine;
}

/** Makes a backup, and returns its path and the reports of its copies. */
async function backUp(machine: Machine, ...args: string[]) {
  const { code, document } = await machine.json(...backup, ...args);
  const made = document as unknown as { backup: { path: string }; copies: Copy[] };
  return { code, path: made.backup?.path ?? "", copies: made.copies, document };
}

const backupsIn = async (folder: string) =>
  (await readdir(folder)).filter((name) => name.endsWith(".db")).sort();

const unfinishedIn = async (folder: string) =>
  (await readdir(folder)).filter((name) => name.endsWith(".partial"));

/** Backups are named by the second. */
const nextSecond = () => new Promise((resolve) => setTimeout(resolve, 1000));

test("a backup is copied to each target, its bundle only to targets of bundles, and both are remembered", async () => {
  const machine = await machineWithStore();
  const [usb, nas, safe] = [machine.path("usb"), machine.path("nas"), machine.path("safe-copies")];
  const first = await backUp(
    machine,
    ...["--copy-to", usb, "--copy-to", nas, "--copy-bundle-to", safe],
  );
  expect(first.code).toBe(0);
  const name = basename(first.path);
  expect(first.copies).toEqual([
    ...[usb, nas].map((target) => ({
      ...{ target, contents: "backups", skipped: null, errors: [] },
      copied: [{ path: join(target, name), checked_by: "read_back" }],
    })),
    {
      ...{ target: safe, contents: "bundle", skipped: null, errors: [] },
      copied: [{ path: expect.stringMatching(/bundle\.age$/), checked_by: "read_back" }],
    },
  ]);
  for (const target of [usb, nas]) {
    expect(await readdir(target)).toEqual([name, name.replace(/db$/, "manifest.json")]);
    expect(await readFile(join(target, name))).toEqual(await readFile(first.path));
    expect((await machine.run(["verify", join(target, name)])).code).toBe(0);
  }
  expect(await readdir(safe)).toEqual(await readdir(machine.path("bundles")));
  const { document } = await machine.json("backups", usb);
  expect(document.backups).toMatchObject([{ path: join(usb, name), mac: true, present: true }]);

  await nextSecond();
  const text = await machine.run(backup);
  expect(text.code).toBe(0);
  expect(text.stdout).toContain(`Copies in ${usb}: 1 copied, read back and hashed`);
  expect(text.stdout).toContain(`Bundle in ${safe}: up to date`);
  expect(await backupsIn(nas)).toEqual(await backupsIn(machine.path("backups")));
});

test("a target that is not mounted is skipped with a notice, and the next run catches up, oldest first", async () => {
  const machine = await machineWithStore();
  const usb = machine.path("usb");
  expect((await backUp(machine, "--copy-to", usb)).code).toBe(0);
  await rename(usb, machine.path("out"));
  for (let run = 0; run < 2; run++) {
    await nextSecond();
    const { code, stdout, stderr } = await machine.run(backup);
    expect(code).toBe(0);
    expect(stderr).toContain(`not copied to ${usb}, and caught up later: ${usb}: no such file`);
    expect(stdout).toContain(`Copies in ${usb}: skipped`);
  }
  await expect(readdir(usb)).rejects.toThrow("ENOENT");
  await rename(machine.path("out"), usb);
  await nextSecond();
  const { copies } = await backUp(machine);
  const all = await backupsIn(machine.path("backups"));
  expect(all).toHaveLength(4);
  expect(copies[0]?.copied.map(({ path }) => basename(path))).toEqual(all.slice(1));
  expect(await backupsIn(usb)).toEqual(all);
});

test("backups that were pruned from a target are not copied there again", async () => {
  const machine = await machineWithStore();
  const usb = machine.path("usb");
  for (let run = 0; run < 2; run++) {
    expect((await backUp(machine, "--copy-to", usb)).code).toBe(0);
    await nextSecond();
  }
  expect((await machine.run(["prune", usb, "--keep-last", "1"])).code).toBe(0);
  expect(await backupsIn(usb)).toHaveLength(1);
  expect((await backUp(machine)).copies[0]?.copied).toHaveLength(1);
  expect(await backupsIn(usb)).toHaveLength(2);
  expect(await backupsIn(machine.path("backups"))).toHaveLength(3);
});

test.each([
  { copy: "copies", bundle: "copies", relation: "is the backup directory" },
  { copy: "copies", bundle: "copies/bundles", relation: "is inside the backup directory" },
  { copy: "copies/backups", bundle: "copies", relation: "contains the backup directory" },
  { copy: "bundles/copies", bundle: undefined, relation: "contains the backup directory" },
])("a bundle's target that $relation is refused", async ({ copy, bundle, relation }) => {
  const machine = await machineWithStore();
  const { code, stderr } = await machine.run([
    ...[...backup, "--copy-to", machine.path(copy)],
    ...(bundle === undefined ? [] : ["--copy-bundle-to", machine.path(bundle)]),
  ]);
  expect(code).toBe(17);
  expect(stderr).toContain(relation);
  await expect(readdir(machine.path("copies"))).rejects.toThrow("ENOENT");
  expect(await readdir(machine.path("backups"))).toEqual([]);
});

test("a copy that fails does not fail the backup: the exit code and the message name the target", async () => {
  const machine = await machineWithStore();
  const [full, good] = [machine.path("full"), machine.path("good")];
  await mkdir(full);
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", full]);
  onTestFinished(() => void execFileSync("umount", ["-l", full]));
  const targets = ["--copy-to", full, "--copy-to", good];
  const { code, path, copies } = await backUp(machine, ...targets);
  expect(code).toBe(18);
  expect(copies[0]?.errors).toMatchObject(
    [{ code: 18, message: /no space left on device/ }].map((error) => ({
      ...error,
      message: expect.stringMatching(error.message),
    })),
  );
  expect(copies[1]?.copied).toHaveLength(1);
  expect(await readdir(full)).toEqual([]);
  expect((await machine.run(["verify", path])).code).toBe(0);
  await nextSecond();
  const text = await machine.run([...backup, "--quiet"]);
  expect(text.code).toBe(18);
  expect(text.stderr).toContain(`the backup is complete, but a copy in ${full} failed: no space`);
  expect(text.stdout).toContain(`Copies in ${full}: FAILED`);
  expect(await backupsIn(good)).toHaveLength(2);
});

test("a file of the same name with other contents stays, and the other backups are copied", async () => {
  const machine = await machineWithStore();
  const usb = machine.path("usb");
  await mkdir(usb);
  const first = await backUp(machine);
  await writeFile(join(usb, basename(first.path)), "something else");
  await nextSecond();
  const { code, copies, path } = await backUp(machine, "--copy-to", usb);
  expect(code).toBe(17);
  expect(copies[0]?.errors[0]?.message).toContain("exists with other contents");
  expect(copies[0]?.copied.map((copy) => basename(copy.path))).toEqual([basename(path)]);
  expect(await readFile(join(usb, basename(first.path)), "utf8")).toBe("something else");
});

test("a backup that is damaged on this machine is not copied", async () => {
  const machine = await machineWithStore();
  const { path } = await backUp(machine);
  const bytes = await readFile(path);
  bytes[bytes.length - 100] = (bytes.at(-100) ?? 0) ^ 1;
  await writeFile(path, bytes);
  await nextSecond();
  const usb = machine.path("usb");
  const { code, copies } = await backUp(machine, "--copy-to", usb);
  expect(code).toBe(14);
  expect(copies[0]?.errors[0]?.message).toContain(`${path} does not match its manifest`);
  expect(await backupsIn(usb)).toHaveLength(1);
  expect(await unfinishedIn(usb)).toEqual([]);
});

test("a flipped byte and an older file that was put back are found in a copy", async () => {
  const machine = await machineWithStore();
  const usb = machine.path("usb");
  const older = await backUp(machine, "--copy-to", usb);
  await machine.run(["add-client"]);
  await nextSecond();
  const newer = await backUp(machine);
  const copy = join(usb, basename(newer.path));
  await copyFile(join(usb, basename(older.path)), copy);
  expect((await machine.run(["verify", copy])).code).toBe(14);
  expect((await machine.run(["restore", copy, "--service", "none", "--yes"])).code).toBe(14);
  const bytes = await readFile(newer.path);
  bytes[5000] = (bytes[5000] ?? 0) ^ 1;
  await writeFile(copy, bytes);
  expect((await machine.run(["verify", copy])).code).toBe(14);
});

const steps = ["copy.staged", "copy.checked", "copy.named", "copy.backup", "copy.manifest"];

test("killed at any step of a copy: nothing counts that is not complete, and the next run completes it", async () => {
  const machine = await machineWithStore();
  const usb = machine.path("usb");
  await backUp(machine, "--copy-to", usb);
  for (const step of steps) {
    await nextSecond();
    const { code } = await machine.run(backup, {
      env: {
        NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
        HIVEMIND_TEST_STEP: step,
      },
    });
    expect([step, code]).toEqual([step, null]);
    const { document } = await machine.json("backups", usb);
    for (const { path } of document.backups as { path: string }[]) {
      expect([step, (await machine.run(["verify", path])).code]).toEqual([step, 0]);
    }
    await nextSecond();
    const { code: next, copies } = await backUp(machine);
    expect([step, next, copies[0]?.errors]).toEqual([step, 0, []]);
    expect(await backupsIn(usb)).toEqual(await backupsIn(machine.path("backups")));
    expect(await unfinishedIn(usb)).toEqual([]);
  }
  await rm(usb, { recursive: true });
});
