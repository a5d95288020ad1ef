import { execFileSync } from "node:child_process";
import { chmod, copyFile, readFile, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import {
  backupPath,
  findNewestBackup,
  formatManifest,
  type Manifest,
  manifestPath,
  readManifest,
  signManifest,
  verifyManifestMac,
} from "../../src/backup/manifest.js";
import { type Verification, verifyBackup } from "../../src/backup/verify.js";
import { StoreError } from "../../src/errors.js";
import { setEntry } from "../../src/keys/keyring.js";
import { deriveKey, keyIdOf, openEncrypted } from "../../src/store/cipher.js";
import {
  copyOfFixture,
  fixturePassphrases,
  fixtures,
  temporaryFolder,
} from "../store/temporary.js";
import { filesIn, hubOf, hubStore, resultOf, runJob, testPassphrase } from "./hub.js";

const secret = { passphrase: testPassphrase };

async function backupOf(clients = 50) {
  const hub = await hubStore(clients);
  const { backup } = resultOf(await runJob(hub, { service: { service: "none" } }));
  return { hub, ...backup };
}

function failed({ checks }: Verification): string[] {
  return checks.filter(({ ok }) => !ok).map(({ name }) => name);
}

async function kindOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "done",
    (error: unknown) => (error instanceof StoreError ? error.kind : String(error)),
  );
}

async function rewrite(path: string, change: (manifest: Manifest) => unknown): Promise<void> {
  const manifest = JSON.parse(await readFile(path, "utf8"));
  await writeFile(path, JSON.stringify(change(manifest)));
}

test("a backup as it was made is ok, by every check, and verifying leaves and changes nothing", async () => {
  const { path, hub } = await backupOf();
  const before = await readFile(path);
  const files = filesIn(hub.to);
  await chmod(path, 0o400);
  await chmod(hub.to, 0o500);
  const verified = await verifyBackup(path, secret);
  expect(failed(verified)).toEqual([]);
  expect(verified).toMatchObject({ path, ok: true });
  expect(verified.checks.map(({ name }) => name)).toEqual([
    ...["manifest", "file", "size", "sha256", "encrypted", "key_id"],
    ...["opens", "mac", "pages", "structure", "clients", "schema"],
  ]);
  expect(filesIn(hub.to)).toEqual(files);
  expect((await readFile(path)).equals(before)).toBe(true);
  await chmod(hub.to, 0o700);
});

test("the passphrase may come from what is kept for the store", async () => {
  const { path, hub } = await backupOf();
  await setEntry(hub.path, "current", testPassphrase);
  const kept = { source: { kind: "keyring" }, storePath: hub.path } as const;
  expect(await verifyBackup(path, kept)).toMatchObject({ ok: true });
  const storePath = join(hub.folder, "link.db");
  await symlink(hub.path, storePath);
  expect(await verifyBackup(path, { ...kept, storePath })).toMatchObject({ ok: true });
});

test("a passphrase that is another's is that, and no damage", async () => {
  const { path } = await backupOf();
  expect(await kindOf(verifyBackup(path, { passphrase: "another's" }))).toBe("wrongPassphrase");
});

test("a backup that nothing kept opens is said to need its bundle, by name, whether others are kept or none", async () => {
  const { path, hub, keyId } = await backupOf();
  const kept = { source: { kind: "keyring" }, storePath: hub.path } as const;
  const hint = expect.stringContaining(`--bundle clients.${keyId}.bundle.age --identity `);
  await expect(verifyBackup(path, kept)).rejects.toMatchObject({
    kind: "passphraseUnavailable",
    hint,
  });
  await setEntry(hub.path, "current", "another's");
  await expect(verifyBackup(path, kept)).rejects.toMatchObject({ kind: "wrongPassphrase", hint });
});

test("one changed bit anywhere in the file is found by its sum and by the pages themselves", async () => {
  const { path } = await backupOf();
  const original = await readFile(path);
  await fc.assert(
    fc.asyncProperty(fc.nat(original.length - 1), fc.nat(7), async (at, bit) => {
      const damaged = Buffer.from(original);
      damaged.writeUInt8(damaged.readUInt8(at) ^ (1 << bit), at);
      await writeFile(path, damaged);
      const found = failed(await verifyBackup(path, secret));
      expect(found).toContain("sha256");
      // The salt's first half names the key; without the right salt nothing opens.
      expect(found.filter((name) => name !== "sha256")).not.toEqual([]);
    }),
    { numRuns: 12 },
  );
});

