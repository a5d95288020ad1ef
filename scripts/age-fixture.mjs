#!/usr/bin/env node
// age-fixture.mjs COMMIT [PART...]
//
// Builds the program as it was at COMMIT and lets it write what it writes, from the sample clients
// and with the test secrets of test/fixtures/age, into test/fixtures/age/COMMIT (shortened).
// Without PARTs, everything that the commit can write: do that at each release, so that a later
// version is tried with it (test/age). Works for every commit from c2eeaee on; needs what
// scripts/setup --tests installs, and root for the private session.
import { execFileSync } from "node:child_process";
import { subscribe } from "node:diagnostics_channel";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const script = fileURLToPath(import.meta.url);
const root = resolve(script, "../..");
const fixtures = join(root, "test/fixtures/age");
/**
 * Stands in the texts for the folder that things were written in, whose name is another each time.
 */
const placeholder = "@FOLDER@";

const { AGE_FIXTURE_BUILD: build, AGE_FIXTURE_OUT: out } = process.env;

if (build === undefined) prepare(process.argv[2], process.argv.slice(3));
else if (process.env.AGE_FIXTURE_SNAPSHOTS)
  snapshotAtSteps(JSON.parse(process.env.AGE_FIXTURE_SNAPSHOTS));
else await write(process.argv.slice(2));

/** Compiles the commit, and starts this script again in a session with a keyring of its own. */
function prepare(commit, parts) {
  if (commit === undefined) throw new Error("which commit?");
  const run = (program, args, options = {}) =>
    execFileSync(program, args, {
      cwd: root,
      encoding: "utf8",
      stdio: ["ignore", "pipe", 2],
      ...options,
    });
  const name = run("git", ["rev-parse", "--short=7", commit]).trim();
  const folder = mkdtempSync(join(tmpdir(), "age-fixture-"));
  const tree = join(folder, "tree");
  run("git", ["worktree", "add", "--quiet", "--detach", tree, name]);
  try {
    symlinkSync(join(root, "node_modules"), join(tree, "node_modules"));
    // Not every early commit holds by its types; what it compiles to is what it was.
    if (existsSync(join(tree, "scripts/build.mjs")))
      run("node", ["scripts/build.mjs"], { cwd: tree });
    else run("npx", ["tsc", "-p", "tsconfig.build.json", "--noCheck"], { cwd: tree });
    const out = join(fixtures, name);
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out);
    // A manifest names the host that it was made on: not this one.
    const inSession = [
      join(root, "scripts/private-session"),
      join(folder, "home"),
      process.execPath,
    ];
    const renamed = ["--uts", "sh", "-c", 'hostname fixture && exec "$0" "$@"'];
    run("unshare", [...renamed, ...inSession, script, ...parts], {
      env: { ...process.env, AGE_FIXTURE_BUILD: join(tree, "dist"), AGE_FIXTURE_OUT: out },
    });
    process.stdout.write(`${out}\n`);
  } finally {
    run("git", ["worktree", "remove", "--force", tree]);
    rmSync(folder, { recursive: true });
  }
}

async function load(module) {
  return existsSync(join(build, module)) && (await import(pathToFileURL(join(build, module))));
}

function secret(name) {
  return readFileSync(join(fixtures, name), "utf8").trim();
}

