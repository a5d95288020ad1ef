import { execFileSync } from "node:child_process";
import { rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { World } from "./world.js";

/** A store on a small disk, with a unit that has it open. */
async function onSmallDisk(): Promise<{ world: World; other: string }> {
  const world = await World.of("sqlcipher4-schema2.db");
  const folder = dirname(world.path);
  await rename(world.path, join(world.folder, "store"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=10m,mode=700", "tmpfs", folder]);
  onTestFinished(() => void execFileSync("umount", ["-l", folder]));
  execFileSync("cp", ["-p", join(world.folder, "store"), world.path]);
  await world.startUnit();
  return { world, other: join(folder, "other") };
}

const atStep = (step: string, command: string) => ({
  NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
  HIVEMIND_TEST_AT_STEP: JSON.stringify({ [step]: command }),
});

const fill = (file: string) => `dd if=/dev/zero of='${file}' bs=4k status=none 2>/dev/null || true`;

test("the store's disk gets full after the commit: the rotation ends, and the old file is removed", async () => {
  const { world, other } = await onSmallDisk();
  const rows = await world.rows();
  const ran = await world.run("rotate", {}, atStep("rotate.promoted", fill(other)));
  expect(ran.error).toBeUndefined();
  expect(await world.isActive).toBe(true);
  expect(await world.rows()).toEqual(rows);
  await rm(other);
  expect(await world.leftovers()).toEqual([]);
});

test("killed after the commit, and its disk full by then: the next command finishes", async () => {
  const { world, other } = await onSmallDisk();
  const rows = await world.rows();
  const killed = await world.run("rotate", {}, atStep("rotate.promoted", "kill"));
  expect(killed.signal).toBe("SIGKILL");
  execFileSync("/bin/sh", ["-c", fill(other)]);
  expect((await world.settle()).error).toBeUndefined();
  expect(await world.isActive).toBe(true);
  expect(await world.rows()).toEqual(rows);
  await rm(other);
  expect(await world.leftovers()).toEqual([]);
});
