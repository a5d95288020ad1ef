import { createHash } from "node:crypto";
import { readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, join, relative } from "node:path";
import { expect, test } from "vitest";
import type { BackupResult } from "../../src/backup/backup.js";
import { manifestPath, readManifest } from "../../src/backup/manifest.js";
import { verifyBackup } from "../../src/backup/verify.js";
import { readBundle } from "../../src/bundle/bundle.js";
import { newClient } from "../../src/client/client.js";
import { deleteEntry, setEntry } from "../../src/keys/keyring.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import type { RotateResult } from "../../src/swap/rotate.js";
import { root, testProgram } from "../built.js";
import { fixturePassphrases } from "../store/temporary.js";
import { passphraseFile, resultOf, World } from "./world.js";

const fixture = "sqlcipher4-schema2.db";
const oldPassphrase = fixturePassphrases[fixture];

test("a rotated store has a new key_id, a new bundle, the same rows, and its unit runs again", async () => {
  const world = await World.of(fixture);
  await world.startUnit();
  const before = await world.rows();
  const { rotated, bundle, service } = resultOf(await world.run<RotateResult>("rotate"));
  expect(await world.rows()).toEqual(before);
  expect(rotated.keyId).not.toBe(rotated.previousKeyId);
  expect(bundle?.keyId).toBe(rotated.keyId);
  expect(service).toMatchObject({ wasActive: true, active: true });
  expect(await world.isActive).toBe(true);
  const slots = await world.slots();
  expect(Object.keys(slots)).toEqual(["current"]);
  expect(slots.current).not.toBe(oldPassphrase);
  const { identity } = world.recoveryKey;
  const { passphrase, database } = await readBundle(bundle?.path ?? "", { identity });
  expect([passphrase, database]).toEqual([slots.current, world.path]);
  await (await openEncrypted(world.path, passphrase, { mode: "readonly" })).connection.close();
});

test("backups of the old passphrase keep a bundle that opens them, also if it was lost meanwhile", async () => {
  const world = await World.of(fixture);
  const { backup, bundle } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  await rm(bundle.path);
  resultOf(await world.run("rotate", world.withoutService));
  expect(Object.keys(await world.slots())).toEqual(["current"]);
  const { passphrase } = await readBundle(bundle.path, { identity: world.recoveryKey.identity });
  expect((await verifyBackup(backup.path, { passphrase })).ok).toBe(true);
});

test("a passphrase of one's own is taken from a file; --keep-previous keeps the old one", async () => {
  const world = await World.of(fixture);
  const file = await passphraseFile(world, "a phrase of my own");
  const { rotated } = resultOf(
    await world.run<RotateResult>("rotate", {
      ...world.withoutService,
      passphraseFile: file,
      keepPrevious: true,
    }),
  );
  expect(await world.slots()).toEqual({
    current: "a phrase of my own",
    [`previous:${rotated.previousKeyId}`]: oldPassphrase,
  });
  const same = await world.run("rotate", { ...world.withoutService, passphraseFile: file });
  expect(same.code).toBe(17);
});

test("a store whose old file was put back by hand is rotated to the passphrase that the keyring has already", async () => {
  const world = await World.of(fixture);
  const file = await passphraseFile(world, "a phrase of my own");
  const options = { ...world.withoutService, passphraseFile: file, keepPrevious: true };
  const old = await readFile(world.path);
  resultOf(await world.run("rotate", options));
  const slots = await world.slots();
  await writeFile(world.path, old);
  const before = await world.rows();
  const { rotated } = resultOf(await world.run<RotateResult>("rotate", options));
  expect(await world.slots()).toEqual(slots);
  expect(await world.rows()).toEqual(before);
  const passphrase = "a phrase of my own";
  const opened = await openEncrypted(world.path, passphrase, { mode: "readonly" });
  await opened.connection.close();
  expect(opened.keyId).toBe(rotated.keyId);
});

test("format 3 stays format 3", async () => {
  const world = await World.of("sqlcipher3-schema2.db");
  const before = await world.rows();
  resultOf(await world.run("rotate", world.withoutService));
  const { current = "" } = await world.slots();
  const { connection, key } = await openEncrypted(world.path, current, { mode: "readonly" });
  await connection.close();
  expect(key.cipherCompatibility).toBe(3);
  expect(await world.rows()).toEqual(before);
});

