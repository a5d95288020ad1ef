/**
 * Every kind of file in every place where a file is expected: what fits is used, the rest is named.
 */
import { execFile } from "node:child_process";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { armor, Encrypter } from "age-encryption";
import { afterAll, beforeAll, expect, test } from "vitest";
import { fixtures } from "../store/temporary.js";
import { Machine } from "./machine.js";

const run = promisify(execFile);

let machine: Machine;
const files = {} as Record<
  | "identity"
  | "bundle"
  | "backup"
  | "manifest"
  | "record"
  | "passphrase"
  | "csv"
  | "settings"
  | "plain",
  string
>;

beforeAll(async () => {
  machine = Machine.in(await mkdtemp(join(tmpdir(), "hivemind-kinds-")));
  await machine.init("--bundle-to", machine.path("bundles"), "--to", machine.path("backups"));
  const { document } = await machine.json("backup", "--service", "none");
  files.backup = (document.backup as { path: string }).path;
  files.manifest = files.backup.replace(/\.db$/, ".manifest.json");
  const names = await readdir(machine.path("bundles"));
  files.bundle = machine.path("bundles", names.find((name) => name.endsWith(".age")) ?? "none");
  files.record = `${files.bundle}.proof.json`;
  files.identity = machine.path("safe", "recovery-key.txt");
  files.settings = machine.path("config", "hivemind-sqlcipher", "config.json");
  files.passphrase = machine.path("passphrase");
  await writeFile(files.passphrase, "correct horse\n", { mode: 0o600 });
  files.csv = machine.path("clients.csv");
  await writeFile(files.csv, "client_id,name,is_admin,access_key,password,crypto_key\n", {
    mode: 0o600,
  });
  files.plain = machine.path("plain.db");
  await copyFile(join(fixtures, "plain-schema2.db"), files.plain);
});
afterAll(() => rm(machine.folder, { recursive: true }));

/** A readable copy for its owner only, as a secret's file must be. */
async function secret(path: string): Promise<string> {
  const copy = join(await mkdtemp(machine.path("copy-")), "file");
  await writeFile(copy, await readFile(path), { mode: 0o600 });
  return copy;
}

const named: [kind: keyof typeof files, name: RegExp][] = [
  ["identity", /it is a recovery key[\s\S]*--identity/],
  ["bundle", /it is a passphrase bundle[\s\S]*--bundle/],
  ["backup", /it is an encrypted database[\s\S]*--db/],
  ["manifest", /it is the manifest of a backup[\s\S]*\.db file/],
  ["record", /it is the verification record of a bundle[\s\S]*\.age file/],
  ["csv", /it is a list of clients[\s\S]*import-clients/],
  ["settings", /it is a settings file[\s\S]*--config/],
  ["plain", /it is an SQLite database that is not encrypted[\s\S]*encrypt/],
];

const but = (...kinds: string[]) => named.filter(([kind]) => !kinds.includes(kind));

test.each(but("identity"))("%s as --identity", async (kind, name) => {
  const args = ["bundle", "show", files.bundle, "--identity", await secret(files[kind])];
  const { code, stderr } = await machine.run(args);
  expect([code, stderr]).toEqual([2, expect.stringMatching(name)]);
});

test.each(but("bundle"))("%s as a bundle", async (kind, name) => {
  const { code, stderr } = await machine.run(["bundle", "show", files[kind]]);
  expect([code, stderr]).toEqual([14, expect.stringMatching(name)]);
});

test.each(named)("%s as a passphrase file", async (kind, name) => {
  const file = await secret(files[kind]);
  const { code, stderr } = await machine.run([
    ...["init", "--db", machine.path("other.db"), "--passphrase-file", file],
    ...["--recovery-key-file", machine.path("other-key")],
  ]);
  expect([code, stderr]).toEqual([17, expect.stringMatching(name)]);
  expect(await readdir(machine.folder)).not.toContain("other-key");
});

test.each(but("backup", "plain"))("%s as a backup to restore", async (kind, name) => {
  const to = machine.path("restored.db");
  const { code, stderr } = await machine.run(["restore", files[kind], "--to", to]);
  expect([code, stderr]).toEqual([14, expect.stringMatching(name)]);
});

