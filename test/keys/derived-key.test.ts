import { execFile } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { copyFile, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from "vitest";
import { cacheDerivedKey, formatDerivedKey, parseDerivedKey } from "../../src/keys/derived-key.js";
import { deleteEntry, getEntry, setEntry } from "../../src/keys/keyring.js";
import { type PassphraseSource, withoutKeyCache } from "../../src/keys/source.js";
import { openWithSource, unlock } from "../../src/keys/unlock.js";
import { derivationChannelName, deriveKey, identify } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { root } from "../built.js";
import { fixturePassphrases, fixtures, temporaryFolder } from "../store/temporary.js";
import { OwnBus } from "./own-keyring.js";

const run = promisify(execFile);
const keyring = { kind: "keyring" } as const;
const readwrite = { mode: "readwrite" } as const;
const passphrase = "words of one's own";

let bus: OwnBus;
let folder: string;
let store: string;
let keyId: string;

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
  const made = await ClientStore.create(store, passphrase);
  await made.close();
  keyId = made.keyId;
  await setEntry(store, "current", passphrase);
});

/** How often `body` derives a key from a passphrase. */
async function derivations(body: () => Promise<unknown>): Promise<number> {
  let count = 0;
  const onDerivation = () => {
    count += 1;
  };
  subscribe(derivationChannelName, onDerivation);
  try {
    await body();
  } finally {
    unsubscribe(derivationChannelName, onDerivation);
  }
  return count;
}

async function open(source: PassphraseSource = keyring): Promise<void> {
  const opened = await openWithSource(store, source, readwrite);
  await opened.counts();
  await opened.close();
}

function kept(): Promise<string | undefined> {
  return getEntry(store, `derived:${keyId}`);
}

test("a store is opened without deriving its key again, as the same store", async () => {
  expect(await derivations(open)).toBe(1);
  expect(await derivations(open)).toBe(0);
  await using opened = await openWithSource(store, keyring, readwrite);
  expect(opened.key.key).toEqual((await deriveKey(passphrase, opened.key.salt, 4)).key);
  expect(opened.keyId).toBe(keyId);
});

test("a store of the older format is opened so too", async () => {
  const name = "sqlcipher3-schema2.db";
  await copyFile(join(fixtures, name), store);
  await setEntry(store, "current", fixturePassphrases[name]);
  expect(await derivations(open)).toBe(2); // for each format one
  expect(await derivations(open)).toBe(0);
  await using opened = await openWithSource(store, keyring, readwrite);
  expect(opened.key.cipherCompatibility).toBe(3);
});

test("an entry that was garbled, cut off, or is of another version is not used, and replaced", async () => {
  await open();
  const whole = (await kept()) ?? "";
  const parts = whole.split(":");
  const garbled = [
    ...parts.map((part, at) =>
      parts
        .with(
          at,
          part.replace(/.$/, (last) => (last === "0" ? "1" : "0")),
        )
        .join(":"),
    ),
    whole.slice(0, -1),
    `${whole}0`,
    whole.toUpperCase(),
    "some words",
  ];
  for (const text of garbled) expect(parseDerivedKey(text, passphrase), text).toBeUndefined();
  for (const text of [garbled[3] ?? "", "some words"]) {
    await setEntry(store, `derived:${keyId}`, text);
    expect(await derivations(open)).toBe(1);
    expect(await kept()).toBe(whole);
  }
});

test("a key is of no use without the passphrase that it came from: replaced, or removed from the keyring", async () => {
  await open();
  await setEntry(store, "current", "another one");
  await expect(open()).rejects.toMatchObject({ kind: "wrongPassphrase" });
  await deleteEntry(store, "current");
  expect(await kept()).toBeDefined();
  await expect(open()).rejects.toMatchObject({ kind: "passphraseUnavailable" });
});

test("a key does not open another file that has the store's name, whatever is kept for that", async () => {
  await open();
  await rm(store);
  const other = await ClientStore.create(store, passphrase);
  await other.close();
  expect(await derivations(open)).toBe(1);
  // As if the other file's entry had been copied from this one's.
  await setEntry(store, `derived:${other.keyId}`, (await kept()) ?? "");
  expect(await derivations(open)).toBe(1);
  expect(await derivations(open)).toBe(0);
});