test("backups are brought under the new passphrase, each verified; one that does not verify is left", async () => {
  const world = await World.of(fixture);
  const backup = async () =>
    resultOf(await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }))
      .backup;
  const first = await backup();
  const damaged = await backup();
  const bytes = await readFile(damaged.path);
  bytes[9000] = (bytes[9000] ?? 0) ^ 1;
  await writeFile(damaged.path, bytes);

  const { rotated, backups } = resultOf(
    await world.run<RotateResult>("rotate", { ...world.withoutService, reencrypt: world.to }),
  );
  const renewed = first.path.replace(/\.db$/, `.${rotated.keyId}.db`);
  expect(backups?.reencrypted).toEqual([renewed]);
  expect(backups?.left).toEqual([{ path: damaged.path, reason: expect.any(String) }]);
  await expect(stat(first.path)).rejects.toThrow("ENOENT");
  expect(await readFile(damaged.path)).toEqual(bytes);
  const { current = "" } = await world.slots();
  const verified = await verifyBackup(renewed, { passphrase: current });
  expect(verified.checks.filter(({ ok }) => !ok)).toEqual([]);
  const manifest = JSON.parse(await readFile(renewed.replace(/db$/, "manifest.json"), "utf8"));
  expect(manifest).toMatchObject({ created_at: first.createdAt, key_id: rotated.keyId });
  expect(await world.leftovers()).toEqual([]);
});

test("a backup that cannot be brought under the new passphrase stays, and nothing lies beside it", async () => {
  const world = await World.of(fixture);
  const { backup } = resultOf(
    await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }),
  );
  // Something takes the new manifest's name when the copy has got its own.
  const taken = `for f in '${world.to}'/*.*.db; do case $f in *Z.????????????????.db) : >"\${f%db}manifest.json";; esac; done`;
  const ran = await world.run(
    "rotate",
    { ...world.withoutService, reencrypt: world.to },
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "backup.claimed": taken }),
    },
  );
  expect(ran.error?.kind).toBe("refused");
  const databases = (await readdir(world.to)).filter((name) => name.endsWith(".db"));
  expect(databases).toEqual([basename(backup.path)]);
  expect(await world.leftovers()).toEqual([]);
});

const atStep = (step: string, command: string) => ({
  NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
  HIVEMIND_TEST_AT_STEP: JSON.stringify({ [step]: command }),
});

/** A world with two backups of its store: the second has a client that the first has not. */
async function withTwoBackups() {
  const world = await World.of(fixture);
  const backup = async () =>
    resultOf(await world.run<BackupResult>("backup", { ...world.withoutService, to: world.to }))
      .backup;
  const older = await backup();
  const store = await ClientStore.open(world.path, oldPassphrase);
  await store.addItem(newClient({ client_id: 4711, api_key: "of the newer one" }));
  await store.close();
  const newer = await backup();
  const rotate = (env: Record<string, string>) =>
    world.run<RotateResult>("rotate", { ...world.withoutService, reencrypt: world.to }, env);
  return { world, older, newer, rotate };
}

test("a backup that is exchanged for another of the same store once it is verified is not sealed as what it is not", async () => {
  const { world, older, newer, rotate } = await withTwoBackups();
  const ran = await rotate(atStep("reencrypt.copying", `cp '${newer.path}' '${older.path}'`));
  expect(ran).toMatchObject({ code: 14, error: { kind: "corrupted" } });
  expect(ran.error?.message).toContain(`the copy of ${older.path} differs from the verified file`);
  const both = [older, newer].flatMap(({ path, manifest }) => [basename(path), basename(manifest)]);
  expect((await readdir(world.to)).sort()).toEqual(both.sort());
  expect(await world.leftovers()).toEqual([]);
});

test("a manifest that is altered once it is verified is not sealed: the new one says what the verified one did", async () => {
  const { world, older, rotate } = await withTwoBackups();
  const alter = `sed -i 's/"created_at": "[^"]*"/"created_at": "2199-01-01T00:00:00.000Z"/' '${older.manifest}'`;
  const { backups } = resultOf(await rotate(atStep("reencrypt.copying", alter)));
  expect(backups?.left).toEqual([]);
  const [first = ""] = backups?.reencrypted ?? [];
  expect(await readManifest(manifestPath(first))).toMatchObject({
    created_at: older.createdAt,
    clients: older.clients,
  });
  expect(await world.leftovers()).toEqual([]);
});

for (const step of ["copying", "staged", "exported", "copied"]) {
  test(`killed at reencrypt.${step}: the backups are as they were, and the next command leaves nothing beside them`, async () => {
    const { world, rotate } = await withTwoBackups();
    const before = await readdir(world.to);
    expect((await rotate(atStep(`reencrypt.${step}`, "kill"))).signal).toBe("SIGKILL");
    expect(await world.leftovers()).not.toEqual([]);
    expect((await world.settle()).error).toBeUndefined();
    expect(await world.leftovers()).toEqual([]);
    expect(await readdir(world.to)).toEqual(before);
  });
}

test("killed while the old backup is removed: its file is gone, and no file is without a manifest", async () => {
  const { world, older, rotate } = await withTwoBackups();
  expect((await rotate(atStep("backup-file.removed", "kill"))).signal).toBe("SIGKILL");
  expect((await world.settle()).error).toBeUndefined();
  const names = await readdir(world.to);
  expect(names).not.toContain(basename(older.path));
  const files = names.filter((name) => name.endsWith(".db"));
  expect(files).toHaveLength(2);
  expect(files.filter((name) => !names.includes(basename(manifestPath(name))))).toEqual([]);
  expect(await world.leftovers()).toEqual([]);
});