async function write(wanted) {
  const { ClientStore } = await load("store/client-store.js");
  const { deserializeClient } = await load("client/client.js");
  const { parseJson } = await load("client/json.js");
  const clients = parseJson(readFileSync(join(fixtures, "clients.json"), "utf8")).map(
    deserializeClient,
  );
  const passphrase = secret("passphrase.txt");
  const identity = readFileSync(join(fixtures, "recovery-key.txt"), "utf8");
  const recipients = [/age1\w+/.exec(identity)[0]];
  const bundlePassphrase = secret("bundle-passphrase.txt");
  const folder = mkdtempSync(join(tmpdir(), "age-fixture-"));
  const path = (...names) => join(folder, ...names);
  const storePath = path("clients.db");
  const reporter = { notice() {}, detail() {}, confirm: async () => {} };

  const store = async (name, options) => {
    const made = await ClientStore.create(path(name), passphrase, options);
    await made.addItems(clients);
    await made.close();
    return made.key;
  };
  const key = await store("clients.db", {});
  const key3 = await store("format-3.db", { cipherCompatibility: 3 });
  const places = { backup: { to: path("backups"), bundle_to: path("bundles") } };
  const settings = {
    store: { path: storePath },
    passphrase_source: "keyring",
    recipients,
    ...places,
  };

  const backupOf = async (name, to) => {
    const { backup } = await load("backup/backup.js");
    const { acquireLock } = await load("operation/lock.js");
    const lock = await acquireLock(path(name));
    writeFileSync(path("passphrase"), passphrase, { mode: 0o600 });
    const result = await backup({
      lock,
      source: { kind: "file", path: path("passphrase") },
      to,
      bundleTo: path("bundles"),
      recipients,
      service: { service: "none", unit: "hivemind-core", storePath: path(name) },
      recoveryCommand: ["true"],
      reporter,
    });
    await lock.release();
    return result;
  };

  const parts = {
    stores: [
      "store/client-store.js",
      async () => {
        await store("schema-0.db", { schemaVersion: 0 });
        for (const name of ["clients.db", "format-3.db", "schema-0.db"])
          keep(path(name), "stores", name);
      },
    ],
    bundles: [
      "bundle/bundle.js",
      async () => {
        const { writeBundle } = await load("bundle/bundle.js");
        for (const name of ["bundles", "bundles-3", "bundles-passphrase"]) mkdirSync(path(name));
        const request = { folder: path("bundles"), storePath, passphrase, key, recipients };
        await writeBundle(request);
        await writeBundle({ ...request, folder: path("bundles-passphrase"), bundlePassphrase });
        await writeBundle({
          ...request,
          folder: path("bundles-3"),
          storePath: path("format-3.db"),
          key: key3,
        });
        for (const name of ["clients.db", "format-3.db"]) keep(path(name), "bundles", name);
        for (const name of ["bundles", "bundles-3", "bundles-passphrase"])
          keep(path(name), "bundles", name);
      },
    ],
    settings: [
      "config/settings-file.js",
      async () => {
        const { saveSettings } = await load("config/settings-file.js");
        await saveSettings(path("config.json"), settings);
        keepText(folder, "config.json", "settings");
      },
    ],
    keyring: [
      "keys/keyring.js",
      async () => {
        const { setEntry } = await load("keys/keyring.js");
        await setEntry(storePath, "current", passphrase);
        await setEntry(storePath, "pending", "the pending one");
        await setEntry(storePath, "previous:0123456789abcdef", "a previous one");
        mkdirSync(join(out, "keyring"));
        writeFileSync(join(out, "keyring", "keyring.json"), keyringEntries(folder));
      },
    ],
    backups: [
      "backup/backup.js",
      async () => {
        await backupOf("clients.db", path("backups"));
        await backupOf("format-3.db", path("backups-3"));
        for (const name of ["backups", "backups-3", "bundles"]) keep(path(name), "backups", name);
      },
    ],
    "interrupted-backup": [
      "backup/backup.js",
      async () => {
        mkdirSync(path("interrupted"));
        const name = "interrupted/clients.db";
        await store(name, {});
        snapshotAtSteps({
          "backup.warm": path("interrupted"),
          "backup.claimed": path("interrupted"),
        });
        await backupOf(name, path("interrupted", "backups"));
      },
    ],
    "interrupted-rotate": [
      "swap/rotate.js",
      async () => {
        mkdirSync(path("rotated", "bundles"), { recursive: true });
        const { saveSettings } = await load("config/settings-file.js");
        const { setEntry } = await load("keys/keyring.js");
        await store("rotated/clients.db", {});
        await setEntry(path("rotated", "clients.db"), "current", passphrase);
        await saveSettings(path("config.json"), settings);
        writeFileSync(path("next"), secret("next-passphrase.txt"), { mode: 0o600 });
        const steps = Object.fromEntries(
          ["filled", "renamed"].map((step) => [`rotate.${step}`, path("rotated")]),
        );
        execFileSync(
          process.execPath,
          [
            ...["--import", script, join(build, "cli/main.js"), "rotate", "--yes"],
            ...["--db", path("rotated", "clients.db"), "--config", path("config.json")],
            ...["--bundle-to", path("rotated", "bundles"), "--passphrase-file", path("next")],
            ...["--service", "none", "--hub", "none"],
          ],
          {
            env: { ...process.env, AGE_FIXTURE_SNAPSHOTS: JSON.stringify(steps) },
            stdio: [0, 2, 2],
          },
        );
      },
    ],
    exports: [
      "exchange/export.js",
      async () => {
        const { exportText, exportToFile } = await load("exchange/export.js");
        const opened = await ClientStore.open(storePath, passphrase, { mode: "readonly" });
        for (const format of ["csv", "json"]) {
          for (const secrets of [false, true]) {
            const name = `clients${secrets ? "-with-secrets" : ""}.${format}`;
            await exportToFile(path(name), exportText({ clients: opened, format, secrets }));
            keep(path(name), "exports", name);
          }
        }
        await opened.close();
      },
    ],
    migration: [
      "migrate/note.js",
      async () => {
        const { MigrationNote } = await load("migrate/note.js");
        process.env.XDG_DATA_HOME = path("data");
        await MigrationNote.begin(
          { name: "hivemind-json-db-plugin", place: "/srv/hive/clients.json" },
          { name: "hivemind-sqlcipher-db-plugin", place: "/srv/hive/clients.db" },
        );
        const [name] = readdirSync(path("data", "hivemind-sqlcipher"));
        keep(path("data", "hivemind-sqlcipher", name), "migration", name);
      },
    ],
    rehearsal: [
      "backup/restore-test.js",
      async () => {
        const { recordRestoreTest } = await load("backup/restore-test.js");
        process.env.XDG_STATE_HOME = path("state");
        const backup = "/srv/backup/clients.2026-01-02T03-04-05Z.db";
        const tried = { how: "verify", backup, key_id: "0123456789abcdef" };
        await recordRestoreTest("/srv/hive/clients.db", tried, { withBundle: true });
        const [name] = readdirSync(path("state", "hivemind-sqlcipher"));
        keep(path("state", "hivemind-sqlcipher", name), "rehearsal", name);
      },
    ],
  };

  for (const [part, [module, make]] of Object.entries(parts)) {
    if (wanted.length > 0 && !wanted.includes(part)) continue;
    if (existsSync(join(build, module))) await make();
  }
  rmSync(folder, { recursive: true });
}

