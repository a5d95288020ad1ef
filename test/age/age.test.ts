/**
 * What earlier versions wrote: each folder in test/fixtures/age is named after the commit whose
 * program wrote it (scripts/age-fixture.mjs), and holds some of the parts that are tried here.
 */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { chmod, cp, mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { manifestPath } from "../../src/backup/manifest.js";
import { findLastRestoreTests } from "../../src/backup/restore-test.js";
import { verifyBackup } from "../../src/backup/verify.js";
import { readBundle, writeBundle } from "../../src/bundle/bundle.js";
import {
  type Client,
  deserializeClient,
  eraseIfRevoked,
  serializeClient,
} from "../../src/client/client.js";
import { isJsonObject, parseJson } from "../../src/client/json.js";
import { loadSettings } from "../../src/config/settings-file.js";
import { bundleName } from "../../src/keys/bundle-name.js";
import { getEntry, listEntries } from "../../src/keys/keyring.js";
import { MigrationNote } from "../../src/migrate/note.js";
import { journalPath } from "../../src/operation/journal.js";
import { recoverIfNeeded } from "../../src/recovery/recover.js";
import { ClientStore } from "../../src/store/client-store.js";
import { findIntegrityErrors } from "../../src/store/integrity.js";
import { findPageErrors } from "../../src/store/page-integrity.js";
import { Machine } from "../cli/machine.js";
import { fixtures, temporaryFolder } from "../store/temporary.js";

const age = join(fixtures, "age");
const commits = readdirSync(age).filter((name) => statSync(join(age, name)).isDirectory());
const secret = (name: string) => readFileSync(join(age, name), "utf8").trim();
const passphrase = secret("passphrase.txt");
const nextPassphrase = secret("next-passphrase.txt");
const identityFile = join(age, "recovery-key.txt");
const identity = secret("recovery-key.txt");
const recipients = [/age1\w+/.exec(identity)?.[0] ?? ""];

/** The commits of which there is this part. */
function withPart(part: string): string[] {
  return commits.filter((commit) => readdirSync(join(age, commit)).includes(part));
}

/** A copy of a part in a folder of its own, with the modes that git does not keep. */
async function copyOf(commit: string, ...part: string[]): Promise<string> {
  const folder = join(await temporaryFolder(), "copy");
  await cp(join(age, commit, ...part), folder, { recursive: true });
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    await chmod(join(entry.parentPath, entry.name), entry.isDirectory() ? 0o700 : 0o600);
  }
  return folder;
}

function sampleClients(): Client[] {
  const records = parseJson(readFileSync(join(age, "clients.json"), "utf8"));
  return (records as unknown[]).filter(isJsonObject).map((record) => deserializeClient(record));
}

async function recordsIn(store: AsyncIterable<Client>): Promise<string[]> {
  const records: string[] = [];
  for await (const client of store) records.push(serializeClient(client));
  return records;
}

async function theOnly(folder: string, ending: string): Promise<string> {
  const [name = "", ...more] = (await readdir(folder)).filter((found) => found.endsWith(ending));
  expect(name).not.toBe("");
  expect(more).toEqual([]);
  return join(folder, name);
}

/** Whatever lists the fixtures must not come to list none. */
test("there is something of every part", () => {
  const parts = ["stores", "bundles", "settings", "keyring", "backups", "exports", "interrupted"];
  for (const part of [...parts, "migration", "rehearsal"]) expect(withPart(part)).not.toEqual([]);
});

describe.each(withPart("stores"))("stores of %s", (commit) => {
  test.each([
    ["clients.db", 4, 2],
    ["format-3.db", 3, 2],
    ["schema-0.db", 4, 0],
  ])("%s opens, holds every client as it was, and can be written", async (name, format, schema) => {
    const path = join(await copyOf(commit, "stores"), name);
    await using store = await ClientStore.open(path, passphrase);
    expect(store.key.cipherCompatibility).toBe(format);
    expect(store.schemaVersion).toBe(schema);
    expect(await recordsIn(store)).toEqual(sampleClients().map(serializeClient));
    const another = join(await copyOf(commit, "stores"), name);
    expect(await findPageErrors(another, store.key)).toEqual([]);
    expect(await findIntegrityErrors(store.connection)).toEqual([]);
    await store.updateClient(1, { name: "cellar" });
    expect((await store.getClientByApiKey("key of the first"))?.name).toBe("cellar");
  });
});