test("a file source changes to the file with the new passphrase, in the settings too; nothing is written to either", async () => {
  const world = await World.of(fixture);
  await deleteEntry(world.path, "current");
  const [old, next] = [
    await passphraseFile(world, oldPassphrase),
    await passphraseFile(world, "the next one"),
  ];
  const settings = join(world.folder, "config", "config.json");
  await writeFile(
    settings,
    JSON.stringify({
      passphrase_source: `file:~/${relative(process.env.HOME ?? "", old)}`,
      keep: { last: 3 },
    }),
  );
  const source = { kind: "file", path: old };
  const withoutFile = await world.run("rotate", { ...world.withoutService, source });
  expect([withoutFile.code, withoutFile.error?.hint]).toEqual([
    17,
    expect.stringMatching(/--passphrase-file/),
  ]);
  const { rotated } = resultOf(
    await world.run<RotateResult>("rotate", {
      ...world.withoutService,
      source,
      passphraseFile: next,
    }),
  );
  expect(rotated.passphraseSource).toBe(`file:${next}`);
  expect(JSON.parse(await readFile(settings, "utf8"))).toEqual({
    passphrase_source: `file:${next}`,
    keep: { last: 3 },
  });
  await (await openEncrypted(world.path, "the next one", { mode: "readonly" })).connection.close();
  expect(await world.slots()).toEqual({});
});

test.each([
  { kind: "command", command: "echo x" },
  { kind: "credential", name: "x" },
])("a source that nothing can be written to is refused: $kind", async (source) => {
  const world = await World.of(fixture);
  expect((await world.run("rotate", { ...world.withoutService, source })).code).toBe(17);
});

test("a pending passphrase that opens the store is never overwritten", async () => {
  const world = await World.of(fixture);
  await setEntry(world.path, "pending", oldPassphrase);
  await setEntry(world.path, "current", "of some other file");
  const before = await world.rows();
  const ran = await world.run<RotateResult>("rotate", world.withoutService, {
    NODE_OPTIONS: `--import=${new URL("../faults/kill-at-step.mjs", import.meta.url).pathname}`,
    HIVEMIND_TEST_STEP: "rotate.pending-kept",
  });
  expect(ran.signal).toBe("SIGKILL");
  expect((await world.settle()).error).toBeUndefined();
  expect(await world.rows()).toEqual(before);
  const slots = await world.slots();
  expect(slots.current).toBe(oldPassphrase);
  expect(Object.values(slots)).toContain("of some other file");
  // Nothing that a passphrase could be guessed by.
  const sum = createHash("sha256").update("of some other file").digest("hex");
  expect(Object.keys(slots).join()).not.toContain(sum.slice(0, 16));
});

test("a store that somebody else has open is refused before anything changes", async () => {
  const world = await World.of(fixture);
  await world.startUnit();
  const ran = await world.run("rotate", world.withoutService);
  expect([ran.code, ran.error?.message]).toEqual([
    11,
    expect.stringMatching(/is open in \d+ \(node/),
  ]);
  expect(await world.slots()).toEqual({ current: oldPassphrase });
});

test("a client that is added while the service is stopped is either in the new store, or was refused", async () => {
  const world = await World.of(fixture);
  const add = `node ${testProgram("swap/add-client")} '${world.path}' '${world.folder}/added'`;
  const ran = await world.run<RotateResult>("rotate", world.withoutService, {
    NODE_OPTIONS: `--import=${new URL("../faults/kill-at-step.mjs", import.meta.url).pathname}`,
    HIVEMIND_TEST_STEP: "rotate.filled",
    HIVEMIND_TEST_COMMAND: `NODE_OPTIONS= ${add}`,
  });
  resultOf(ran);
  expect(await readFile(join(world.folder, "added"), "utf8")).toBe("inUse");
  expect((await world.rows()).join()).not.toContain("in the middle");
});

test("a bundle folder that is missing fails before anything changed", async () => {
  const world = await World.of(fixture);
  await rename(world.bundleTo, `${world.bundleTo}.away`);
  const ran = await world.run("rotate", world.withoutService);
  expect([ran.code, ran.error?.hint]).toEqual([18, expect.stringMatching(/Mount its disk/)]);
  expect(await world.slots()).toEqual({ current: oldPassphrase });
});

test.each(["-wal", "-journal"])(
  "an empty %s that a kill has left is no hindrance",
  async (suffix) => {
    const world = await World.of(fixture);
    await writeFile(`${world.path}${suffix}`, "");
    const before = await world.rows();
    resultOf(await world.run("rotate", world.withoutService));
    expect(await world.rows()).toEqual(before);
    await expect(stat(`${world.path}${suffix}`)).rejects.toThrow("ENOENT");
  },
);