test("a file that another program gave another passphrase under the same salt opens with that one alone", async () => {
  await open();
  const { connection } = await unlock(store, keyring, readwrite);
  await connection.get("PRAGMA journal_mode = DELETE");
  await connection.all("PRAGMA rekey = 'changed by others'");
  await connection.close();
  expect((await identify(store)).keyId).toBe(keyId);
  await expect(open()).rejects.toMatchObject({ kind: "wrongPassphrase" });
  await setEntry(store, "current", "changed by others");
  expect(await derivations(open)).toBe(1);
  expect(await derivations(open)).toBe(0);
});

test("only what the current passphrase of the keyring opened is kept there", async () => {
  await deleteEntry(store, "current");
  await writeFile(join(folder, "passphrase"), passphrase, { mode: 0o600 });
  await open({ kind: "file", path: join(folder, "passphrase") });
  expect(await kept()).toBeUndefined();
  await setEntry(store, "current", "of another file");
  for (const slot of ["pending", `previous:${keyId}`] as const) {
    await setEntry(store, slot, passphrase);
    await open();
    expect(await kept()).toBeUndefined();
    await deleteEntry(store, slot);
  }
});

test("who needs the passphrase has it derived, whatever is kept", async () => {
  await open();
  expect(
    await derivations(async () => (await unlock(store, keyring, readwrite)).connection.close()),
  ).toBe(1);
});

test("without the cache the key is derived, and what was kept is forgotten", async () => {
  await open();
  expect(await derivations(() => open(withoutKeyCache(keyring)))).toBe(1);
  expect(await kept()).toBeUndefined();
  expect(await derivations(() => open(withoutKeyCache(keyring)))).toBe(1);
  expect(await kept()).toBeUndefined();
});

test("a key that is kept while a rotation takes its passphrase away does not stay", async () => {
  const key = await deriveKey(passphrase, Buffer.alloc(16, 7), 4);
  await setEntry(store, "current", "the next one");
  await cacheDerivedKey(store, key, passphrase);
  expect(await getEntry(store, "derived:0707070707070707")).toBeUndefined();
});

test("what is kept is one line of text, good for the one passphrase that it came from", async () => {
  const key = await deriveKey(passphrase, Buffer.alloc(16, 7), 4);
  const text = formatDerivedKey(key, passphrase);
  expect(text).toMatch(/^1:4:(07){16}:[0-9a-f]{64}:[0-9a-f]{64}$/);
  expect(parseDerivedKey(text, passphrase)?.key).toEqual(key.key);
  expect(parseDerivedKey(text, `${passphrase} `)).toBeUndefined();
});

test("several processes that open the store at once all do, and one key is kept", async () => {
  const program = `
    import { parseSource, unlockStore } from "${root}dist/index.js";
    const store = await unlockStore(${JSON.stringify(store)}, parseSource("keyring"), { mode: "readwrite" });
    console.log((await store.counts()).active);
    await store.close();`;
  const opening = () => run(process.execPath, ["--input-type=module", "-e", program]);
  const answers = await Promise.all(Array.from({ length: 4 }, opening));
  expect(answers.map(({ stdout }) => stdout.trim())).toEqual(["0", "0", "0", "0"]);
  expect(await derivations(open)).toBe(0);
});

test("a keyring that takes nothing is no hindrance", async () => {
  const configuration = join(bus.folder, "bus.conf");
  const before = await readFile(configuration, "utf8");
  const reload = async (text: string) => {
    await writeFile(configuration, text);
    await bus.shell(
      "busctl --user call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig",
    );
  };
  onTestFinished(() => reload(before));
  const deny =
    '<deny send_interface="org.freedesktop.Secret.Collection" send_member="CreateItem"/></policy>';
  await reload(before.replace("</policy>", deny));
  await expect(setEntry(store, "pending", "x")).rejects.toMatchObject({
    kind: "passphraseUnavailable",
  });
  expect(await derivations(open)).toBe(1);
  expect(await kept()).toBeUndefined();
  expect(await derivations(open)).toBe(1);
});

test("a locked keyring gives neither key nor passphrase", async () => {
  await open();
  await bus.lock();
  await expect(open()).rejects.toMatchObject({ kind: "passphraseUnavailable", exitCode: 13 });
  await bus.shell("gnome-keyring-daemon --replace --unlock --components=secrets", "open sesame");
});
