/**
 * Adopting a store that upstream's `password` encrypted, and importing a passphrase out of a
 * bundle.
 */
import { mkdir, readFile, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { readBundle } from "../../src/bundle/bundle.js";
import { deleteEntry } from "../../src/keys/keyring.js";
import type { AdoptResult } from "../../src/setup/adopt.js";
import type { ImportResult } from "../../src/setup/import-passphrase.js";
import type { RotateResult } from "../../src/swap/rotate.js";
import { root } from "../built.js";
import { fixturePassphrases } from "../store/temporary.js";
import { resultOf, World } from "./world.js";

const fixture = "sqlcipher4-schema2.db";
const password = fixturePassphrases[fixture];

/**
 * A store that upstream encrypted, with its password in server.json, and nothing in the keyring.
 */
async function upstream(password: string): Promise<{ world: World; serverJson: string }> {
  const world = await World.of(fixture);
  await deleteEntry(world.path, "current");
  const serverJson = join(world.folder, "config", "hivemind-core", "server.json");
  await mkdir(dirname(serverJson));
  await writeFile(
    serverJson,
    `{\n  // by hand\n  "database": {\n    "module": "hivemind-sqlite-db-plugin",\n    "hivemind-sqlite-db-plugin": {\n      "name": "clients",\n      "password": ${JSON.stringify(password)}\n    }\n  },\n  "port": 5678\n}\n`,
  );
  return { world, serverJson };
}

test("the password in server.json is proven, kept in the keyring and a bundle, and left where it is unless asked", async () => {
  const { world, serverJson } = await upstream(password);
  const before = await readFile(serverJson, "utf8");
  const store = await readFile(world.path);
  const ran = await world.run<AdoptResult>("adopt", world.withoutService);
  const { adopted, bundle } = resultOf(ran);
  expect(adopted).toMatchObject({ passwordFrom: "server.json", passwordRemoved: false });
  expect(ran.notices.join()).toMatch(/is still in .*server\.json, in plain text/);
  expect(await world.slots()).toEqual({ current: password });
  const { identity } = world.recoveryKey;
  expect((await readBundle(bundle?.path ?? "", { identity })).passphrase).toBe(password);
  expect(await readFile(serverJson, "utf8")).toBe(before);
  expect(await readFile(world.path)).toEqual(store);
  expect(await world.leftovers()).toEqual([]);
});

test("interrupted while it writes the bundle, it completes the adoption", async () => {
  const { world } = await upstream(password);
  const ran = await world.run<AdoptResult>("adopt", world.withoutService, {
    NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
    HIVEMIND_TEST_STEP: "adopt.bundled",
    HIVEMIND_TEST_SIGNAL: "SIGTERM",
  });
  expect(resultOf(ran).adopted).toBeDefined();
  expect(await world.slots()).toEqual({ current: password });
  expect(await world.leftovers()).toEqual([]);
});

test("asked to, it takes the password out of server.json, and leaves everything else in it, and no copy", async () => {
  const { world, serverJson } = await upstream(password);
  const { adopted } = resultOf(
    await world.run<AdoptResult>("adopt", { ...world.withoutService, removePassword: true }),
  );
  expect(adopted.passwordRemoved).toBe(true);
  const after = await readFile(serverJson, "utf8");
  expect(after).not.toContain("battery");
  expect(after).toContain("// by hand");
  expect(after).toContain('"name": "clients"');
});

test("asked to, cut off, and the keyring lost the passphrase: the password stays in server.json", async () => {
  const { world, serverJson } = await upstream(password);
  const options = { ...world.withoutService, removePassword: true };
  await world.run("adopt", options, {
    NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
    HIVEMIND_TEST_STEP: "adopt.taking",
  });
  expect(await deleteEntry(world.path, "pending")).toBe(true);
  expect((await world.settle()).result?.join()).toContain("adopt was not finished");
  expect(await readFile(serverJson, "utf8")).toContain("battery");
  resultOf(await world.run<AdoptResult>("adopt", options));
  expect(await readFile(serverJson, "utf8")).not.toContain("battery");
  expect(await world.slots()).toEqual({ current: password });
});

test("asked to, cut off, with the passphrase in a file: the recovery does not ask the keyring", async () => {
  const { world, serverJson } = await upstream(password);
  const file = join(world.folder, "passphrase");
  await writeFile(file, password, { mode: 0o600 });
  const source = { kind: "file", path: file } as const;
  const options = { ...world.withoutService, source, removePassword: true };
  await world.run("adopt", options, {
    NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
    HIVEMIND_TEST_STEP: "adopt.taking",
  });
  expect((await world.settle()).result?.join()).toContain("finished the interrupted adopt");
  expect(await readFile(serverJson, "utf8")).not.toContain("battery");
});

test("a hub that would be locked out by that is a refusal", async () => {
  const { world, serverJson } = await upstream(password);
  const ran = await world.run("adopt", {
    ...world.withoutService,
    hub: "auto",
    removePassword: true,
  });
  expect(ran.code).toBe(17);
  expect(ran.error?.hint).toMatch(/start the hub through run: hivemind-sqlcipher run/);
  expect(await world.slots()).toEqual({});
  expect(await readFile(serverJson, "utf8")).toContain("battery");
});

test("a password that does not open the store is not taken; one that is given is", async () => {
  const { world } = await upstream("another one");
  const wrong = await world.run("adopt", world.withoutService);
  expect(wrong.code).toBe(12);
  expect(wrong.error?.message).toMatch(/wrong passphrase from \S+server\.json/);
  expect(wrong.error?.hint).toMatch(/^Give the passphrase that opens it: --passphrase-file FILE$/m);
  expect(await world.slots()).toEqual({});
  const passphrase = { path: "passphrase", candidates: [password] };
  const given = { ...world.withoutService, passphrase };
  const { adopted } = resultOf(await world.run<AdoptResult>("adopt", given));
  expect(adopted.passwordFrom).toBe("given");
  expect(await world.slots()).toEqual({ current: password });
});

test("a rotation afterwards replaces the password that was left in server.json", async () => {
  const { world, serverJson } = await upstream(password);
  resultOf(await world.run("adopt", world.withoutService));
  const { rotated } = resultOf(
    await world.run<RotateResult>("rotate", { ...world.withoutService, hub: "auto" }),
  );
  expect(rotated.hub).toBe("server.json");
  const { current = "" } = await world.slots();
  expect(current).not.toBe(password);
  expect(await readFile(serverJson, "utf8")).toContain(JSON.stringify(current));
});

test("a bundle's passphrase comes into the keyring once it opens the store", async () => {
  const world = await World.of(fixture);
  const { rotated, bundle } = resultOf(
    await world.run<RotateResult>("rotate", world.withoutService),
  );
  const { current } = await world.slots();
  await deleteEntry(world.path, "current");
  const opener = { identity: world.recoveryKey.identity };
  const { imported } = resultOf(
    await world.run<ImportResult>("import-passphrase", { bundle: bundle?.path, opener }),
  );
  expect(imported).toMatchObject({ keyId: rotated.keyId, known: false });
  expect(await world.slots()).toEqual({ current });
  const again = await world.run<ImportResult>("import-passphrase", {
    bundle: bundle?.path,
    opener,
  });
  expect(resultOf(again).imported.known).toBe(true);
  expect(await world.leftovers()).toEqual([]);

  const other = await World.of("sqlcipher3-schema2.db");
  const wrong = await other.run("import-passphrase", { bundle: bundle?.path, opener });
  expect([wrong.code, wrong.error?.message]).toEqual([
    17,
    expect.stringMatching(/belongs to another store/),
  ]);
  await truncate(bundle?.path ?? "", 300);
  expect((await world.run("import-passphrase", { bundle: bundle?.path, opener })).code).toBe(14);
});