describe.each(withPart("bundles"))("bundles of %s", (commit) => {
  test.each([
    ["bundles", "clients.db"],
    ["bundles-3", "format-3.db"],
  ])("those in %s open with the recovery key, and their proof holds", async (name, storeName) => {
    const folder = await copyOf(commit, "bundles");
    const storePath = join(folder, storeName);
    const path = await theOnly(join(folder, name), ".age");
    await using store = await ClientStore.open(storePath, passphrase, { mode: "readonly" });
    const { key, keyId } = store;
    expect(await readBundle(path, { identity })).toMatchObject({
      key_id: keyId,
      passphrase,
      cipher_compatibility: key.cipherCompatibility,
    });
    const again = await writeBundle({
      ...{ directory: join(folder, name), storePath, passphrase, key, recipients },
    });
    expect(again).toMatchObject({ path, reused: true });
  });

  test("one under a passphrase opens with it, and its proof holds", async () => {
    const folder = await copyOf(commit, "bundles");
    const storePath = join(folder, "clients.db");
    const bundles = join(folder, "bundles-passphrase");
    const bundlePassphrase = secret("bundle-passphrase.txt");
    const path = await theOnly(bundles, ".age");
    expect(await readBundle(path, { passphrase: bundlePassphrase })).toMatchObject({ passphrase });
    await using store = await ClientStore.open(storePath, passphrase, { mode: "readonly" });
    const again = await writeBundle({
      ...{ directory: bundles, storePath, passphrase, key: store.key, recipients: [] },
      bundlePassphrase,
    });
    expect(again).toMatchObject({ path, reused: true });
  });
});

test.each(withPart("settings"))("settings of %s are read", async (commit) => {
  const folder = await copyOf(commit, "settings");
  const path = join(folder, "config.json");
  await fillIn(path, folder);
  expect(await loadSettings(path)).toEqual({
    store: { path: join(folder, "clients.db") },
    passphrase_source: "keyring",
    recipients,
    backup: { to: join(folder, "backups"), bundle_to: join(folder, "bundles") },
  });
});

test.each(withPart("keyring"))("keyring entries of %s are found", async (commit) => {
  const folder = await copyOf(commit, "keyring");
  await putIntoKeyring(join(folder, "keyring.json"), folder);
  const store = join(folder, "clients.db");
  expect(await getEntry(store, "current")).toBe(passphrase);
  const entries = await listEntries(store);
  expect(entries).toHaveLength(3);
  expect(entries).toEqual(
    expect.arrayContaining([
      { slot: "current", secret: passphrase },
      { slot: "pending", secret: "the pending one" },
      { slot: "previous:0123456789abcdef", secret: "a previous one" },
    ]),
  );
});

describe.each(withPart("backups"))("backups of %s", (commit) => {
  test.each(["backups", "backups-3"])("that in %s verifies and is restored", async (name) => {
    const machine = Machine.in(await copyOf(commit, "backups"));
    const backup = await theOnly(machine.path(name), ".db");
    const { ok, checks } = await verifyBackup(backup, { passphrase });
    expect(checks.filter((check) => !check.ok)).toEqual([]);
    expect(ok).toBe(true);

    const keyId = JSON.parse(await readFile(manifestPath(backup), "utf8")).key_id as string;
    const bundle = machine.path("bundles", `clients.${keyId}.bundle.age`);
    await mkdir(join(machine.store, ".."), { recursive: true });
    const { code, stderr } = await machine.run([
      ...["restore", backup, "--bundle", bundle, "--identity", identityFile],
      ...["--hub", "none", "--service", "none", "--yes"],
    ]);
    expect(stderr).not.toMatch(/^error/m);
    expect(code).toBe(0);
    expect(await getEntry(machine.store, "current")).toBe(passphrase);
    await using store = await ClientStore.open(machine.store, passphrase);
    expect(await recordsIn(store)).toEqual(sampleClients().map(serializeClient));
  });
});

