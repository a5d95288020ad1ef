/** A machine with a store and a valid file of each kind, and the options that read such files. */
import { randomUUID } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { armor, Encrypter } from "age-encryption";
import { afterAll, beforeAll } from "vitest";
import { encodeLetters, splitIntoLines } from "../../src/bundle/paper.js";
import { fixtures } from "../store/temporary.js";
import { Machine } from "./machine.js";

/** The options for a store without a service and a hub. */
export const alone = ["--service", "none", "--hub", "none"];

/** The machine of the tests in a file that imports this module. */
export let machine: Machine;

/** Paths of valid files. */
export const files = {} as Record<
  | "identity"
  | "encryptedIdentity"
  | "bundle"
  | "paper"
  | "record"
  | "backup"
  | "manifest"
  | "passphrase"
  | "csv"
  | "settings"
  | "plain",
  string
>;

beforeAll(async () => {
  machine = Machine.in(await mkdtemp(join(tmpdir(), "hivemind-files-")));
  await machine.init("--bundle-to", machine.path("bundles"), "--to", machine.path("backups"));
  await machine.run(["add-client", "--name", "kitchen"]);
  const { document } = await machine.json("backup", "--service", "none");
  files.backup = (document.backup as { path: string }).path;
  files.manifest = files.backup.replace(/\.db$/, ".manifest.json");
  const names = await readdir(machine.path("bundles"));
  files.bundle = machine.path("bundles", names.find((name) => name.endsWith(".age")) ?? "none");
  const letters = encodeLetters(armor.decode(await readFile(files.bundle, "utf8")));
  const lines = splitIntoLines(letters, 48).map((line) => Object.values(line).join(" "));
  files.paper = machine.path("typed.txt");
  await writeFile(files.paper, `${lines.join("\n")}\n`, { mode: 0o600 });
  files.record = `${files.bundle}.proof.json`;
  files.identity = machine.path("safe", "recovery-key.txt");
  const encrypter = new Encrypter();
  encrypter.setScryptWorkFactor(10);
  encrypter.setPassphrase("correct horse");
  files.encryptedIdentity = machine.path("key.age");
  const text = await encrypter.encrypt(await readFile(files.identity, "utf8"));
  await writeFile(files.encryptedIdentity, text, { mode: 0o600 });
  const redis = machine.path("redis", "hivemind-core", "server.json");
  await mkdir(dirname(redis), { recursive: true });
  const module = "hivemind-redis-db-plugin";
  await writeFile(redis, JSON.stringify({ database: { module, [module]: {} } }));
  files.settings = machine.path("config", "hivemind-sqlcipher", "config.json");
  files.passphrase = machine.path("passphrase");
  await writeFile(files.passphrase, "correct horse\n", { mode: 0o600 });
  files.csv = machine.path("clients.csv");
  await writeFile(files.csv, "client_id,name,is_admin,access_key,password,crypto_key\n", {
    mode: 0o600,
  });
  await mkdir(machine.path("plain"));
  files.plain = machine.path("plain", "clients.db");
  await copyFile(join(fixtures, "plain-schema2.db"), files.plain);
}, 60_000);
afterAll(() => rm(machine.folder, { recursive: true }));

/** An option that names a file to be read, in a command that reads it. */
export interface Reader {
  readonly option: string;
  /** A file that the option could use. */
  readonly file: () => string;
  readonly args: (path: string) => string[];
  readonly env?: () => NodeJS.ProcessEnv;
}

