/**
 * What leaves the store's file in its place, killed at each of its steps: the schema's upgrade, and
 * taking a passphrase into the keyring. (test/faults/matrix.ts does the same, and more, to what
 * replaces the file.)
 */
import { expect, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { deleteEntry, setEntry } from "../../src/keys/keyring.js";
import { adoptionSteps } from "../../src/swap/adopt-passphrase.js";
import type { UpgradeSchemaResult } from "../../src/swap/upgrade-schema.js";
import { root } from "../built.js";
import { systemctl } from "../service/units.js";
import { resultOf, World } from "../swap/world.js";

const killedAt = (step: string) => ({
  NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
  HIVEMIND_TEST_AT_STEP: JSON.stringify({ [step]: "kill" }),
});

test.each(["stopping", "stopped", "migrated", "started"])(
  "upgrade-schema killed at %s: the next command starts the unit, and the schema is the old one or the new one",
  async (step) => {
    const world = await World.of("plain-schema1.db");
    await world.startUnit();
    const clients = (await world.rows()).length;
    const killed = await world.run("upgrade-schema", {}, killedAt(`upgrade-schema.${step}`));
    expect(killed.signal).toBe("SIGKILL");
    expect((await world.settle()).error).toBeUndefined();
    expect(await world.isActive).toBe(true);
    expect(await systemctl("list-units", "--all", "--type=timer")).not.toContain(world.unit);
    expect((await world.rows()).length).toBe(clients);
    expect((await world.leftovers()).filter((name) => !/-(wal|shm)$/.test(name))).toEqual([]);
    const { upgraded } = resultOf(await world.run<UpgradeSchemaResult>("upgrade-schema"));
    expect(upgraded.from).toBe(["migrated", "started"].includes(step) ? 2 : 1);
    expect(upgraded.to).toBe(2);
  },
);

async function withBundle() {
  const world = await World.of("sqlcipher4-schema2.db");
  const { bundle } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  const { current: passphrase = "" } = await world.slots();
  await deleteEntry(world.path, "current");
  const more = { bundle: bundle.path, opener: { identity: world.recoveryKey.identity } };
  return { world, passphrase, more };
}

test.each(adoptionSteps)(
  "bundle import killed at %s: the passphrase is in the keyring, or nothing is, and the next one brings it there",
  async (step) => {
    const { world, passphrase, more } = await withBundle();
    const at = killedAt(`import-passphrase.${step}`);
    expect((await world.run("import-passphrase", more, at)).signal).toBe("SIGKILL");
    expect((await world.settle()).error).toBeUndefined();
    const isTaken = ["taking", "promoted", "server-json"].includes(step);
    expect(await world.slots()).toEqual(isTaken ? { current: passphrase } : {});
    resultOf(await world.run("import-passphrase", more));
    expect(await world.slots()).toEqual({ current: passphrase });
    expect(await world.leftovers()).toEqual([]);
  },
);

test("bundle import takes up a pending passphrase that opens the store: undone, it would take that away", async () => {
  const { world, passphrase, more } = await withBundle();
  await setEntry(world.path, "pending", passphrase);
  await world.run("import-passphrase", more, killedAt("import-passphrase.current-kept"));
  expect((await world.settle()).error).toBeUndefined();
  expect(await world.slots()).toEqual({ current: passphrase });
});

test.each(["bundled", "taking"])(
  "bundle import killed at %s, then no keyring: the journal blocks nothing that needs none",
  async (step) => {
    const { world, more } = await withBundle();
    await world.run("import-passphrase", more, killedAt(`import-passphrase.${step}`));
    const withoutKeyring = {
      DBUS_SESSION_BUS_ADDRESS: "unix:path=/nonexistent",
      XDG_RUNTIME_DIR: "/nonexistent",
    };
    const settled = await world.drive<string[]>(["settle", world.path], withoutKeyring);
    expect(settled.error).toBeUndefined();
    expect(await world.leftovers()).toEqual([]);
    // The entry that stays opens the store.
    resultOf(await world.run("import-passphrase", more));
  },
);

test("bundle import killed at taking, and the keyring lost the passphrase: that is reported, and it can be repeated", async () => {
  const { world, passphrase, more } = await withBundle();
  await world.run("import-passphrase", more, killedAt("import-passphrase.taking"));
  expect(await deleteEntry(world.path, "pending")).toBe(true);
  const { result } = await world.settle();
  expect(result?.join()).toMatch(/not finished, because the keyring has lost the passphrase of/);
  resultOf(await world.run("import-passphrase", more));
  expect(await world.slots()).toEqual({ current: passphrase });
});
