import { createHash, createHmac, pbkdf2Sync } from "node:crypto";
import { appendFile, open, truncate } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { sha256File } from "../../src/fs/read.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { ClientStore } from "../../src/store/client-store.js";
import { findIntegrityErrors } from "../../src/store/integrity.js";
import {
  findPageErrors,
  isReadByIntegrityCheck,
  type PageCheck,
} from "../../src/store/page-integrity.js";
import { proving } from "../prove-report.js";
import { copyOfFixture, fixturePassphrases, temporaryFolder } from "./temporary.js";

const fixture = "sqlcipher4-schema2.db";
const pageBytes = 4096;

async function keyOf(path: string) {
  const { connection, key } = await openEncrypted(path, fixturePassphrases[fixture], {
    mode: "readonly",
  });
  await connection.close();
  return key;
}

/** SQLite stores nothing in the page at this offset. */
const lockOffset = 2 ** 30;
/** In scripts/test a fifth of the file: hashing 4 GiB takes twenty seconds. */
const bounds = proving ? [2 ** 32] : [lockOffset + 2 * pageBytes];

test.each(bounds)(
  "pages are looked for where they are, also beyond %i bytes, and the page that SQLite locks holds nothing",
  async (bound) => {
    const path = await copyOfFixture(fixture);
    const key = await keyOf(path);
    const hmacKey = pbkdf2Sync(
      key.key,
      key.salt.map((byte) => byte ^ 0x3a),
      2,
      32,
      "sha512",
    );
    const sealed = (number: number) => {
      const page = Buffer.alloc(pageBytes, number);
      const counted = Buffer.alloc(4);
      counted.writeUInt32LE(number);
      const hmac = createHmac("sha512", hmacKey).update(page.subarray(0, 4032)).update(counted);
      hmac.digest().copy(page, 4032);
      return page;
    };
    const beyond = bound / pageBytes;
    await using file = await open(path, "r+");
    const { size } = await file.stat();
    // Holes between them, in which no page is sealed: only what is at the bounds of the counting is
    // looked at.
    const numbers = [beyond, beyond + 1, beyond + 2];
    for (const number of numbers) {
      await file.write(sealed(number), 0, pageBytes, (number - 1) * pageBytes);
    }
    const bad = new Set(await findPageErrors(path, key));
    const isBad = (number: number) => bad.has(`HMAC verification failed for page ${number}`);
    expect(numbers.filter(isBad)).toEqual([]);
    expect(isBad(lockOffset / pageBytes)).toBe(true);
    expect(isBad(lockOffset / pageBytes + 1)).toBe(false);
    expect(bad.size).toBe(beyond + 2 - size / pageBytes - numbers.length - 1);
  },
);

test("the lock page is checked if SQLite reads the others", async () => {
  const path = await copyOfFixture(fixture);
  const key = await keyOf(path);
  const at = lockOffset;
  const errorsOf = (check: PageCheck) => findPageErrors(path, key, check);
  // Reads nothing after the page: not even an incomplete page is noticed.
  await truncate(path, at + 2 * pageBytes + 5);
  expect(await errorsOf({ onlyLockPage: true })).toEqual([]);
  await truncate(path, at + 2 * pageBytes);
  expect(await errorsOf({ onlyLockPage: true })).toEqual([]);
  await using file = await open(path, "r+");
  await file.write(Buffer.alloc(1, 1), 0, 1, at);
  const errors = [`HMAC verification failed for page ${at / pageBytes + 1}`];
  expect(await errorsOf({ onlyLockPage: true })).toEqual(errors);
  expect(await errorsOf({ onlyLockPage: true, hash: createHash("sha256") })).toEqual(errors);
});

const readonly = { mode: "readonly", immutable: true } as const;

/** A store with rows on one page and on lists of overflow pages, and with large trees. */
async function storeOfManyPages() {
  const path = join(await temporaryFolder(), "clients.db");
  const store = await ClientStore.create(path, "passphrase");
  const clients = Array.from({ length: 300 }, (_, index) =>
    newClient({
      client_id: index + 1,
      api_key: `key ${index}`.padEnd(200, "k"),
      description: "d".repeat(index % 3 === 0 ? 10_000 : 300),
    }),
  );
  await store.addItems(clients);
  return { path, store };
}