describe.each(withPart("exports"))("exports of %s", (commit) => {
  test.each(["json", "csv"])("%s is imported", async (format) => {
    const folder = await copyOf(commit, "exports");
    const machine = Machine.in(folder);
    await machine.init("--bundle-to", machine.path("bundles"));
    const imported = await machine.run([
      ...["import-clients", machine.path(`clients-with-secrets.${format}`), "--yes"],
    ]);
    expect(imported).toMatchObject({ code: 0 });
    const { document } = await machine.json("list-clients", "--show-secrets", "--revoked");
    const records = document.clients as Client[];
    expect(records.map(withoutWhatCsvLacks)).toEqual(
      expect.arrayContaining(sampleClients().map(withoutWhatCsvLacks)),
    );
    const store = await ClientStore.open(
      machine.store,
      (await getEntry(machine.store, "current")) ?? "",
      { mode: "readonly" },
    );
    await using opened = store;
    if (format === "csv") return;
    expect(await recordsIn(opened)).toEqual(
      expect.arrayContaining(sampleClients().map(eraseIfRevoked).map(serializeClient)),
    );
  });
});

function withoutWhatCsvLacks({ client_id, name, is_admin, api_key }: Client) {
  return { client_id, name, is_admin, api_key };
}

test.each(withPart("migration"))("a migration begun by %s is known", async (commit) => {
  const folder = await temporaryFolder();
  await cp(join(age, commit, "migration"), join(folder, "hivemind-sqlcipher"), { recursive: true });
  vi.stubEnv("XDG_DATA_HOME", folder);
  const note = await MigrationNote.read(
    { name: "hivemind-json-db-plugin", place: "/srv/hive/clients.json" },
    { name: "hivemind-sqlcipher-db-plugin", place: "/srv/hive/clients.db" },
  );
  vi.unstubAllEnvs();
  expect(note?.path).toContain(folder);
});

test.each(withPart("rehearsal"))("a trial noted by %s is remembered", async (commit) => {
  const folder = await temporaryFolder();
  await cp(join(age, commit, "rehearsal"), join(folder, "hivemind-sqlcipher"), { recursive: true });
  vi.stubEnv("XDG_STATE_HOME", folder);
  const { last, withBundle } = await findLastRestoreTests("/srv/hive/clients.db");
  vi.unstubAllEnvs();
  expect(last).toMatchObject({ how: "verify", key_id: "0123456789abcdef" });
  expect(withBundle).toEqual(last);
});