test("a file that was cut off, at a page or within one, or replaced, is not ok", async () => {
  const { path, size } = await backupOf();
  const original = await readFile(path);
  for (const length of [size - 4096, size - 100, 4096, 512, 100, 0]) {
    await truncate(path, length);
    const verified = await verifyBackup(path, secret);
    expect(verified.ok).toBe(false);
    expect(failed(verified)).toContain("size");
    await writeFile(path, original);
  }
  await copyFile(join(fixtures, "plain-schema2.db"), path);
  expect(failed(await verifyBackup(path, secret))).toContain("encrypted");
  await writeFile(path, "no database, but text".repeat(500));
  expect((await verifyBackup(path, secret)).ok).toBe(false);
});

test("a backup of another store in its place is not ok, also with the passphrase in common", async () => {
  const [one, other] = [await backupOf(50), await backupOf(51)];
  await copyFile(other.path, one.path);
  const found = failed(await verifyBackup(one.path, secret));
  expect(found).toEqual(expect.arrayContaining(["sha256", "key_id", "mac"]));
});

test("every change to a manifest is found", async () => {
  const { path, manifest } = await backupOf();
  const changes: Partial<Record<keyof Manifest, unknown>> = {
    created_at: "2020-01-01T00:00:00Z",
    hostname: "elsewhere",
    unit: "other",
    method: "online",
    clients: { active: 49, revoked: 0 },
    schema_version: 1,
    page_size: 1024,
    cipher_compatibility: 3,
    mac: "0".repeat(64),
  };
  for (const [key, value] of Object.entries(changes)) {
    await rewrite(manifest, (made) => ({ ...made, [key]: value }));
    expect(failed(await verifyBackup(path, secret)), key).toContain("mac");
  }
});

test("an older state of the store in place of a newer one is found, also with a manifest made to fit", async () => {
  const { path, hub } = await backupOf();
  const { connection } = await openEncrypted(hub.path, testPassphrase, { mode: "readwrite" });
  await connection.run("UPDATE clients SET api_key = 'revoked' WHERE client_id = 7");
  await connection.close();
  const { backup } = resultOf(await runJob(hub, { service: { service: "none" } }));
  expect(await verifyBackup(backup.path, secret)).toMatchObject({ ok: true });
  await copyFile(path, backup.path);
  const { size, sha256, clients } = await readManifest(manifestPath(path));
  await rewrite(backup.manifest, (made) => ({ ...made, size, sha256, clients }));
  expect(failed(await verifyBackup(backup.path, secret))).toEqual(["mac"]);
});

test("without a manifest, or with what is none, a backup is not ok though all else holds", async () => {
  const { path, manifest } = await backupOf();
  for (const text of [
    "",
    "{}",
    "[1]",
    "null",
    '{"format":"hivemind-sqlcipher backup","version":1}',
  ]) {
    await writeFile(manifest, text);
    expect(failed(await verifyBackup(path, secret))).toEqual(["manifest"]);
  }
  await rm(manifest);
  expect(failed(await verifyBackup(path, secret))).toEqual(["manifest"]);
});

test("a manifest of a newer version, and no file at all, are told apart", async () => {
  const { path, manifest } = await backupOf();
  await rewrite(manifest, (made) => ({ ...made, version: 2, more: true }));
  expect(await kindOf(verifyBackup(path, secret))).toBe("newerVersion");
  expect(await kindOf(verifyBackup(`${path}.none`, secret))).toBe("notFound");
  expect(await kindOf(verifyBackup(dirname(path), secret))).toBe("refused");
});

test("a renamed backup whose manifest came along is noticed", async () => {
  const { path, manifest, hub } = await backupOf();
  const renamed = join(hub.to, "renamed.db");
  await copyFile(path, renamed);
  await copyFile(manifest, manifestPath(renamed));
  expect(failed(await verifyBackup(renamed, secret))).toEqual(["file"]);
});

test("a backup of format 3 is verified, page by page, as one of format 4 is", async () => {
  const name = "sqlcipher3-schema2.db";
  const store = await copyOfFixture(name);
  const hub = await hubOf(dirname(store), store, fixturePassphrases[name]);
  const { backup } = resultOf(await runJob(hub, { service: { service: "none" } }));
  const passphrase = fixturePassphrases[name];
  expect(await verifyBackup(backup.path, { passphrase })).toMatchObject({ ok: true });
  const bytes = await readFile(backup.path);
  bytes.writeUInt8(bytes.readUInt8(bytes.length - 700) ^ 1, bytes.length - 700);
  await writeFile(backup.path, bytes);
  expect(failed(await verifyBackup(backup.path, { passphrase }))).toEqual(
    expect.arrayContaining(["sha256", "pages"]),
  );
});