export const readers: readonly Reader[] = [
  {
    ...{ option: "--identity", file: () => files.identity },
    args: (path) => ["bundle", "show", files.bundle, "--identity", path],
  },
  {
    ...{ option: "--identity-passphrase-file", file: () => files.passphrase },
    args: (path) => [
      ...["bundle", "show", files.bundle, "-i", files.encryptedIdentity],
      ...["--identity-passphrase-file", path],
    ],
  },
  {
    ...{ option: "--bundle-passphrase-file (open)", file: () => files.passphrase },
    args: (path) => ["bundle", "show", files.bundle, "--bundle-passphrase-file", path],
  },
  {
    ...{ option: "--bundle-passphrase-file (write)", file: () => files.passphrase },
    args: (path) => ["bundle", "export", "--bundle-passphrase-file", path],
  },
  {
    ...{ option: "bundle show", file: () => files.bundle },
    args: (path) => ["bundle", "show", path, "-i", files.identity],
  },
  {
    ...{ option: "bundle import", file: () => files.bundle },
    args: (path) => ["bundle", "import", path, "-i", files.identity],
  },
  {
    ...{ option: "bundle import --from-paper", file: () => files.paper },
    args: (path) => [
      ...["bundle", "import", path, "--from-paper", "-i", files.identity],
      ...["-o", machine.path(`typed-${randomUUID()}.age`)],
    ],
  },
  {
    ...{ option: "bundle print", file: () => files.bundle },
    args: (path) => ["bundle", "print", path, "-i", files.identity],
  },
  {
    ...{ option: "--bundle", file: () => files.bundle },
    args: (path) => ["verify", files.backup, "--bundle", path, "-i", files.identity],
  },
  { option: "verify", file: () => files.backup, args: (path) => ["verify", path] },
  {
    ...{ option: "restore", file: () => files.backup },
    args: (path) => ["restore", path, "--to", machine.path("new.db")],
  },
  {
    ...{ option: "export", file: () => files.backup },
    args: (path) => ["export", path, "--to", machine.path("safe")],
  },
  {
    ...{ option: "restore in place", file: () => files.backup },
    args: (path) => ["restore", path, "--yes", ...alone],
  },
  {
    ...{ option: "import-clients", file: () => files.csv },
    args: (path) => ["import-clients", path],
  },
  {
    ...{ option: "import-clients --path", file: () => files.csv },
    args: (path) => ["import-clients", "--path", path],
  },
  {
    ...{ option: "init --passphrase-file", file: () => files.passphrase },
    args: (path) => [
      ...["init", "--db", machine.path("new", "new.db"), "--passphrase-file", path],
      ...["--recovery-key-file", machine.path("new-key"), "--service", "none"],
    ],
  },
  {
    ...{ option: "init --adopt --passphrase-file", file: () => files.passphrase },
    args: (path) => [
      ...["init", "--adopt", "--db", files.backup, "--passphrase-file", path],
      ...["--bundle-to", machine.path("bundles"), "--recovery-key-file", machine.path("new-key")],
      ...alone,
    ],
  },
  {
    ...{ option: "rotate --passphrase-file", file: () => files.passphrase },
    args: (path) => ["rotate", "--passphrase-file", path, ...alone],
  },
  {
    ...{ option: "encrypt --passphrase-file", file: () => files.passphrase },
    args: (path) => [
      ...["encrypt", "--db", files.plain, "--passphrase-file", path, ...alone],
      ...["--bundle-to", machine.path("bundles"), "--recovery-key-file", machine.path("new-key")],
    ],
  },
  {
    ...{ option: "--passphrase-source file:", file: () => files.passphrase },
    args: (path) => ["list-clients", "--passphrase-source", `file:${path}`],
  },
  {
    ...{ option: "--to-password-source file:", file: () => files.passphrase },
    args: (path) => [
      ...["migrate", "--from", "hivemind-sqlcipher-db-plugin", "--to", "hivemind-json-db-plugin"],
      ...["--to-password-source", `file:${path}`],
    ],
  },
  {
    ...{ option: "--from-password-source file:", file: () => files.passphrase },
    args: (path) => [
      ...["migrate", "--from", "hivemind-json-db-plugin", "--to", "hivemind-sqlcipher-db-plugin"],
      ...["--merge", "--from-password-source", `file:${path}`],
    ],
  },
  {
    ...{ option: "--redis-password-source file:", file: () => files.passphrase },
    args: (path) => ["run", "--redis-password-source", `file:${path}`, "--", "/bin/true"],
    env: () => ({ XDG_CONFIG_HOME: machine.path("redis") }),
  },
  {
    ...{ option: "--config", file: () => files.settings },
    args: (path) => ["list-clients", "--config", path],
  },
  { option: "--db", file: () => files.backup, args: (path) => ["list-clients", "--db", path] },
  {
    ...{ option: "backup --db", file: () => files.backup },
    args: (path) => [
      ...["backup", "--db", path, "--to", machine.path("other")],
      ...["--bundle-to", machine.path("bundles"), "--recovery-key-file", machine.path("new-key")],
    ],
  },
  {
    ...{ option: "encrypt --db", file: () => files.plain },
    args: (path) => [
      ...["encrypt", "--db", path, "--bundle-to", machine.path("bundles"), ...alone],
      ...["--recovery-key-file", machine.path("new-key")],
    ],
  },
];