function keep(from, ...to) {
  cpSync(from, join(out, ...to), { recursive: true });
}

/** Keeps a text with the folder's name taken out. */
function keepText(folder, name, part) {
  const text = readFileSync(join(folder, name), "utf8").replaceAll(folder, placeholder);
  mkdirSync(join(out, part), { recursive: true });
  writeFileSync(join(out, part, name), text);
}

/** What the keyring has of this project's, as its own tool shows it. */
function keyringEntries(folder) {
  const search = ["search", "--all", "--unlock", "service", "hivemind-sqlcipher"];
  const shown = execFileSync("secret-tool", search, {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  const entries = [...shown.matchAll(/^label = (.*)\nsecret = (.*)\n[^[]*schema = (.*)$/gm)];
  const found = entries.map(([, label, secret, schema]) => ({ label, secret, schema }));
  return `${JSON.stringify(found, undefined, 2)}\n`.replaceAll(folder, placeholder);
}

/**
 * Keeps a copy of a folder, and of the keyring, as they are at each of these steps of an operation.
 */
function snapshotAtSteps(folders) {
  subscribe("hivemind-sqlcipher:step", (step) => {
    const folder = folders[step];
    if (folder === undefined) return;
    const to = join(out, "interrupted", String(step));
    mkdirSync(to, { recursive: true });
    // By another process: closing a file here would drop SQLite's locks on it.
    execFileSync("cp", ["-a", `${folder}/.`, to]);
    rmSync(join(to, "clients.db-shm"), { force: true });
    const journal = join(to, "clients.db.journal.json");
    writeFileSync(journal, readFileSync(journal, "utf8").replaceAll(folder, placeholder));
    writeFileSync(join(to, "keyring.json"), keyringEntries(folder));
  });
}
