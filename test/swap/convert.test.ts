import { chmod, lstat, readFile, rename, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { readBundle } from "../../src/bundle/bundle.js";
import { getEntry, setEntry } from "../../src/keys/keyring.js";
import { identify, openEncrypted } from "../../src/store/cipher.js";
import { Connection } from "../../src/store/connection.js";
import type { DecryptResult } from "../../src/swap/decrypt.js";
import type { EncryptResult } from "../../src/swap/encrypt.js";
import { root } from "../built.js";
import { fixturePassphrases } from "../store/temporary.js";
import { passphraseFile, resultOf, World } from "./world.js";

async function pragmas(world: World, passphrase?: string) {
  const connection = passphrase
    ? (await openEncrypted(world.path, passphrase, { mode: "readwrite" })).connection
    : await Connection.open(world.path, { mode: "readwrite" });
  try {
    const version = await connection.get<{ user_version: number }>("PRAGMA user_version");
    const mode = await connection.get<{ journal_mode: string }>("PRAGMA journal_mode");
    return [version?.user_version, mode?.journal_mode];
  } finally {
    await connection.close();
  }
}

test.each([0, 1, 2])(
  "a plaintext store of schema %i becomes an encrypted one with the same rows, schema and journal mode",
  async (schema) => {
    const world = await World.of(`plain-schema${schema}.db`);
    const before = await world.rows();
    const mode = await pragmas(world);
    await chmod(world.path, 0o640);
    const { encrypted, bundle } = resultOf(
      await world.run<EncryptResult>("encrypt", world.withoutService),
    );
    expect(encrypted).toMatchObject({ from: "plaintext", cipherCompatibility: 4, hub: "none" });
    expect(encrypted.caution).toMatch(/deleted, but not erased/);
    expect(await world.rows()).toEqual(before);
    const { passphrase } = await readBundle(bundle?.path ?? "", {
      identity: world.recoveryKey.identity,
    });
    expect(await world.slots()).toEqual({ current: passphrase });
    expect(await pragmas(world, passphrase)).toEqual(mode);
    expect(mode[0]).toBe(schema);
    expect((await lstat(world.path)).mode & 0o777).toBe(0o640);
    expect(await world.leftovers()).toEqual([]);
  },
);

test("the plaintext file is gone: its bytes are in no file of the store's folder", async () => {
  const world = await World.of("plain-schema2.db");
  expect(await readFile(world.path, "latin1")).toContain("kitchen-satellite");
  resultOf(await world.run("encrypt", world.withoutService));
  expect(await world.leftovers()).toEqual([]);
  expect(await readFile(world.path, "latin1")).not.toContain("kitchen-satellite");
});

test("a running unit is stopped for it, and runs again on the encrypted store", async () => {
  const world = await World.of("plain-schema1.db");
  await world.startUnit();
  const { service } = resultOf(await world.run<EncryptResult>("encrypt"));
  expect(service).toMatchObject({ unit: world.unit, wasActive: true, active: true });
  expect(service.stoppedMs).toBeGreaterThan(0);
  expect(await world.isActive).toBe(true);
  expect((await identify(world.path)).format).toBe("sqlcipher");
});

test("a store of format 3 becomes one of format 4, under the same passphrase", async () => {
  const world = await World.of("sqlcipher3-schema2.db");
  const file = await passphraseFile(world, "another");
  const refused = await world.run("encrypt", { ...world.withoutService, passphraseFile: file });
  expect(refused.error).toMatchObject({ kind: "usage", hint: expect.stringContaining("rotate") });
  expect((await identify(world.path)).format).not.toBe("plaintext");
  const before = await world.rows();
  const { encrypted } = resultOf(await world.run<EncryptResult>("encrypt", world.withoutService));
  expect(encrypted).toMatchObject({ from: "SQLCipher 3", cipherCompatibility: 4, caution: null });
  expect(await world.rows()).toEqual(before);
  expect(await world.slots()).toEqual({ current: fixturePassphrases["sqlcipher3-schema2.db"] });
  expect(await world.bundles()).toEqual([encrypted.keyId]);
});

test("a pending passphrase that opens a store of format 3 is still kept after such a conversion was undone", async () => {
  const world = await World.of("sqlcipher3-schema2.db");
  const passphrase = fixturePassphrases["sqlcipher3-schema2.db"];
  await setEntry(world.path, "pending", passphrase);
  await setEntry(world.path, "current", "of some other file");
  const killed = await world.run("encrypt", world.withoutService, {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify({ "encrypt.synced": "kill" }),
  });
  expect(killed.signal).toBe("SIGKILL");
  expect((await world.settle()).result).toEqual([
    "undid the interrupted encrypt: the store is unchanged",
  ]);
  expect(Object.values(await world.slots())).toContain(passphrase);
  expect(Object.values(await world.slots())).toContain("of some other file");
});

test("format 3 is kept where the hub's library reads nothing newer", async () => {
  const world = await World.of("plain-schema2.db");
  const before = await world.rows();
  const { encrypted } = resultOf(
    await world.run<EncryptResult>("encrypt", { ...world.withoutService, cipherCompatibility: 3 }),
  );
  expect(encrypted.cipherCompatibility).toBe(3);
  expect(await world.rows()).toEqual(before);
  const again = await world.run("encrypt", { ...world.withoutService, cipherCompatibility: 3 });
  expect(again.code).toBe(17);
  expect(again.error?.message).toMatch(/already encrypted, in format 3 of SQLCipher/);
});

test("decrypting is the way back, asked twice; the passphrase stays for the backups", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const before = await world.rows();
  const ran = await world.run<DecryptResult>("decrypt", world.withoutService);
  const { decrypted } = resultOf(ran);
  expect(ran.questions).toHaveLength(2);
  expect((await identify(world.path)).format).toBe("plaintext");
  expect(await world.rows()).toEqual(before);
  expect(await world.slots()).toEqual({
    [`previous:${decrypted.previousKeyId}`]: fixturePassphrases["sqlcipher4-schema2.db"],
  });
  expect(await world.leftovers()).toEqual([]);
});

