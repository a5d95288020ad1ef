/**
 * What a swap changes besides the store: tried before the service is stopped, and as it was if the
 * swap is undone.
 */
import { mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { deleteEntry } from "../../src/keys/keyring.js";
import type { RestoreResult } from "../../src/restore/restore.js";
import type { AdoptResult } from "../../src/setup/adopt.js";
import { ClientStore } from "../../src/store/client-store.js";
import { root } from "../built.js";
import { holding, property, removeUnits, systemctl, writeUnits } from "../service/units.js";
import { fixturePassphrases } from "../store/temporary.js";
import { passphraseFile, resultOf, World } from "./world.js";

const passphrase = fixturePassphrases["sqlcipher4-schema2.db"] ?? "";
const module = "hivemind-sqlite-db-plugin";

async function writeServerJson(world: World, password: string): Promise<string> {
  const folder = join(world.folder, "config", "hivemind-core");
  await mkdir(folder, { recursive: true });
  const path = join(folder, "server.json");
  await writeFile(path, JSON.stringify({ database: { module, [module]: { password } } }));
  return path;
}

/** A unit that has the store's file open, whatever that is. */
async function startHolder(world: World, more = ""): Promise<() => Promise<string>> {
  await writeUnits({ [`${world.unit}.service`]: holding(world.path, more) });
  onTestFinished(() => removeUnits(`${world.unit}.service`));
  await systemctl("start", world.unit);
  return () => property(world.unit, "InvocationID");
}

/** Runs a program where this folder can only be read. */
const readOnly = (folder: string) => [
  ...["unshare", "--mount", "/bin/sh", "-c"],
  `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`,
  folder,
];

test("a server.json that cannot be changed is found out before the service is stopped", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const path = await writeServerJson(world, passphrase);
  const text = await readFile(path, "utf8");
  const invocation = await startHolder(world);
  const before = await invocation();
  const options = JSON.stringify(world.options({ hub: "auto" }));
  const place = readOnly(join(world.folder, "config"));
  expect((await world.drive(["rotate", options], {}, place)).error?.kind).toBe("io");
  expect(await invocation()).toBe(before);
  expect(await readFile(path, "utf8")).toBe(text);
  expect(await world.leftovers()).toEqual([]);
  expect(await world.slots()).toEqual({ current: passphrase });

  const adopting = JSON.stringify(world.options({ hub: "none", removePassword: true }));
  await deleteEntry(world.path, "current");
  expect((await world.drive(["adopt", adopting], {}, place)).error?.kind).toBe("io");
  expect(await world.slots()).toEqual({});
  resultOf(await world.drive<AdoptResult>(["adopt", adopting]));
  expect(await readFile(path, "utf8")).not.toContain("password");
});

test("settings that cannot be changed are found out before the service is stopped", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const old = await passphraseFile(world, passphrase);
  const settings = join(world.folder, "config", "config.json");
  await writeFile(`${settings}.elsewhere`, JSON.stringify({ passphrase_source: `file:${old}` }));
  await symlink(`${settings}.elsewhere`, settings);
  const invocation = await startHolder(world);
  const before = await invocation();
  const more = {
    source: { kind: "file", path: old },
    passphraseFile: await passphraseFile(world, "another passphrase"),
  };
  expect((await world.run("rotate", more)).error?.kind).toBe("refused");
  expect(await invocation()).toBe(before);
  expect(await world.leftovers()).toEqual([]);
});

