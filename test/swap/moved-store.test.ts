/**
 * A swap that was killed, and whose directory was copied before the next command: the files have
 * other inodes than the journal.
 */
import { cp, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { identify } from "../../src/store/cipher.js";
import { root } from "../built.js";
import { World } from "./world.js";

const killAt = (step: string) => ({
  NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
  HIVEMIND_TEST_AT_STEP: JSON.stringify({ [step]: "kill" }),
});

/** Copies the directory of the store, and puts the copy in its place. */
async function copyDirectory({ path }: World): Promise<void> {
  const directory = dirname(path);
  await cp(directory, `${directory}.copy`, { recursive: true, preserveTimestamps: true });
  await rm(directory, { recursive: true });
  await rename(`${directory}.copy`, directory);
}

async function interrupted(step: string): Promise<World> {
  const world = await World.of("sqlcipher4-schema2.db");
  const killed = await world.run("rotate", world.withoutService, killAt(step));
  expect(killed.signal).toBe("SIGKILL");
  await copyDirectory(world);
  return world;
}

test.each(["rotate.renamed", "rotate.starting", "rotate.removed"])(
  "after %s the rotation is finished, and the store's bundle stays",
  async (step) => {
    const world = await interrupted(step);
    const { keyId } = await identify(world.path);
    expect((await world.settle()).result).toEqual(["finished the interrupted rotate"]);
    expect((await world.rows()).length).toBeGreaterThan(0);
    expect(await world.bundles()).toContain(keyId);
    expect(await world.leftovers()).toEqual([]);
  },
);

test.each(["rotate.aside", "rotate.committing"])(
  "after %s the rotation is undone",
  async (step) => {
    const world = await interrupted(step);
    const { keyId } = await identify(world.path);
    expect((await world.settle()).result).toEqual([
      "undid the interrupted rotate: the store is unchanged",
    ]);
    expect((await identify(world.path)).keyId).toBe(keyId);
    expect((await world.rows()).length).toBeGreaterThan(0);
  },
);

test("another file at the store's name is not taken for the new file", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const killed = await world.run("rotate", world.withoutService, killAt("rotate.renamed"));
  expect(killed.signal).toBe("SIGKILL");
  await rename(world.path, `${world.path}.elsewhere`);
  await writeFile(world.path, "");
  const { error } = await world.settle();
  expect(error?.message).toContain("another program created");
});
