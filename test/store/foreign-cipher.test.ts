/** Databases that SQLCipher wrote with other parameters than this project's. */
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { createEncrypted, identify, openEncrypted, type StoreKey } from "../../src/store/cipher.js";
import {
  exportCommands,
  exportPragmas,
  formatCipherSettings,
  formatParameters,
  parseCipherSettings,
} from "../../src/store/cipher-settings.js";
import { Connection } from "../../src/store/connection.js";
import { exportStore, verifyExport } from "../../src/store/export.js";
import { openForeign, probeParameters } from "../../src/store/foreign-cipher.js";
import { LockedStore } from "../../src/store/locked-store.js";
import { createSchema } from "../../src/store/schema.js";
import { temporaryFolder } from "./temporary.js";

const passphrase = "of another 'program'";
const rawKey = `x'${"0a".repeat(32)}'`;
const salt = "00112233445566778899aabbccddeeff";

let path: string;

beforeEach(async () => {
  path = join(await temporaryFolder(), "clients.db");
});

/** Writes a store with pragmas of SQLCipher's own, as another program would. */
async function write(pragmas: readonly string[], key = passphrase): Promise<void> {
  await using connection = await Connection.open(path, { mode: "create" });
  await connection.all(`PRAGMA key = "${key}"`);
  for (const pragma of pragmas) await connection.all(`PRAGMA ${pragma}`);
  await createSchema(connection, 2);
  await connection.run("INSERT INTO clients (client_id, api_key, metadata) VALUES (1, 'k', '{}')");
  await connection.get("PRAGMA journal_mode = WAL");
}

const header = ["cipher_plaintext_header_size = 32", `cipher_salt = "x'${salt}'"`];

const written: [settings: string, pragmas: string[]][] = [
  ["compatibility=1", ["cipher_compatibility = 1"]],
  ["compatibility=2", ["cipher_compatibility = 2"]],
  ["kdf_iter=64000", ["kdf_iter = 64000"]],
  ["page_size=8192", ["cipher_page_size = 8192"]],
  ["use_hmac=OFF", ["cipher_use_hmac = OFF"]],
  [
    "kdf_iter=100000,kdf_algorithm=PBKDF2_HMAC_SHA256,hmac_algorithm=HMAC_SHA256",
    [
      "kdf_iter = 100000",
      "cipher_kdf_algorithm = PBKDF2_HMAC_SHA256",
      "cipher_hmac_algorithm = HMAC_SHA256",
    ],
  ],
];

test.each(written)(
  "%s: is told apart from a wrong passphrase, and opens",
  async (settings, pragmas) => {
    await write(pragmas);
    await expect(openEncrypted(path, passphrase, { mode: "readonly" })).rejects.toMatchObject({
      kind: "wrongPassphrase",
      hint: expect.stringMatching(/other SQLCipher parameters/),
    });
    const found = await probeParameters(path, passphrase);
    expect(found && formatCipherSettings(found)).toBe(settings);
    expect(await probeParameters(path, "wrong")).toBeUndefined();
    const parameters = parseCipherSettings(settings);
    expect(formatCipherSettings(parameters)).toBe(settings);
    await using opened = (await openForeign(path, passphrase, parameters)).connection;
    expect(await opened.get("SELECT api_key FROM clients")).toEqual({ api_key: "k" });
    await expect(openForeign(path, "wrong", parameters)).rejects.toMatchObject({
      kind: "wrongPassphrase",
    });
  },
);

test.each<[string, string, string[], string]>([
  ["with a plaintext header", `plaintext_header_size=32,salt=${salt}`, header, passphrase],
  ["of format 2", "compatibility=2", ["cipher_compatibility = 2"], passphrase],
  [
    "with few rounds and large pages",
    "kdf_iter=4000,page_size=16384",
    ["kdf_iter = 4000", "cipher_page_size = 16384"],
    passphrase,
  ],
  ["under a raw key", "kdf_iter=256000", [], rawKey],
])("a store %s is exported to the defaults, row for row", async (_what, settings, pragmas, key) => {
  await write(pragmas, key);
  const { connection, key: secret } = await openForeign(path, key, parseCipherSettings(settings));
  await connection.close();
  const staged = `${path}.staged`;
  const made = await createEncrypted(staged, "the next passphrase");
  await made.connection.close();
  const store = await LockedStore.lock(path, secret);
  await exportStore(store, staged, made.key);
  await verifyExport(store, staged, made.key, new AbortController().signal);
  await store.unlock();
  await using opened = (await openEncrypted(staged, "the next passphrase", { mode: "readonly" }))
    .connection;
  expect(await opened.get("SELECT api_key FROM clients")).toEqual({ api_key: "k" });
  // Nothing of the other database's parameters is left in the process.
  const another = await createEncrypted(`${path}.another`, "one more");
  await another.connection.close();
  expect((await readFile(`${path}.another`)).length % 4096).toBe(0);
  expect(await settingsOf(another.key, `${path}.another`)).toContain("kdf_iter = 256000");
});