test("a no to the question changes nothing", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const before = await readFile(world.path);
  const ran = await world.run("decrypt", { ...world.withoutService, yes: false });
  expect(ran.code).toBe(17);
  expect(await readFile(world.path)).toEqual(before);
  expect(await world.leftovers()).toEqual([]);
});

test("a symbolic link at the store's path stays; what it leads to is replaced", async () => {
  const world = await World.of("plain-schema2.db");
  const elsewhere = join(world.folder, "elsewhere.db");
  await rename(world.path, elsewhere);
  await symlink(elsewhere, world.path);
  const moved = {
    storePath: elsewhere,
    service: { service: "none", unit: "x", storePath: elsewhere },
  };
  resultOf(await world.run("encrypt", moved));
  expect((await lstat(world.path)).isSymbolicLink()).toBe(true);
  expect((await identify(elsewhere)).format).toBe("sqlcipher");
  for (const slot of ["current", "pending"] as const) {
    expect(await getEntry(world.path, slot)).toBeUndefined();
  }
});

test.each([
  ["no store", async (world: World) => rename(world.path, `${world.path}.away`), 10],
  ["a schema from the future", async () => undefined, 16, "plain-schema99-from-the-future.db"],
  [
    "a file that is no database",
    async (world: World) => writeFile(world.path, "x".repeat(5000)),
    14,
  ],
  [
    "a bundle folder that is missing",
    async (world: World) => rename(world.bundleTo, `${world.bundleTo}.away`),
    18,
  ],
] as const)(
  "%s is refused before anything changes",
  async (_what, prepare, code, fixture?: string) => {
    const world = await World.of(fixture ?? "plain-schema2.db");
    await prepare(world);
    const ran = await world.run("encrypt", world.withoutService);
    expect([ran.code, ran.error?.message]).toEqual([code, expect.any(String)]);
    expect(await world.slots()).toEqual({});
  },
);

test("a passphrase that looks like a generated one with a mistake is refused", async () => {
  const world = await World.of("plain-schema2.db");
  resultOf(await world.run("encrypt", world.withoutService));
  const generated = (await world.slots()).current ?? "";
  const wrong = `${generated[0] === "0" ? "1" : "0"}${generated.slice(1)}`;
  const ran = await world.run("rotate", {
    ...world.withoutService,
    passphraseFile: await passphraseFile(world, wrong),
  });
  expect(ran.code).toBe(17);
  expect(ran.error?.message).toMatch(/mistake in group 1/);
});

test("a passphrase that the keyring has for this path already is used", async () => {
  const world = await World.of("plain-schema2.db");
  await setEntry(world.path, "current", "kept from before");
  resultOf(await world.run("encrypt", world.withoutService));
  expect(await world.slots()).toEqual({ current: "kept from before" });
});
