/** A rotation of a store in WAL mode, as hubs keep it: re-encrypted while the service runs. */
import { execFileSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { unlock } from "../../src/keys/unlock.js";
import type { RotateResult } from "../../src/swap/rotate.js";
import { root } from "../built.js";
import { keyring, resultOf, World } from "./world.js";

const fixture = "sqlcipher4-schema2.db";

async function inWalMode(name = fixture): Promise<World> {
  const world = await World.of(name);
  const { connection } = await unlock(world.path, keyring, { mode: "readwrite" });
  await connection.all("PRAGMA journal_mode = WAL");
  await connection.close();
  return world;
}

async function journalMode(world: World): Promise<string | undefined> {
  const { connection } = await unlock(world.path, keyring, { mode: "readwrite" });
  const row = await connection.get<{ journal_mode: string }>("PRAGMA journal_mode");
  await connection.close();
  return row?.journal_mode;
}

/** The files that a rotation would leave. A running unit has sidecars of the store. */
async function leftovers(world: World): Promise<string[]> {
  return (await world.leftovers()).filter((name) => !/^clients\.db-(wal|shm)$/.test(name));
}

function atStep(steps: Record<string, string>): Record<string, string> {
  return {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify(steps),
  };
}

test.each([fixture, "sqlcipher3-schema2.db"])(
  "%s has the same rows, and stays in WAL mode",
  async (name) => {
    const world = await inWalMode(name);
    if (name === fixture) await world.startUnit();
    const before = await world.rows();
    const options = name === fixture ? {} : world.withoutService;
    const { rotated } = resultOf(await world.run<RotateResult>("rotate", options));
    expect(await world.rows()).toEqual(before);
    expect(rotated.keyId).not.toBe(rotated.previousKeyId);
    expect(await journalMode(world)).toBe("wal");
    expect(await leftovers(world)).toEqual([]);
  },
);

test("--compare-rows accepts equal rows, in WAL mode and without", async () => {
  for (const world of [await inWalMode(), await World.of(fixture)]) {
    const before = await world.rows();
    const options = { ...world.withoutService, compareRows: true };
    resultOf(await world.run<RotateResult>("rotate", options));
    expect(await world.rows()).toEqual(before);
    expect(await leftovers(world)).toEqual([]);
  }
});

test("--compare-rows finds a row that differs although every page is authentic", async () => {
  const world = await inWalMode();
  const before = await world.rows();
  // Another program with the new key changes the new file after its pages were compared.
  const script = `
    import { readdirSync } from "node:fs";
    import { getEntry } from "${root}dist/keys/keyring.js";
    import { openEncrypted } from "${root}dist/store/cipher.js";
    const folder = ${JSON.stringify(dirname(world.path))};
    const [staged] = readdirSync(folder).filter((name) => name.endsWith(".partial"));
    const passphrase = await getEntry(${JSON.stringify(world.path)}, "pending");
    const options = { mode: "readwrite" };
    const { connection } = await openEncrypted(folder + "/" + staged, passphrase, options);
    await connection.run("UPDATE clients SET name = 'changed' WHERE client_id = 2");
    await connection.close();`;
  const program = join(world.folder, "change.mjs");
  await writeFile(program, script);
  const steps = atStep({ "rotate.held": `${process.execPath} '${program}'` });
  const ran = await world.run("rotate", { ...world.withoutService, compareRows: true }, steps);
  expect(ran.error).toMatchObject({ kind: "corrupted" });
  expect(ran.error?.message).toContain("the table clients was not copied completely");
  expect(await world.rows()).toEqual(before);
  expect(await journalMode(world)).toBe("wal");
  expect(await leftovers(world)).toEqual([]);
});

test("Ctrl-C under the lock is an interruption, and the store is as before", async () => {
  const world = await inWalMode();
  const before = await world.rows();
  for (const step of ["stopped", "held"]) {
    const steps = atStep({ [`rotate.${step}`]: "kill -INT $PPID" });
    const ran = await world.run("rotate", world.withoutService, steps);
    expect(ran.error).toMatchObject({ kind: "interrupted" });
    expect(await world.rows()).toEqual(before);
    expect(await journalMode(world)).toBe("wal");
    expect(await leftovers(world)).toEqual([]);
  }
});

test("what is written while the store is copied is in the rotated store", async () => {
  const world = await inWalMode();
  const add = `${process.execPath} ${root}test/swap/add-client.mjs '${world.path}' '${world.folder}/added'`;
  const count = (await world.rows()).length;
  const ran = await world.run("rotate", world.withoutService, atStep({ "rotate.prefilled": add }));
  resultOf(ran);
  expect(await world.rows()).toHaveLength(count + 1);
});

test("a damaged page is found while the service still runs, and nothing is changed", async () => {
  const world = await inWalMode();
  await world.startUnit();
  const pid = () => execFileSync("systemctl", ["--user", "show", "-P", "MainPID", world.unit]);
  const before = pid();
  const bytes = await readFile(world.path);
  bytes[2 * 4096 + 9] = (bytes[2 * 4096 + 9] ?? 0) ^ 1;
  await writeFile(world.path, bytes, { flag: "r+" });
  const ran = await world.run("rotate");
  expect(ran.error).toMatchObject({ kind: "corrupted" });
  expect(ran.error?.message).toContain(`page 3 of ${world.path} is damaged`);
  expect(pid()).toEqual(before);
  expect(Object.keys(await world.slots())).toEqual(["current"]);
  expect(await leftovers(world)).toEqual([]);
  expect(await readFile(world.path)).toEqual(bytes);
});
