/** `init --adopt` of a store that another program wrote with other SQLCipher parameters. */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { beforeEach, expect, test } from "vitest";
import { ClientStore } from "../../src/store/client-store.js";
import { Connection } from "../../src/store/connection.js";
import { createSchema } from "../../src/store/schema.js";
import { Machine } from "./machine.js";

const passphrase = "of another program";
const salt = "00112233445566778899aabbccddeeff";
let machine: Machine;

beforeEach(async () => {
  machine = await Machine.make();
  await mkdir(dirname(machine.store), { recursive: true });
  await mkdir(machine.path("bundles"));
});

async function write(pragmas: readonly string[], key = passphrase): Promise<void> {
  await using connection = await Connection.open(machine.store, { mode: "create" });
  await connection.all(`PRAGMA key = "${key}"`);
  for (const pragma of pragmas) await connection.all(`PRAGMA ${pragma}`);
  await createSchema(connection, 0);
  await connection.run("INSERT INTO clients (client_id, api_key, name) VALUES (1, 'k', 'kitchen')");
  await writeFile(machine.path("passphrase"), `${key}\n`, { mode: 0o600 });
}

function adopt(...options: string[]) {
  return machine.run([
    ...["init", "--adopt", "--service", "none", "--hub", "none"],
    ...["--passphrase-file", machine.path("passphrase"), "--bundle-to", machine.path("bundles")],
    ...["--recovery-key-file", machine.path(`key.${Math.random()}.txt`), ...options],
  ]);
}

async function clients() {
  return (await machine.json("list-clients")).document.clients;
}

test.each([
  ["kdf_iter=64000", ["kdf_iter = 64000"]],
  ["compatibility=2", ["cipher_compatibility = 2"]],
])(
  "%s is found, named with the way to export, and adopted under the defaults",
  async (settings, pragmas) => {
    await write(pragmas);
    const refused = await adopt();
    expect([refused.code, refused.stderr]).toEqual([
      17,
      expect.stringMatching(
        new RegExp(`--adopt --cipher-settings ${settings}[\\s\\S]*sqlcipher_export`),
      ),
    ]);
    const adopted = await adopt("--cipher-settings", settings);
    expect([adopted.code, adopted.stderr]).toEqual([0, expect.any(String)]);
    expect(await clients()).toMatchObject([{ client_id: 1, name: "kitchen" }]);
    // The hub's own library opens it with the same password, at its defaults.
    await using store = await ClientStore.open(machine.store, passphrase);
    expect(store.key.cipherCompatibility).toBe(4);
    expect(store.schemaVersion).toBe(0);
  },
);

test("a plaintext header is named by every command, and adopted with its salt", async () => {
  await write(["cipher_plaintext_header_size = 32", `cipher_salt = "x'${salt}'"`]);
  for (const args of [
    ["list-clients"],
    [
      ...["encrypt", "--service", "none", "--hub", "none"],
      ...["--bundle-to", machine.path("bundles")],
      ...["--recovery-key-file", machine.path("key.txt")],
    ],
    ["verify", machine.store],
  ]) {
    const { code, stderr } = await machine.run(args);
    expect([args[0], code, stderr]).toEqual([
      args[0],
      17,
      expect.stringMatching(
        /plaintext header[\s\S]*--adopt --cipher-settings[\s\S]*sqlcipher_export/,
      ),
    ]);
  }
  const { stdout } = await machine.run(["doctor"]);
  expect(stdout).toMatch(/ERROR +store .*plaintext header.*\n +fix: Adopt it with the salt/);
  const refused = await adopt();
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringMatching(/plaintext header[\s\S]*plaintext_header_size=32,salt=SALT/),
  ]);
  const adopted = await adopt("--cipher-settings", `plaintext_header_size=32,salt=${salt}`);
  expect([adopted.code, adopted.stderr]).toEqual([0, expect.any(String)]);
  expect(await clients()).toMatchObject([{ client_id: 1 }]);
});

test("a raw key is replaced by a passphrase", async () => {
  await write([], `x'${"0b".repeat(32)}'`);
  const refused = await adopt();
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringMatching(/--cipher-settings compatibility=4/),
  ]);
  expect(refused.stderr + refused.stdout).not.toContain("0b0b");
  expect((await adopt("--cipher-settings", "compatibility=4")).code).toBe(0);
  expect(await clients()).toMatchObject([{ client_id: 1 }]);
});

test("a wrong passphrase is one, with the way to export; the store stays as it is", async () => {
  await write(["kdf_iter = 12345"]);
  const wrong = await adopt();
  expect([wrong.code, wrong.stderr]).toEqual([
    12,
    expect.stringMatching(/wrong passphrase[\s\S]*--cipher-settings[\s\S]*sqlcipher_export/),
  ]);
  expect((await adopt("--cipher-settings", "kdf_iter=54321")).code).toBe(12);
  expect((await adopt("--cipher-settings", "kdf_iter=12345")).code).toBe(0);
  expect(await clients()).toMatchObject([{ client_id: 1 }]);
});

test.each([
  [["--cipher-settings", "rounds=1"], /unknown cipher setting "rounds"/],
  [["--cipher-settings", "kdf_iter=64000", "--remove-password"], /cannot be combined/],
])("%j is refused", async (options, message) => {
  await write([]);
  const { code, stderr } = await adopt(...options);
  expect([code, stderr]).toEqual([2, expect.stringMatching(message)]);
});

test.each([
  ["--cipher-settings", ["kdf_iter=1"]],
  ["--remove-password", []],
  ["--schema-version", ["0", "--adopt"]],
  ["--cipher-compatibility", ["3", "--adopt"]],
])("%s is refused where it would have no effect", async (flag, more) => {
  const { code, stderr } = await machine.run(["init", flag, ...more]);
  expect([code, stderr]).toEqual([2, expect.stringMatching(`${flag} (applies only to|cannot)`)]);
});