/** What becomes of an operation that was cut off at a step. */
const settlings: Record<string, [string, (commit: string, step: string) => Promise<void>]> = {
  "backup.warm": [
    "a backup that had no name is undone",
    async (commit, step) => {
      const { folder, store, said } = await settled(commit, step);
      expect(said).toEqual([expect.stringMatching(/^removed .*partial, left by an interrupted/)]);
      expect(await readdir(join(folder, "backups"))).toEqual([]);
      await expectToOpen(store, passphrase);
    },
  ],
  "backup.claimed": [
    "a backup that had a name is completed",
    async (commit, step) => {
      const { folder, store, said } = await settled(commit, step);
      expect(said).toEqual([expect.stringMatching(/^completed the interrupted backup/)]);
      const backup = await theOnly(join(folder, "backups"), ".db");
      expect((await verifyBackup(backup, { passphrase })).ok).toBe(true);
      expect(await readdir(join(folder, "backups"))).toHaveLength(2);
      await expectToOpen(store, passphrase);
    },
  ],
  "rotate.filled": [
    "a rotation before its rename is undone",
    async (commit, step) => {
      const { folder, store, said } = await settled(commit, step);
      expect(said).toEqual([expect.stringMatching(/^undid the interrupted rotate/)]);
      await expectToOpen(store, passphrase);
      expect(await listEntries(store)).toEqual([{ slot: "current", secret: passphrase }]);
      // Later ones see that the store which stays has a bundle; none has one left of the file that
      // goes.
      const keyId = (await readFile(store)).toString("hex", 0, 8);
      const bundles = (await readdir(join(folder, "bundles"))).filter((name) =>
        name.endsWith(".age"),
      );
      expect(bundles.filter((name) => name !== bundleName(keyId))).toEqual([]);
      expect((await readdir(folder)).filter((name) => name.startsWith("."))).toEqual([]);
    },
  ],
  "rotate.renamed": [
    "a rotation after it is finished",
    async (commit, step) => {
      const { folder, store, said } = await settled(commit, step);
      expect(said).toEqual([expect.stringMatching(/^finished the interrupted rotate/)]);
      await expectToOpen(store, nextPassphrase);
      expect(await listEntries(store)).toEqual([{ slot: "current", secret: nextPassphrase }]);
      const keyId = (await readFile(store)).toString("hex", 0, 8);
      const bundle = join(folder, "bundles", bundleName(keyId));
      expect((await readBundle(bundle, { identity })).passphrase).toBe(nextPassphrase);
      expect((await readdir(folder)).filter((name) => name.startsWith("."))).toEqual([]);
    },
  ],
};

for (const commit of withPart("interrupted")) {
  for (const step of readdirSync(join(age, commit, "interrupted"))) {
    const [what, check] = settlings[step] ?? [`${step} is a step that is known here`, unknownStep];
    test(`interrupted by ${commit}: ${what}`, () => check(commit, step));
  }
}

async function unknownStep(): Promise<void> {
  expect.unreachable();
}

/**
 * Sets up what an interrupted operation left, as if it had been here, and lets today's code settle
 * it.
 */
async function settled(commit: string, step: string) {
  const folder = await copyOf(commit, "interrupted", step);
  const store = join(folder, "clients.db");
  const journal = journalPath(store);
  await fillIn(journal, folder);
  await identifyFiles(journal, store);
  await putIntoKeyring(join(folder, "keyring.json"), folder);
  await rm(join(folder, "keyring.json"));
  const said = await recoverIfNeeded(store);
  expect(await readdir(folder)).not.toContain(basename(journal));
  return { folder, store, said };
}

/** The journal knows files by their inodes, and copies have others. */
async function identifyFiles(journal: string, store: string): Promise<void> {
  const entry = JSON.parse(await readFile(journal, "utf8"));
  const { final, staged, committed } = entry.data;
  const numberOf = async (...paths: string[]) => {
    for (const path of paths) {
      const found = await stat(path).catch(() => undefined);
      if (found) return String(found.ino);
    }
    throw new Error(`there is none of ${paths.join(", ")}`);
  };
  if (committed) committed.inode = await numberOf(store);
  for (const file of final ? ["copy", "manifest"] : []) {
    const number = await numberOf(final[file], staged[file]);
    final[`${file}_identity`] = final[`${file}_identity`].replace(/\d+$/, number);
  }
  await writeFile(journal, JSON.stringify(entry));
}

async function fillIn(path: string, folder: string): Promise<void> {
  await writeFile(path, (await readFile(path, "utf8")).replaceAll("@FOLDER@", folder));
}

/** Entries with the attributes and labels that they had. */
async function putIntoKeyring(path: string, folder: string): Promise<void> {
  await fillIn(path, folder);
  const service = "hivemind-sqlcipher";
  for (const { label, secret, schema } of JSON.parse(await readFile(path, "utf8"))) {
    const account = label.slice(service.length + 1);
    const attributes = ["service", service, "account", account, "xdg:schema", schema];
    execFileSync("secret-tool", ["store", `--label=${label}`, ...attributes], { input: secret });
  }
}

async function expectToOpen(path: string, passphrase: string): Promise<void> {
  await using store = await ClientStore.open(path, passphrase);
  expect(await recordsIn(store)).toEqual(sampleClients().map(serializeClient));
}
