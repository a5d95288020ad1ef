import { access, copyFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { listEntries, setEntry } from "../../src/keys/keyring.js";
import { generatePassphrase } from "../../src/keys/passphrase.js";
import type { PassphraseSource } from "../../src/keys/source.js";
import { openWithSource, unlock } from "../../src/keys/unlock.js";
import { withInteraction } from "../../src/process/interaction.js";
import { unlockStore } from "../../src/recovery/unlock-store.js";
import { identify } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { fixturePassphrases, fixtures, temporaryFolder } from "../store/temporary.js";
import { OwnBus } from "./own-keyring.js";

const keyring = { kind: "keyring" } as const;
const readonly = { mode: "readonly" } as const;

let bus: OwnBus;
let folder: string;
let store: string;

beforeAll(async () => {
  bus = await OwnBus.start();
  bus.enter();
  await bus.startKeyring("open sesame");
});

afterAll(async () => {
  await bus[Symbol.asyncDispose]();
});

beforeEach(async () => {
  folder = await temporaryFolder();
  store = join(folder, "clients.db");
});

async function fixture(name: string): Promise<string> {
  await copyFile(join(fixtures, name), store);
  return (await identify(store)).keyId ?? "";
}

async function fileSource(passphrase: string): Promise<PassphraseSource> {
  const path = join(folder, "passphrase");
  await writeFile(path, passphrase, { mode: 0o600 });
  return { kind: "file", path };
}

test.each(["current", "pending", "previous:of-this-file", "previous:ffffffffffffffff"] as const)(
  "a store opens with its %s passphrase, whatever else is kept",
  async (generation) => {
    const keyId = await fixture("sqlcipher4-schema2.db");
    const slot =
      generation === "previous:of-this-file" ? (`previous:${keyId}` as const) : generation;
    if (slot !== "current") await setEntry(store, "current", "of another file");
    await setEntry(store, "previous:eeeeeeeeeeeeeeee", "of a third");
    await setEntry(store, slot, "correct 'horse' battery");
    const unlocked = await unlock(store, keyring, readonly);
    await using _connection = unlocked.connection;
    expect(unlocked).toMatchObject({
      keyId,
      generation: slot,
      passphrase: "correct 'horse' battery",
    });
    expect(unlocked.key.cipherCompatibility).toBe(4);
  },
);

test("a passphrase that comes to the keyring while others are tried is tried too: a rotation has just ended", async () => {
  await fixture("sqlcipher4-schema2.db");
  await setEntry(store, "current", "of the file before");
  const unlocking = unlock(store, keyring, readonly);
  // Deriving keys from the first takes longer than this.
  await setEntry(store, "current", "correct 'horse' battery");
  const unlocked = await unlocking;
  await using _connection = unlocked.connection;
  expect(unlocked.passphrase).toBe("correct 'horse' battery");
});

test("a moved store's passphrase that another process stores during the question is current already", async () => {
  await fixture("sqlcipher4-schema2.db");
  const passphrase = "correct 'horse' battery";
  await setEntry(join(folder, "former.db"), "current", passphrase);
  const confirm = () => setEntry(store, "current", passphrase);
  const unlocked = await withInteraction({ confirm }, () => unlock(store, keyring, readonly));
  await using _connection = unlocked.connection;
  const slots = (await listEntries(store)).map(({ slot }) => slot);
  expect(slots.filter((slot) => !slot.startsWith("derived:"))).toEqual(["current"]);
});

test("a store opens by a link to it with the passphrase of its own path", async () => {
  await fixture("sqlcipher4-schema2.db");
  await setEntry(store, "current", fixturePassphrases["sqlcipher4-schema2.db"]);
  const link = join(folder, "link.db");
  await symlink(store, link);
  await using opened = await unlockStore(link, keyring, readonly);
  expect(opened.connection.path).toBe(store);
});

test("a store of the older format opens too, and is not migrated", async () => {
  await fixture("sqlcipher3-schema2.db");
  await using opened = await openWithSource(
    store,
    await fileSource("legacy pass'phrase\n"),
    readonly,
  );
  expect(opened.key.cipherCompatibility).toBe(3);
  expect((await opened.counts()).active).toBeGreaterThan(0);
});

test("a schema that a hub of its own would migrate is left as it is", async () => {
  await (await ClientStore.create(store, "words", { schemaVersion: 0 }))[Symbol.asyncDispose]();
  await using opened = await openWithSource(store, await fileSource("words"), {
    mode: "readwrite",
  });
  expect(opened.schemaVersion).toBe(0);
});

test("no passphrase that is kept opens it: what was tried is named, none of it shown, and where the right one is", async () => {
  const keyId = await fixture("sqlcipher4-schema2.db");
  await setEntry(store, "current", "wrong one");
  await setEntry(store, "pending", "wrong two");
  const error = await unlock(store, keyring, readonly).catch((reason: unknown) => reason);
  expect(error).toMatchObject({
    kind: "wrongPassphrase",
    message: expect.stringContaining("(tried: current, pending)"),
    hint: expect.stringContaining(`clients.${keyId}.bundle.age`),
  });
  expect(String(error)).not.toContain("wrong one");
});

test("a generated passphrase with a wrong group is told from a wrong one", async () => {
  const passphrase = generatePassphrase();
  await (await ClientStore.create(store, passphrase))[Symbol.asyncDispose]();
  const wrong = passphrase.split("-").with(4, "00000").join("-");
  await expect(unlock(store, await fileSource(wrong), readonly)).rejects.toMatchObject({
    kind: "wrongPassphrase",
    message: expect.stringContaining("it has a typing mistake in group 5"),
  });
  await expect(
    unlock(store, await fileSource(generatePassphrase()), readonly),
  ).rejects.toMatchObject({
    kind: "wrongPassphrase",
    message: expect.not.stringContaining("group"),
  });
  const typed = await fileSource(passphrase.toLowerCase());
  await using _connection = (await unlock(store, typed, readonly)).connection;
});

test("what is not an encrypted store is said before any passphrase is asked for", async () => {
  const marker = join(folder, "asked");
  const asking = { kind: "command", command: `touch '${marker}'; echo words` } as const;
  await expect(unlock(store, asking, readonly)).rejects.toMatchObject({ kind: "notFound" });
  await fixture("plain-schema2.db");
  await expect(unlock(store, asking, readonly)).rejects.toMatchObject({
    kind: "refused",
    hint: "Encrypt it: hivemind-sqlcipher encrypt",
  });
  await expect(access(marker)).rejects.toThrow("ENOENT");
});

test("a store without a passphrase kept for it is 13, not 12", async () => {
  await fixture("sqlcipher4-schema2.db");
  await expect(unlock(store, keyring, readonly)).rejects.toMatchObject({
    kind: "passphraseUnavailable",
    exitCode: 13,
  });
});