test.each(but("settings"))("%s as the settings file", async (kind, name) => {
  const { code, stderr } = await machine.run([
    "list-clients",
    "--config",
    await secret(files[kind]),
  ]);
  expect([code, stderr]).toEqual([expect.any(Number), expect.stringMatching(name)]);
  expect(code).not.toBe(0);
});

test.each(["binary", "armored"])(
  "a recovery key that is encrypted with a passphrase, %s",
  async (form) => {
    const encrypter = new Encrypter();
    encrypter.setScryptWorkFactor(10);
    encrypter.setPassphrase("open the key");
    const encrypted = await encrypter.encrypt(await readFile(files.identity, "utf8"));
    const key = machine.path(`key-${form}.age`);
    await writeFile(key, form === "binary" ? encrypted : armor.encode(encrypted), { mode: 0o600 });
    const words = machine.path(`words-${form}`);
    await writeFile(words, "open the key\r\n", { mode: 0o600 });
    const show = ["bundle", "show", files.bundle, "--identity", key];
    const without = await machine.run(show);
    expect([without.code, without.stderr]).toEqual([
      2,
      expect.stringContaining("--identity-passphrase-file"),
    ]);
    const opened = await machine.run([...show, "--identity-passphrase-file", words]);
    expect([opened.code, opened.stdout]).toEqual([0, expect.stringContaining("PRAGMA key")]);
    await writeFile(words, "other words\n", { mode: 0o600 });
    expect((await machine.run([...show, "--identity-passphrase-file", words])).code).toBe(12);
    const copy = machine.path(`restored-${form}.db`);
    await writeFile(words, "open the key\n", { mode: 0o600 });
    const restored = await machine.run([
      ...["restore", files.backup, "--bundle", files.bundle, "--identity", key],
      ...["--identity-passphrase-file", words, "--to", copy, "--yes"],
    ]);
    expect([restored.code, restored.stderr]).toEqual([0, expect.any(String)]);
  },
);

test("identities of plugins, SSH keys and mistyped keys beside a usable one are named and skipped", async () => {
  const mixed = machine.path("mixed.txt");
  const own = await readFile(files.identity, "utf8");
  const ssh = machine.path("ssh");
  await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", ssh]).catch(() =>
    writeFile(
      ssh,
      "-----BEGIN OPENSSH PRIVATE KEY-----\nYWJj\n-----END OPENSSH PRIVATE KEY-----\n",
    ),
  );
  await writeFile(
    mixed,
    `\ufeff# all my keys\r\nAGE-PLUGIN-YUBIKEY-1QQQQQQ\r\n${await readFile(ssh, "utf8")}${own}AGE-SECRET-KEY-1QQQ\r\n`,
    { mode: 0o600 },
  );
  const { code, stdout, stderr } = await machine.run([
    ...["bundle", "show", files.bundle, "--identity", mixed],
  ]);
  expect([code, stdout]).toEqual([0, expect.stringContaining("PRAGMA key")]);
  expect(stderr).toMatch(
    /skipped line 2: the identity of a plugin, line 3: an SSH key, line \d+: a recovery key with a typing mistake/,
  );
  expect(stderr).not.toMatch(/YUBIKEY-1Q|1QQQ/);
});

test("a file with plugin identities only names the way to open the bundle with them", async () => {
  const plugin = machine.path("plugin.txt");
  await writeFile(plugin, "AGE-PLUGIN-YUBIKEY-1QQQQQQ\n", { mode: 0o600 });
  const { code, stderr } = await machine.run(["bundle", "show", files.bundle, "-i", plugin]);
  expect([code, stderr]).toEqual([2, expect.stringContaining("age -d -i FILE BUNDLE")]);
});

test("a passphrase file with a byte order mark, CRLF and further lines opens what its first line opens", async () => {
  const file = machine.path("first");
  await writeFile(file, "first words\n", { mode: 0o600 });
  const db = machine.path("by-file", "clients.db");
  await mkdir(machine.path("by-file"));
  const source = ["--db", db, "--passphrase-source", `file:${file}`];
  const init = await machine.run(["init", ...source, "--recovery-key-file", machine.path("k2")]);
  expect([init.code, init.stderr]).toEqual([0, expect.any(String)]);
  await writeFile(file, "\ufefffirst words\r\nhub: kitchen\r\n");
  const listed = await machine.run(["list-clients", ...source]);
  expect([listed.code, listed.stderr]).toEqual([
    0,
    expect.stringContaining("the first line is the passphrase"),
  ]);
});