test("a manifest's seal is HMAC-SHA256 over its canonical JSON, as another program computes it", async () => {
  const key = await deriveKey("passphrase", Buffer.alloc(16, 7), 4);
  const manifest = signManifest(
    {
      created_at: "2026-11-24T18:50:00.000Z",
      file: "clients.2026-11-24T18-50-00Z.db",
      size: 4096,
      sha256: "ab".repeat(32),
      key_id: keyIdOf(key.salt),
      cipher_compatibility: 4,
      schema_version: 2,
      clients: { active: 3, revoked: 1 },
      page_size: 4096,
      hostname: "küche",
      unit: null,
      method: "stopped",
    },
    key,
  );
  const program = `
import hmac, json, sys
manifest = json.loads(sys.argv[1]); key = bytes.fromhex(sys.argv[2]); salt = bytes.fromhex(sys.argv[3])
mac = manifest.pop("mac")
extracted = hmac.digest(salt, key, "sha256")
derived = hmac.digest(extracted, b"hivemind-sqlcipher manifest" + b"\\x01", "sha256")
text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
print(hmac.digest(derived, text, "sha256").hex() == mac)`;
  const said = execFileSync("python3", [
    ...["-c", program, formatManifest(manifest)],
    ...[key.key.toString("hex"), key.salt.toString("hex")],
  ]);
  expect(said.toString().trim()).toBe("True");
  expect(verifyManifestMac(manifest, key)).toBe(true);
  expect(verifyManifestMac(manifest, await deriveKey("other", key.salt, 4))).toBe(false);
});

test("a backup is named by its store and second, and its manifest by the backup", async () => {
  const path = backupPath("/b", "/home/a/hub.two.db", new Date("2026-11-24T18:50:00.999Z"));
  expect(path).toBe("/b/hub.two.2026-11-24T18-50-00Z.db");
  expect(manifestPath(path)).toBe("/b/hub.two.2026-11-24T18-50-00Z.manifest.json");
});

test("the newest backup of a store is the one whose manifest says so, and other stores' do not count", async () => {
  const folder = await temporaryFolder();
  expect(await findNewestBackup(join(folder, "none"), "/a/clients.db")).toBeUndefined();
  expect(await findNewestBackup(folder, "/a/clients.db")).toBeUndefined();
  const key = await deriveKey("passphrase", Buffer.alloc(16, 7), 4);
  for (const [name, second] of [
    ["clients", 1],
    ["clients", 3],
    ["clients", 2],
    ["other", 9],
  ] as const) {
    const path = backupPath(folder, `${name}.db`, new Date(second * 1000));
    await writeFile(path, "");
    const manifest = signManifest(
      {
        created_at: new Date(second * 1000).toISOString(),
        file: path.slice(folder.length + 1),
        size: 0,
        sha256: "ab".repeat(32),
        key_id: keyIdOf(key.salt),
        cipher_compatibility: 4,
        schema_version: 2,
        clients: { active: 0, revoked: 0 },
        page_size: 4096,
        hostname: "h",
        unit: null,
        method: "stopped",
      },
      key,
    );
    await writeFile(manifestPath(path), formatManifest(manifest));
  }
  expect(await findNewestBackup(folder, "/a/clients.db")).toEqual({
    path: backupPath(folder, "clients.db", new Date(3000)),
    createdAt: new Date(3000).toISOString(),
  });
  expect((await findNewestBackup(folder, "/a/clients.db", new Date(2500)))?.createdAt).toBe(
    new Date(2000).toISOString(),
  );
  expect((await findNewestBackup(folder, "/a/clients.db", new Date(2000)))?.createdAt).toBe(
    new Date(2000).toISOString(),
  );
  expect(await findNewestBackup(folder, "/a/clients.db", new Date(500))).toBeUndefined();
  await rm(backupPath(folder, "clients.db", new Date(3000)));
  expect((await findNewestBackup(folder, "/a/clients.db"))?.createdAt).toBe(
    new Date(2000).toISOString(),
  );
  expect(
    await readManifest(manifestPath(backupPath(folder, "other.db", new Date(9000)))),
  ).toBeTruthy();
});