async function settingsOf(key: StoreKey, file: string): Promise<string> {
  await using connection = (await openEncrypted(file, key, { mode: "readonly" })).connection;
  return JSON.stringify(await connection.all("PRAGMA cipher_settings"));
}

describe("a plaintext header", () => {
  test.each([16, 32])("of %i bytes is not taken for a plaintext database", async (size) => {
    await write([`cipher_plaintext_header_size = ${size}`, header[1] ?? ""]);
    expect(await identify(path)).toEqual({ format: "sqlcipher", size: expect.any(Number) });
    await expect(openEncrypted(path, passphrase, { mode: "readonly" })).rejects.toMatchObject({
      kind: "refused",
      message: expect.stringMatching(/plaintext header/),
      hint: expect.stringMatching(
        /--cipher-settings plaintext_header_size=32,salt=SALT[\s\S]*cipher_salt/,
      ),
    });
    const settings = parseCipherSettings(`plaintext_header_size=${size},salt=${salt}`);
    await using opened = (await openForeign(path, passphrase, settings)).connection;
    expect(await opened.get("SELECT api_key FROM clients")).toEqual({ api_key: "k" });
  });

  test("is not taken for a damaged plaintext database if its format number is supported", async () => {
    await write(header);
    const bytes = await readFile(path);
    // SQLite reads the lowest byte of the number.
    bytes[47] = 4;
    bytes.writeUInt32BE(1_500_000_000, 36);
    await writeFile(path, bytes);
    expect(await identify(path)).toMatchObject({ format: "sqlcipher" });
  });

  test("is not seen in a damaged plaintext database", async () => {
    await using connection = await Connection.open(path, { mode: "create" });
    await createSchema(connection, 2);
    await connection.close();
    const bytes = await readFile(path);
    bytes.fill(0xaa, 100, 300);
    await writeFile(path, bytes);
    expect(await identify(path)).toMatchObject({ format: "plaintext" });
  });

  test("is not seen in a truncated plaintext database", async () => {
    await using connection = await Connection.open(path, { mode: "create" });
    await createSchema(connection, 2);
    await connection.exec("CREATE TABLE more (text)");
    for (let row = 0; row < 200; row++) {
      await connection.run("INSERT INTO more VALUES (?)", ["x".repeat(500)]);
    }
    await connection.close();
    const bytes = await readFile(path);
    await writeFile(path, bytes.subarray(0, 8192));
    expect(await identify(path)).toMatchObject({ format: "plaintext" });
  });

  test("is not seen in a plaintext database, which identify leaves without sidecars", async () => {
    await using connection = await Connection.open(path, { mode: "create" });
    await createSchema(connection, 2);
    await connection.close();
    expect(await identify(path)).toMatchObject({ format: "plaintext" });
    await expect(readFile(`${path}-shm`)).rejects.toThrow("ENOENT");
  });
});

test("the commands that are advised export the store", async () => {
  await write(["kdf_iter = 64000"]);
  const parameters = parseCipherSettings("kdf_iter=64000");
  const text = exportCommands(path, exportPragmas(parameters));
  const [program, ...statements] = text.split("\n").map((line) => line.trim());
  expect(program).toBe(`sqlcipher '${path}'`);
  await using connection = await Connection.open(path, { mode: "create" });
  const version = "2";
  for (const statement of statements) {
    const sql = statement
      .replaceAll("'PASSPHRASE'", `'${passphrase.replaceAll("'", "''")}'`)
      .replace("NUMBER", version);
    await connection.all(sql);
  }
  await using opened = (await openEncrypted(`${path}.new`, passphrase, { mode: "readonly" }))
    .connection;
  expect(await opened.get("SELECT api_key FROM clients")).toEqual({ api_key: "k" });
  expect(await opened.get("PRAGMA user_version")).toEqual({ user_version: 2 });
  await rm(`${path}.new`);
});

test.each([
  ["kdf_iters=1", /unknown cipher setting "kdf_iters"/],
  ["kdf_iter=", /invalid value for the cipher setting kdf_iter: ""/],
  ["kdf_iter=-1", /kdf_iter/],
  ["page_size=1000", /page_size/],
  ["compatibility=5", /compatibility/],
  ["hmac_algorithm=MD5", /hmac_algorithm/],
  ["use_hmac=maybe", /use_hmac/],
  ["plaintext_header_size=32", /needs its salt/],
  ["plaintext_header_size=32,salt=00", /salt/],
  ["", /unknown cipher setting ""/],
])("settings that cannot be are refused: %s", (settings, message) => {
  expect(() => parseCipherSettings(settings)).toThrow(message);
  expect(() => parseCipherSettings(settings)).toThrow(expect.objectContaining({ kind: "usage" }));
});

test("settings are read in any order and case, over the defaults of a format", () => {
  expect(parseCipherSettings("kdf_iter=5, compatibility=3")).toEqual({
    ...formatParameters[3],
    kdfIterations: 5,
    salt: undefined,
  });
  expect(parseCipherSettings("use_hmac=off,hmac_algorithm=hmac_sha256").hmacDigest).toBeUndefined();
});
