/**
 * Every kind of file in every place where a file is expected: what fits is used, the rest is named.
 */
import { execFile } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import {
  chmod,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { createServer } from "node:net";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { armor, Encrypter } from "age-encryption";
import { expect, onTestFinished, test } from "vitest";
import { ClientStore } from "../../src/store/client-store.js";
import { proving } from "../prove-report.js";
import { files, machine, type Reader, readers } from "./files.js";
import { Machine } from "./machine.js";

const run = promisify(execFile);

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

test("a file with plugin identities only is refused, because no bundle is encrypted to them", async () => {
  const plugin = machine.path("plugin.txt");
  await writeFile(plugin, "AGE-PLUGIN-YUBIKEY-1QQQQQQ\n", { mode: 0o600 });
  const { code, stderr } = await machine.run(["bundle", "show", files.bundle, "-i", plugin]);
  expect([code, stderr]).toEqual([2, expect.stringContaining("opens no bundle")]);
});

test("a recovery key or an SSH key as the source becomes the passphrase of no store", async () => {
  const key = machine.path("ssh-key");
  const text = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE=\n";
  await writeFile(key, text, { mode: 0o600 });
  for (const file of [files.identity, key]) {
    const db = machine.path("by-key", "clients.db");
    const source = ["--db", db, "--passphrase-source", `file:${file}`];
    const init = await machine.run(["init", ...source, "--recovery-key-file", machine.path("k3")]);
    expect([init.code, init.stderr]).toEqual([17, expect.stringContaining("is not a passphrase")]);
    expect(existsSync(db)).toBe(false);
  }
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

/** Options that read their file as another option does. */
const alike = [
  ...["--identity-passphrase-file", "--bundle-passphrase-file (write)", "init --adopt"],
  ...["rotate", "encrypt", "--to-password-source", "--from-password-source"],
  ...["--redis-password-source", "import-clients --path", "restore in place"],
];

/** The options that take a file or a directory, each in a command that reads it. */
const options: Pick<Reader, "option" | "args" | "env">[] = [
  ...readers,
  { option: "backups", args: (path) => ["backups", path] },
  { option: "prune", args: (path) => ["prune", path, "--keep-last", "1"] },
];
const ofDirectories = ["backups", "prune"];

const isAlike = (option: string) => alike.some((other) => option.startsWith(other));

/** Runs the command of an option, which names the file and the reason in its error. */
async function refused({ args, env = () => ({}) }: Omit<Reader, "file">, path: string) {
  const name = basename(path);
  const { code, stdout, stderr } = await machine.run(args(path), { env: env() });
  const text = stdout + stderr;
  expect([name, code, text]).toEqual([name, expect.any(Number), expect.stringContaining(name)]);
  expect([name, code]).not.toEqual([name, 0]);
  expect(text).not.toMatch(/internal|unexpected error|at .*\.js:/);
  return text;
}

// Each waits 5 s for a writer: all at once.
test("a pipe that no process writes to", async () => {
  const fifo = join(await mkdtemp(machine.path("special-")), "fifo");
  await run("mkfifo", ["-m", "600", fifo]);
  const tried = options.filter(({ option }) => proving || !isAlike(option));
  const texts = tried.map(async (each) => [each.option, await refused(each, fifo)] as const);
  for (const [option, text] of await Promise.all(texts))
    if (ofDirectories.includes(option)) expect(text).toMatch(/is not a directory/);
});

test.each(options)("$option: what is not a file of any kind", async (each) => {
  const { option } = each;
  const special = await mkdtemp(machine.path("special-"));
  await mkdir(join(special, "directory"));
  await symlink("loop", join(special, "loop"));
  const server = createServer().listen(join(special, "socket"));
  onTestFinished(async () => void server.close());
  await once(server, "listening");
  await writeFile(join(special, "empty"), "", { mode: 0o600 });
  await writeFile(join(special, "zeros"), "", { mode: 0o600 });
  await truncate(join(special, "zeros"), 2 ** 31);
  const store = await readFile(machine.store);
  const names = (await readdir(special)).filter((name) => {
    // 2 GB of whole pages may be a backup: they are read.
    if (name === "zeros") return !/^(?:verify|restore|export)/.test(option);
    if (name === "directory") return !ofDirectories.includes(option);
    return name === "empty" || proving || !isAlike(option);
  });
  for (const name of names) {
    const text = await refused(each, join(special, name));
    if (ofDirectories.includes(option) && name !== "loop")
      expect(text).toMatch(/is not a directory/);
  }
  expect(await readFile(machine.store)).toEqual(store);
  expect(await readdir(machine.folder)).not.toContain("new.db");
});

const utf16 = (text: string) => Buffer.from(`\ufeff${text}`, "utf16le");

test("UTF-16, as PowerShell writes it: text is read; what the hub could not read is refused", async () => {
  const write = async (name: string, text: string) => {
    const path = machine.path(name);
    await writeFile(path, utf16(text), { mode: 0o600 });
    return path;
  };
  const identity = await write("id-16", await readFile(files.identity, "utf8"));
  const shown = await machine.run(["bundle", "show", files.bundle, "-i", identity]);
  expect([shown.code, shown.stdout]).toEqual([0, expect.stringContaining("PRAGMA key")]);

  const words = await write("words-16", "correct horse\r\n");
  const db = machine.path("sixteen", "clients.db");
  await mkdir(machine.path("sixteen"));
  const init = await machine.run([
    ...["init", "--db", db, "--passphrase-file", words],
    ...["--recovery-key-file", machine.path("key-16")],
  ]);
  expect([init.code, init.stderr]).toEqual([0, expect.any(String)]);
  const source = ["--db", db, "--passphrase-source", `file:${files.passphrase}`];
  expect((await machine.run(["list-clients", ...source])).code).toBe(0);

  for (const [name, text] of [
    [
      "csv-16",
      "client_id,name,is_admin,access_key,password,crypto_key\r\n7,kitchen,False,key,,\r\n",
    ],
    ["json-16", '[{"client_id": 7, "api_key": "key", "name": "kitchen"}]'],
  ] as const) {
    const args = ["import-clients", await write(name, text), "--dry-run"];
    const imported = await machine.run(args);
    expect([imported.code, imported.stdout]).toEqual([0, expect.stringContaining("1 added")]);
  }
  const settings = await write("settings-16", await readFile(files.settings, "utf8"));
  expect((await machine.run(["list-clients", "--config", settings])).code).toBe(0);

  const server = machine.path("config", "hivemind-core", "server.json");
  await mkdir(machine.path("config", "hivemind-core"), { recursive: true });
  onTestFinished(() => rm(server));
  await writeFile(server, utf16('{"database": {}}'));
  const refused = await machine.run(["list-clients"]);
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringMatching(/UTF-16 text, which the hub cannot read[\s\S]*iconv -f UTF-16 -t UTF-8/),
  ]);
  await chmod(server, 0o640);
  await run("/bin/sh", ["-c", /Convert it: (.*)/.exec(refused.stderr)?.[1] ?? ""]);
  expect(await readFile(server, "utf8")).toBe('{"database": {}}');
  expect((await stat(server)).mode & 0o777).toBe(0o640);
  expect(await readdir(dirname(server))).toEqual(["server.json"]);
});

test("a file of SSH keys only: the error says what a recovery key is", async () => {
  const ssh = machine.path("ssh-only");
  await writeFile(
    ssh,
    "-----BEGIN OPENSSH PRIVATE KEY-----\nYWJj\n-----END OPENSSH PRIVATE KEY-----\n",
  );
  const { code, stderr } = await machine.run(["bundle", "show", files.bundle, "-i", ssh]);
  expect([code, stderr]).toEqual([
    2,
    expect.stringMatching(/an SSH key is not a recovery key[\s\S]*AGE-SECRET-KEY-1/),
  ]);
});

test.each([
  ["first line", "two words\nof a verse\n", "two words"],
  ["whole text", "two words\nof a verse\n", "two words\nof a verse"],
])(
  "init --adopt takes the %s of a file, whichever opens the store",
  async (part, text, passphrase) => {
    const own = await Machine.make();
    await mkdir(dirname(own.store), { recursive: true });
    await (await ClientStore.create(own.store, passphrase)).close();
    const file = own.path("words");
    await writeFile(file, text, { mode: 0o600 });
    await mkdir(own.path("bundles"), { mode: 0o700 });
    const adopted = await own.run([
      ...["init", "--adopt", "--passphrase-file", file, "--bundle-to", own.path("bundles")],
      ...["--recovery-key-file", own.path("key")],
    ]);
    expect([adopted.code, adopted.stderr]).toEqual([0, expect.any(String)]);
    expect(adopted.stderr.includes("the whole text opens the store")).toBe(part === "whole text");
    expect((await own.run(["list-clients"])).code).toBe(0);
  },
);
