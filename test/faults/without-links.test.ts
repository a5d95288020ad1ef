/**
 * A file system without hard links: a final name is claimed by an empty file, which the staged one
 * then replaces.
 */
import { appendFile, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { verifyBackup } from "../../src/backup/verify.js";
import { unlockStore } from "../../src/recovery/unlock-store.js";
import { root } from "../built.js";
import { fixturePassphrases } from "../store/temporary.js";
import { resultOf, World } from "../swap/world.js";

const fixture = "sqlcipher4-schema2.db";

function backUp(world: World, killAt = "") {
  const more = { ...world.withoutService, to: world.to };
  return world.run<BackupResult>("backup", more, {
    NODE_OPTIONS: `--import=${root}test/faults/without-links.mjs`,
    HIVEMIND_TEST_KILL_AT: killAt,
  });
}

test.each([".db", ".manifest.json"])(
  "killed when the name of the %s was claimed there: the next command completes the backup",
  async (ending) => {
    const world = await World.of(fixture);
    expect((await backUp(world, ending)).signal).toBe("SIGKILL");
    const settled = await world.settle();
    expect(settled.error).toBeUndefined();
    expect(settled.result).toEqual([expect.stringMatching(/^completed the interrupted backup/)]);
    const names = await readdir(world.to);
    expect(names).toHaveLength(2);
    const passphrase = fixturePassphrases[fixture];
    const file = join(world.to, names.find((name) => name.endsWith(".db")) ?? "");
    expect(await verifyBackup(file, { passphrase })).toMatchObject({ ok: true });
    expect(await world.leftovers()).toEqual([]);
  },
);

test("killed when a second name of the earlier bundle was claimed there: the next backup keeps it", async () => {
  const world = await World.of(fixture);
  const { bundle } = resultOf(await backUp(world));
  await appendFile(bundle.path, "\n");
  const earlier = await readFile(bundle.path);
  expect((await backUp(world, ".age")).signal).toBe("SIGKILL");
  expect(await readFile(bundle.path)).toEqual(earlier);
  expect((await world.settle()).error).toBeUndefined();
  resultOf(await backUp(world));
  expect(await readFile(bundle.path)).not.toEqual(earlier);
  const names = await readdir(world.bundleTo);
  expect(names.filter((name) => name.endsWith(".partial"))).toEqual([]);
  const superseded = names
    .filter((name) => name.includes(".superseded-"))
    .sort()
    .at(-1);
  expect(await readFile(join(world.bundleTo, `${superseded}`))).toEqual(earlier);
});

test("a rotation there, and one that is killed while the store is set aside", async () => {
  const world = await World.of(fixture);
  const before = await world.rows();
  const env = { NODE_OPTIONS: `--import=${root}test/faults/without-links.mjs` };
  resultOf(await world.run("rotate", world.withoutService, env));
  expect(await world.rows()).toEqual(before);
  expect(await world.leftovers()).toEqual([]);
  const killed = await world.run("rotate", world.withoutService, {
    NODE_OPTIONS: `${env.NODE_OPTIONS} --import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify({ "rotate.aside": "kill" }),
  });
  expect(killed.signal).toBe("SIGKILL");
  // As a program with the library opens it.
  await (await unlockStore(world.path, { kind: "keyring" }, { mode: "readwrite" })).close();
  expect(await world.rows()).toEqual(before);
  expect(await world.leftovers()).toEqual([]);
});
