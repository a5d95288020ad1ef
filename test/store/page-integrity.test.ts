import { createHash, createHmac, pbkdf2Sync } from "node:crypto";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { sha256File } from "../../src/fs/read.js";
import { openEncrypted } from "../../src/store/cipher.js";
import { findPageErrors } from "../../src/store/page-integrity.js";
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
  expect(await findPageErrors(path, key, hash)).toHaveLength(1 + (1 << 20) / pageBytes + 1);
  expect(hash.digest("hex")).toBe(await sha256File(path));
});
