import { execFile } from "node:child_process";
import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { assertPlacement } from "../../src/bundle/placement.js";
import { temporaryFolder } from "../store/temporary.js";

const run = promisify(execFile);

let folder: string;

beforeEach(async () => {
  folder = await temporaryFolder();
});

const at = (name: string) => join(folder, name);

async function noticesOf(backups: string, bundles: string): Promise<string[]> {
  const notices: string[] = [];
  await assertPlacement(backups, bundles, { notice: (text) => notices.push(text) });
  return notices;
}

test("folders beside each other are fine; on one file system that is said, with the reason", async () => {
  await mkdir(at("backups"));
  const notices = await noticesOf(at("backups"), at("bundles/not/yet/there"));
  expect(notices).toHaveLength(1);
  expect(notices[0]).toContain("on the same file system");
  expect(notices[0]).toContain("lost or copied together");
});

test("folders on two file systems need no words", async () => {
  expect(await noticesOf(at("backups"), "/dev/shm/hivemind-bundles")).toEqual([]);
});

test("a name that begins alike is no folder inside", async () => {
  expect(await noticesOf(at("backups"), at("backups-bundles"))).toHaveLength(1);
  expect(await noticesOf(at("backups-old"), at("backups"))).toHaveLength(1);
});

test.each([
  ["backups", "backups", "is the backup directory"],
  ["backups", "backups/../backups/", "is the backup directory"],
  ["backups", "backups/bundles", "is inside the backup directory"],
  ["backups", "backups/not/yet/there", "is inside the backup directory"],
  ["all/backups", "all", "contains the backup directory"],
  ["all/not/yet/there", "all", "contains the backup directory"],
])("backups in %s, bundles in %s: refused", async (backups, bundles, words) => {
  await mkdir(at("backups"));
  await mkdir(at("all"));
  await expect(assertPlacement(at(backups), at(bundles))).rejects.toMatchObject({
    kind: "refused",
    message: expect.stringContaining(words),
    hint: expect.stringContaining("--bundle-to"),
  });
});

test("links do not hide it, also where folders or their targets do not exist yet", async () => {
  await mkdir(at("backups"));
  await symlink("backups", at("elsewhere"));
  await symlink("backups/new", at("dangling"));
  for (const bundles of ["elsewhere", "elsewhere/below", "dangling", "dangling/below"]) {
    await expect(assertPlacement(at("backups"), at(bundles))).rejects.toMatchObject({
      kind: "refused",
    });
  }
});

test("a folder mounted at a second place is the same folder", async (context) => {
  await mkdir(at("backups/below"), { recursive: true });
  await mkdir(at("mounted"));
  try {
    await run("mount", ["--bind", at("backups"), at("mounted")]);
  } catch {
    return context.skip("mounting is not allowed here");
  }
  onTestFinished(async () => {
    await run("umount", [at("mounted")]);
  });
  for (const bundles of ["mounted", "mounted/below"]) {
    await expect(assertPlacement(at("backups"), at(bundles))).rejects.toMatchObject({
      kind: "refused",
    });
  }
});