test("SQLite reads every page of a database without free pages: each one that is altered is found", async () => {
  const { path, store } = await storeOfManyPages();
  await store.close();
  const { connection, key } = await openEncrypted(path, "passphrase", readonly);
  expect(await isReadByIntegrityCheck(connection)).toBe(true);
  expect(await findIntegrityErrors(connection)).toEqual([]);
  await connection.close();
  await using file = await open(path, "r+");
  const pages = (await file.stat()).size / pageBytes;
  expect(pages).toBeGreaterThan(300);
  const page = Buffer.alloc(pageBytes);
  const alterations: ((altered: Buffer) => Buffer)[] = [
    (altered) => altered.fill((altered[100] ?? 0) ^ 1, 100, 101),
    (altered) => altered.fill(0),
  ];
  const missed: number[] = [];
  for (let number = 2; number <= pages; number++) {
    const at = (number - 1) * pageBytes;
    await file.read(page, 0, pageBytes, at);
    for (const alter of alterations) {
      await file.write(alter(Buffer.from(page)), 0, pageBytes, at);
      const altered = (await openEncrypted(path, key, readonly)).connection;
      if (!(await isReadByIntegrityCheck(altered))) throw new Error("it is read only in part");
      const found = await findIntegrityErrors(altered).catch((error) => [String(error)]);
      if (found.length === 0) missed.push(number);
      await altered.close();
    }
    await file.write(page, 0, pageBytes, at);
  }
  expect(missed).toEqual([]);
});

test.each([
  ["a free page", "DELETE FROM clients WHERE client_id > 200"],
  ["auto-vacuum", "PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = FULL; VACUUM"],
])("with %s, SQLite does not read or authenticate every page", async (_what, sql) => {
  const { path, store } = await storeOfManyPages();
  await store.connection.exec(sql);
  await store.close();
  await using read = (await openEncrypted(path, "passphrase", readonly)).connection;
  expect(await isReadByIntegrityCheck(read)).toBe(false);
});

test("bytes after the last page are not read by SQLite", async () => {
  const { path, store } = await storeOfManyPages();
  await store.close();
  await appendFile(path, Buffer.alloc(pageBytes));
  await using read = (await openEncrypted(path, "passphrase", readonly)).connection;
  expect(await isReadByIntegrityCheck(read)).toBe(false);
});

test("a page of zeros, and a last one that is not whole, are found", async () => {
  const path = await copyOfFixture(fixture);
  const key = await keyOf(path);
  expect(await findPageErrors(path, key)).toEqual([]);
  await using file = await open(path, "r+");
  const { size } = await file.stat();
  await file.write(Buffer.alloc(pageBytes + 5), 0, pageBytes + 5, size);
  expect(await findPageErrors(path, key)).toEqual([
    "the last page has 5 bytes of 4096",
    `HMAC verification failed for page ${size / pageBytes + 1}`,
  ]);
});

test("a file that is not there is an I/O error", async () => {
  const key = await keyOf(await copyOfFixture(fixture));
  const gone = join(await temporaryFolder(), "gone.db");
  await expect(findPageErrors(gone, key)).rejects.toMatchObject({ kind: "io" });
});

test("the hash is that of the whole file, with its bad pages and a last one that is not whole", async () => {
  const path = await copyOfFixture(fixture);
  const key = await keyOf(path);
  const file = await open(path, "r+");
  const { size } = await file.stat();
  await file.write(Buffer.alloc(pageBytes), 0, pageBytes, pageBytes);
  await file.write(Buffer.alloc((1 << 20) + 100, 1), 0, (1 << 20) + 100, size);
  await file.close();
  const hash = createHash("sha256");
  expect(await findPageErrors(path, key, { hash })).toHaveLength(1 + (1 << 20) / pageBytes + 1);
  expect(hash.digest("hex")).toBe(await sha256File(path));
});