test("settled where the new passphrase cannot be had, as by the timer of a credential's unit, the hub gets the old store back", async () => {
  const world = await World.of("plain-schema2.db");
  const file = await passphraseFile(world, "in both");
  const serverJson = await writeServerJson(world, "in both");
  await startHolder(world);
  const before = await world.rows();
  const more = { hub: "auto", source: { kind: "file", path: file } };
  const killed = await world.run("encrypt", more, {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify({ "encrypt.renamed": "kill" }),
  });
  expect(killed.signal).toBe("SIGKILL");
  await rename(file, `${file}.away`);
  const settled = await world.settle();
  expect(settled.error).toMatchObject({
    kind: "passphraseUnavailable",
    message: expect.stringMatching(/was put back/),
  });
  expect(await world.isActive).toBe(true);
  expect(await world.rows()).toEqual(before);
  expect(await readFile(serverJson, "utf8")).toContain('"in both"');
  await rename(`${file}.away`, file);
  expect((await world.settle()).error).toBeUndefined();
  expect(await world.isActive).toBe(true);
  expect(await world.rows()).toEqual(before);
  expect(await world.leftovers()).toEqual([]);
});

/**
 * A store whose passphrase is in server.json and nowhere else, and a backup of an earlier one with
 * its bundle.
 */
async function keptInServerJson() {
  const world = await World.of("sqlcipher4-schema2.db");
  const { backup, bundle } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  await deleteEntry(world.path, "current");
  await rm(world.path);
  await (await ClientStore.create(world.path, "in server.json alone")).close();
  const more = {
    hub: "auto",
    backup: { file: backup.path },
    bundle: { path: bundle.path, opener: { identity: world.recoveryKey.identity } },
  };
  return { world, more, serverJson: await writeServerJson(world, "in server.json alone") };
}

test("a passphrase that only server.json has is back there when a restore is undone", async () => {
  const { world, more, serverJson } = await keptInServerJson();
  const text = await readFile(serverJson, "utf8");
  const ok = join(world.folder, "ok");
  await writeFile(ok, "");
  await startHolder(world, `ExecStartPre=/usr/bin/test -e ${ok}`);
  const failed = await world.run("restore", more, {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify({
      "restore.starting": `rm '${ok}'`,
      "restore.put-back": `touch '${ok}'`,
    }),
  });
  expect(failed.error?.kind).toBe("service");
  expect(await world.isActive).toBe(true);
  expect(await readFile(serverJson, "utf8")).toBe(text);
  await (await ClientStore.open(world.path, "in server.json alone")).close();
});

test("a passphrase file of two lines, whose whole text opens the store, is adopted, restored with, and not mistaken for its first line when a rotation is undone", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const text = "the first line\nthe second line";
  await rm(world.path);
  await (await ClientStore.create(world.path, text)).close();
  const serverJson = await writeServerJson(world, text);
  const source = { kind: "file", path: await passphraseFile(world, text) };
  const idle = { ...world.withoutService, source };
  resultOf(await world.run<AdoptResult>("adopt", idle));
  const { backup } = resultOf(await world.run<BackupResult>("backup", { ...idle, to: world.to }));
  resultOf(await world.run<RestoreResult>("restore", { ...idle, backup: { file: backup.path } }));

  const ok = join(world.folder, "ok");
  await writeFile(ok, "");
  await startHolder(world, `ExecStartPre=/usr/bin/test -e ${ok}`);
  const next = await passphraseFile(world, "another passphrase");
  const failed = await world.run(
    "rotate",
    { hub: "auto", source, passphraseFile: next },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({
        "rotate.starting": `rm '${ok}'`,
        "rotate.put-back": `touch '${ok}'`,
      }),
    },
  );
  expect([failed.error?.kind, await world.isActive]).toEqual(["service", true]);
  expect(await readFile(serverJson, "utf8")).toContain(JSON.stringify(text));
});

test("a passphrase that only server.json has is kept in the keyring when a restore replaces it there", async () => {
  const { world, more, serverJson } = await keptInServerJson();
  const { restored } = resultOf(
    await world.run<RestoreResult>("restore", { ...world.withoutService, ...more }),
  );
  expect(await readFile(serverJson, "utf8")).toContain(JSON.stringify(passphrase));
  expect(Object.values(await world.slots())).toContain("in server.json alone");
  // The store that was replaced is of use again.
  await rename(restored.replaced ?? "", world.path);
  expect((await world.drive(["read", world.path, '{"kind":"keyring"}'])).error).toBeUndefined();
});
