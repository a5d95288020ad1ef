import { openSync, readFileSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { expect, test } from "vitest";
import {
  createEncrypted,
  deriveNewKey,
  openEncrypted,
  type StoreKey,
} from "../../src/store/cipher.js";
import { findPageErrors } from "../../src/store/page-integrity.js";
import { PageReencryption } from "../../src/store/reencrypt-pages.js";
import { copyOfFixture, fixturePassphrases, temporaryFolder } from "./temporary.js";

const stores = ["sqlcipher3-schema2.db", "sqlcipher4-schema2.db"] as const;

async function keyOf(path: string, passphrase: string): Promise<StoreKey> {
  const { connection, key } = await openEncrypted(path, passphrase, { mode: "readonly" });
  await connection.close();
  return key;
}

/** Re-encrypts a whole file. Returns the damaged pages and the path of the new file. */
async function reencrypted(path: string, from: StoreKey, to: StoreKey) {
  const copy = `${path}.new`;
  const reencryption = new PageReencryption(from, to);
  await using source = await open(path);
  await using target = await open(copy, "w+");
  const pages = (await source.stat()).size / reencryption.pageBytes;
  const files = { source: source.fd, target: target.fd };
  const damaged = reencryption.copy({ ...files, sourceOffset: 0, firstPage: 1, pages });
  return { copy, damaged, pageBytes: reencryption.pageBytes };
}

async function dump(path: string, secret: string | StoreKey): Promise<unknown> {
  const { connection } = await openEncrypted(path, secret, { mode: "readonly", immutable: true });
  try {
    const schema = await connection.all<{ name: string; type: string }>(
      "SELECT * FROM sqlite_schema",
    );
    const tables = schema.filter(({ type }) => type === "table");
    const rows = [];
    for (const { name } of tables) rows.push(await connection.all(`SELECT rowid, * FROM ${name}`));
    return { schema, rows, faults: await connection.all("PRAGMA integrity_check") };
  } finally {
    await connection.close();
  }
}

test.each(stores)(
  "%s is the same database under another key, which SQLCipher opens",
  async (fixture) => {
    const path = await copyOfFixture(fixture);
    const passphrase = fixturePassphrases[fixture];
    const from = await keyOf(path, passphrase);
    const to = await deriveNewKey("another passphrase", from.cipherCompatibility);
    const { copy, damaged } = await reencrypted(path, from, to);
    expect(damaged).toEqual([]);
    expect(await dump(copy, "another passphrase")).toEqual(await dump(path, passphrase));
    expect(await findPageErrors(copy, to)).toEqual([]);
    await expect(dump(copy, passphrase)).rejects.toMatchObject({ kind: "wrongPassphrase" });
  },
);

test.each(stores)("%s: no page keeps its bytes, not even under the same key", async (fixture) => {
  const path = await copyOfFixture(fixture);
  const key = await keyOf(path, fixturePassphrases[fixture]);
  const { copy, pageBytes } = await reencrypted(path, key, key);
  const [before, after] = [readFileSync(path), readFileSync(copy)];
  expect(after.length).toBe(before.length);
  for (let at = 16; at < before.length; at += at === 16 ? pageBytes - 16 : pageBytes) {
    expect(after.subarray(at, at + 32)).not.toEqual(before.subarray(at, at + 32));
  }
});

test("a changed bit, a page of zeros and half a page are damage, and zeros in the copy", async () => {
  const path = await copyOfFixture("sqlcipher4-schema2.db");
  const from = await keyOf(path, fixturePassphrases["sqlcipher4-schema2.db"]);
  const bytes = readFileSync(path);
  const third = bytes.subarray(8192, 12_288);
  bytes[5000] = (bytes[5000] ?? 0) ^ 1;
  third.fill(0);
  writeFileSync(path, bytes.subarray(0, 12_288));
  const to = await deriveNewKey("another passphrase", 4);
  const { copy, damaged } = await reencrypted(path, from, to);
  expect(damaged).toEqual([2, 3]);
  expect(
    readFileSync(copy)
      .subarray(4096)
      .every((byte) => byte === 0),
  ).toBe(true);

  writeFileSync(path, bytes.subarray(0, 6000));
  await using source = await open(path);
  await using target = await open(copy, "w+");
  const range = { source: source.fd, sourceOffset: 0, target: target.fd, firstPage: 1, pages: 2 };
  expect(new PageReencryption(from, to).copy(range)).toEqual([2]);
});

test("SQLite's lock page stays a page of zeros", async () => {
  const path = `${await temporaryFolder()}/clients.db`;
  const { connection, key } = await createEncrypted(path, "correct horse", 4);
  await connection.close();
  const lockPage = 2 ** 30 / 4096 + 1;
  await using empty = await open(path, "r+");
  await using target = await open(`${path}.new`, "w+");
  const range = { source: empty.fd, target: target.fd, firstPage: lockPage, pages: 1 };
  const reencryption = new PageReencryption(key, key);
  expect(reencryption.copy({ ...range, sourceOffset: 2 ** 20 })).toEqual([]);
  expect(reencryption.copy({ ...range, sourceOffset: 2 ** 20, firstPage: 3 })).toEqual([3]);
});

test("a page that the disk returns changed is an error", async () => {
  const path = await copyOfFixture("sqlcipher4-schema2.db");
  const key = await keyOf(path, fixturePassphrases["sqlcipher4-schema2.db"]);
  await using source = await open(path);
  const range = { source: source.fd, sourceOffset: 0, firstPage: 1, pages: 1 };
  // What is written there is gone, and zeros are read.
  const target = openSync("/dev/zero", "r+");
  expect(() => new PageReencryption(key, key).copy({ ...range, target })).toThrow(
    expect.objectContaining({ kind: "corrupted", message: "page 1 was not written correctly" }),
  );
});
