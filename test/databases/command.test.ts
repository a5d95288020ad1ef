/** `migrate` and `plugins` as commands, with the session's keyring. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmod,
  copyFile,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import keytar from "keytar";
import { expect, onTestFinished, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { DatabaseFactory } from "../../src/databases/registry.js";
import { readServerJson } from "../../src/hub/server-json.js";
import { getEntry } from "../../src/keys/keyring.js";
import { acquireLock } from "../../src/operation/lock.js";
import { Connection } from "../../src/store/connection.js";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import { hubScript } from "../hub/support.js";
import { holding, removeUnits, systemctl, uniqueName, writeUnits } from "../service/units.js";
import { fixtures } from "../store/temporary.js";
import { freePort, RedisServer } from "./redis-server.js";

const json = "hivemind-json-db-plugin";
const sqlcipher = "hivemind-sqlcipher-db-plugin";
const sqlite = "hivemind-sqlite-db-plugin";
const redis = "hivemind-redis-db-plugin";

/** A released hub's machine: its JSON store, and its server.json with comments. */
async function jsonHub(): Promise<{ machine: Machine; server: string; clients: string }> {
  const machine = await Machine.make();
  const clients = machine.path("data", "hivemind-core", "clients.json");
  const server = machine.path("config", "hivemind-core", "server.json");
  await mkdir(machine.path("data", "hivemind-core"), { recursive: true });
  await mkdir(machine.path("config", "hivemind-core"), { recursive: true });
  await copyFile(join(fixtures, "clients-hivemind-json-db.json"), clients);
  await writeFile(
    server,
    `{
  // the hub of the house
  "agent_protocol": {"module": "hivemind-ovos-agent-plugin",   "x": 1.0},
  "database": {
    "module": "${json}",
    "${json}": {"name": "clients", "subfolder": "hivemind-core"},
    "hivemind-sqlite-db-plugin": {"password": "plain as day"}
  },
  # last
  "binarize": false
}
`,
  );
  await chmod(server, 0o640);
  return { machine, server, clients };
}

/** The options that name a hub's Python environment, by its line. */
async function hubPython(line: "released" | "development" = "development"): Promise<string[]> {
  return ["--hub-python", join(dirname(await hubScript(line)), "python")];
}

test("a hub on the JSON store is led to the encrypted one: server.json names it, with no password, and the plaintext is removed when asked", async () => {
  const { machine, server, clients } = await jsonHub();
  const before = await readFile(server, "utf8");
  const args = ["migrate", "--from", json, "--to", sqlcipher, "--switch", ...(await hubPython())];

  const without = await machine.run(args);
  expect(without.code).toBe(10);
  expect(without.stderr).toContain("hivemind-sqlcipher init");
  await machine.init();
  // It may open a store that the hub had before, and stand nowhere else.
  const refused = await machine.run(args);
  expect(refused.code).toBe(17);
  expect(refused.stderr).toMatch(/password for \S+ that is not the target's[\s\S]*init --adopt/);
  expect(refused.stdout + refused.stderr).not.toContain("plain as day");
  expect(await readFile(server, "utf8")).toBe(before);
  expect((await machine.json("list-clients", "--revoked")).document.clients).toEqual([]);

  const passphrase = (await getEntry(machine.store, "current")) ?? "";
  const own = before.replace("plain as day", passphrase);
  await writeFile(server, own);
  const planned = await machine.json(...args, "--dry-run");
  expect(planned.document).toMatchObject({ migrated: { dry_run: true, switched: null } });
  expect(await readFile(server, "utf8")).toBe(own);

  const done = await machine.run([...args, "--remove-source", "--json"]);
  expect(done.stderr).toContain("hivemind-sqlcipher run");
  expect(JSON.parse(done.stdout)).toMatchObject({
    migrated: { verified: true, switched: server, removed: [clients] },
  });
  await expect(stat(clients)).rejects.toMatchObject({ code: "ENOENT" });
  const after = await readFile(server, "utf8");
  expect(after).toBe(
    before
      .replace(`"module": "${json}"`, '"module": "hivemind-sqlite-db-plugin"')
      .replace('{"password": "plain as day"}', "{}"),
  );
  expect((await stat(server)).mode & 0o777).toBe(0o640);
  const { document } = await machine.json("list-clients", "--revoked", "--show-secrets");
  expect((document.clients as unknown[]).slice(0, 3)).toMatchObject([
    { client_id: 1, api_key: "6d1f9c2ab47e4f0c8a5b3d2e1f0a9b8c", can_escalate: true },
    { client_id: 2, can_escalate: false, metadata: { skill_blacklist: ["skill-volume"] } },
    { client_id: 3, api_key: "revoked" },
  ]);
});

test.each(["clients2.db", "~/clients2.db"])(
  "--switch writes the store that %s names",
  async (given) => {
    const { machine, server } = await jsonHub();
    await mkdir(machine.path("work"));
    const [expected, folder] = given.startsWith("~")
      ? [join(machine.environment.HOME ?? "", "clients2.db"), machine.folder]
      : [machine.path("work", "clients2.db"), machine.path("work")];
    const text = await readFile(server, "utf8");
    await writeFile(server, text.replace('{"password": "plain as day"}', "{}"));
    const before = ["env", "--chdir", folder];
    const done = await machine.run(
      [
        ...["migrate", "--from", json, "--to", sqlite, "--to-setting", `db_path=${given}`],
        ...["--switch", ...(await hubPython("released"))],
      ],
      { before },
    );
    expect([done.code, done.stderr]).toEqual([0, expect.any(String)]);
    const { settings } = await readServerJson(server);
    const { [sqlite]: names } = settings.database as { [sqlite]: object };
    expect(names).toMatchObject({ subfolder: dirname(expected), name: "clients2" });
    await stat(expected);
    await rm(expected);
  },
);

test("a migration that finds no store has not begun: after init, the same command copies", async () => {
  const { machine } = await jsonHub();
  const args = ["migrate", "--from", json, "--to", sqlcipher];
  expect((await machine.run([...args, "--dry-run"])).code).toBe(10);
  expect((await machine.run(args)).code).toBe(10);
  await machine.init();
  await machine.run(["add-client", "--name", "kitchen"]);
  const refused = await machine.run(args);
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringContaining("already holds clients"),
  ]);
});

test("while an operation may replace a store, nothing is migrated to or from it", async () => {
  const { machine, clients } = await jsonHub();
  await machine.init();
  const plain = machine.path("data", "plain.db");
  await writeFile(plain, "");
  const busy = machine.path("data", "busy.db");
  for (const [locked, from, to, ...settings] of [
    [machine.store, json, sqlcipher],
    [plain, json, sqlite, "--to-setting", `db_path=${plain}`],
    [busy, sqlcipher, json, "--from-setting", `db_path=${busy}`, "--to-setting", "name=other"],
  ] as [string, string, string, ...string[]][]) {
    await using _lock = await acquireLock(locked);
    const refused = await machine.run(["migrate", "--from", from, "--to", to, ...settings]);
    expect([refused.code, refused.stderr]).toEqual([11, expect.stringContaining(locked)]);
  }
  await using _lock = await acquireLock(machine.store);
  const args = ["migrate", "--from", json, "--to", sqlcipher, "--dry-run"];
  expect(await machine.run(args)).toMatchObject({ code: 0, stderr: "" });
  expect((await machine.json("list-clients", "--revoked")).document.clients).toEqual([]);
  expect((await readdir(dirname(clients))).filter((name) => name.startsWith("other"))).toEqual([]);
});

test("a store on a card that is mounted read-only can be migrated, and a dry run leaves no lock", async () => {
  const machine = await Machine.make();
  const card = machine.path("card");
  const source = join(card, "clients.db");
  await mkdir(card);
  await copyFile(join(fixtures, "plain-schema2.db"), source);
  await using connection = await Connection.open(source, { mode: "readwrite" });
  await connection.get("PRAGMA journal_mode = DELETE");
  await connection.close();
  const args = ["migrate", "--from", sqlite, "--from-setting", `db_path=${source}`, "--to", json];
  expect(await machine.run([...args, "--dry-run"])).toMatchObject({ code: 0, stderr: "" });
  expect(await readdir(card)).toEqual(["clients.db"]);
  const mount = 'mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; exec "$@"';
  const before = ["unshare", "--mount", "sh", "-ec", mount, card];
  expect(await machine.run(args, { before })).toMatchObject({ code: 0, stderr: "" });
});

test("a migration that is killed is gone on with by the same command, but not over what was changed since", async () => {
  const machine = await Machine.make();
  await machine.init();
  const subfolder = machine.path("from");
  const from = ["migrate", "--from", json, "--from-setting", `subfolder=${subfolder}`];
  {
    await using source = await DatabaseFactory.create(json, { subfolder });
    await source.addItems(
      Array.from({ length: 1_200 }, (_, index) =>
        newClient({ client_id: index + 1, api_key: `key-${index}` }),
      ),
    );
  }
  const killed = await machine.run([...from, "--to", sqlcipher], {
    env: {
      NODE_OPTIONS: `--import ${root}test/faults/kill-at-step.mjs`,
      HIVEMIND_TEST_STEP: "migrate.copied",
    },
  });
  expect(killed.code).toBeNull();
  const other = await machine.run([
    ...from,
    "--to",
    "hivemind-sqlite-db-plugin",
    "--to-setting",
    `db_path=${machine.store}`,
  ]);
  expect(other.code).toBe(17);
  await machine.run(["make-admin", "1"]);
  const changed = await machine.run([...from, "--to", sqlcipher]);
  expect(changed.code).toBe(17);
  expect(changed.stderr).toMatch(/clients 1: one side has changed[\s\S]*Remove \/\S+\.json/);
  await machine.run(["revoke-admin", "1"]);
  const { code, document } = await machine.json(...from, "--to", sqlcipher);
  expect(document).toMatchObject({
    migrated: { resumed: true, copied: 200, unchanged: 1_000, verified: true },
  });
  expect(code).toBe(0);
});

test("a server that requires a password is said so, and the command ends", async () => {
  const { machine } = await jsonHub();
  const { port } = await RedisServer.start(["--requirepass", "unused"]);
  const asked = await machine.run([
    "migrate",
    "--from",
    json,
    "--to",
    redis,
    "--to-setting",
    `port=${port}`,
  ]);
  expect([asked.code, asked.stderr]).toEqual([13, expect.stringContaining("requires a password")]);
});

test("the password of a Redis server with TLS comes from the keyring, and goes nowhere else", async () => {
  const { machine, server } = await jsonHub();
  const certificate = (name: string) => machine.path(`${name}.pem`);
  execFileSync(
    "openssl",
    [
      ...["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"],
      ...["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
      ...["-keyout", certificate("key"), "-out", certificate("cert")],
    ],
    { stdio: "ignore" },
  );
  const redisServer = await RedisServer.start(["--requirepass", "unused"]);
  const tlsPort = await freePort();
  const tls = (name: string, value: string) =>
    redisServer.cli("-a", "unused", "CONFIG", "SET", name, value);
  redisServer.cli(
    "-a",
    "unused",
    "CONFIG",
    "SET",
    "tls-cert-file",
    certificate("cert"),
    "tls-key-file",
    certificate("key"),
    "tls-ca-cert-file",
    certificate("cert"),
  );
  tls("tls-auth-clients", "no");
  tls("tls-port", String(tlsPort));
  const secret = "Redis' own secret";
  redisServer.cli("-a", "unused", "ACL", "SETUSER", "hub", "on", `>${secret}`, "~*", "+@all");

  const args = [
    ...[
      "migrate",
      "--from",
      json,
      "--to",
      redis,
      "--switch",
      "--hub",
      "none",
      "--to-password-source",
      "keyring",
    ],
    ...["--to-setting", "host=localhost", "--to-setting", `port=${tlsPort}`],
    ...["--to-setting", "username=hub", "--to-setting", "use_ssl=true"],
  ];
  const trusting = [...args, "--to-setting", `ssl_ca_certs=${certificate("cert")}`];
  const missing = await machine.run(trusting);
  expect(missing.code).toBe(13);
  const account = `rediss://hub@localhost:${tlsPort}/0`;
  expect(missing.stderr).toContain(`account '${account}'`);
  // Not by secret-tool: what that stores is found by its attributes alone, for a second or so.
  await keytar.setPassword("hivemind-sqlcipher", account, secret);

  const distrusting = await machine.run(args);
  expect(distrusting.code).toBe(18);
  expect(distrusting.stderr).toMatch(/self-signed certificate/);
  const done = await machine.run([...trusting, "--json", "--verbose"]);
  expect(done).toMatchObject({ code: 0 });
  expect(JSON.parse(done.stdout)).toMatchObject({ migrated: { verified: true, copied: 5 } });
  expect(done.stdout + done.stderr).not.toContain(secret);
  const text = await readFile(server, "utf8");
  expect(text).toContain(`"${redis}": {`);
  expect(text).not.toContain(secret);
  expect(text).not.toContain("password_source");
  expect(done.stderr).toContain(
    'No password was written into server.json. Start the hub through "hivemind-sqlcipher run"',
  );
});

test("a JSON store that a hub wrote to after it was compared is not removed, and the hub not pointed elsewhere", async () => {
  const { machine, server, clients } = await jsonHub();
  await machine.init();
  const own = (await readFile(server, "utf8")).replace(/"password": "[^"]*"/, "");
  await writeFile(server, own);
  const late = JSON.parse(await readFile(clients, "utf8"));
  const [first] = Object.values(late) as Record<string, unknown>[];
  late["99"] = { ...first, client_id: 99, api_key: "late", name: "late" };
  const written = machine.path("late.json");
  await writeFile(written, JSON.stringify(late));
  const args = [
    ...["migrate", "--from", json, "--to", sqlcipher, "--switch", "--remove-source"],
    ...(await hubPython()),
  ];
  const refused = await machine.run(args, {
    env: {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "migrate.compared": `cp ${written} ${clients}` }),
    },
  });
  expect(refused.code).toBe(17);
  expect(refused.stderr).toMatch(/has changed since the start of the migration[\s\S]*--merge/);
  expect(await readFile(server, "utf8")).toBe(own);
  expect(JSON.parse(await readFile(clients, "utf8"))).toEqual(late);

  const again = await machine.run([...args, "--merge", "--json"]);
  expect(again).toMatchObject({ code: 0 });
  await expect(stat(clients)).rejects.toMatchObject({ code: "ENOENT" });
  const { document } = await machine.json("find-client", "--by", "name", "late");
  expect(document).toMatchObject({ clients: [{ client_id: 99 }] });
});

test("a password that is written into server.json during a migration is not removed", async () => {
  const { machine, server } = await jsonHub();
  await machine.init();
  const own = await readFile(server, "utf8");
  await writeFile(server, own.replace(/"password": "[^"]*"/, ""));
  const written = machine.path("late.json");
  await writeFile(written, own);
  const refused = await machine.run(
    ["migrate", "--from", json, "--to", sqlcipher, "--switch", ...(await hubPython())],
    {
      env: {
        NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
        HIVEMIND_TEST_AT_STEP: JSON.stringify({ "migrate.compared": `cp ${written} ${server}` }),
      },
    },
  );
  expect([refused.code, refused.stderr]).toEqual([
    17,
    expect.stringContaining("that is not the target's; --switch would remove it"),
  ]);
  expect(await readFile(server, "utf8")).toBe(own);
});

test("the password of a JSON store stays in server.json, and its file is encrypted beside the other", async () => {
  const { machine, server, clients } = await jsonHub();
  const password = "sixteen letters!";
  const file = machine.path("password");
  await writeFile(file, password, { mode: 0o600 });
  const before = await readFile(clients, "utf8");
  const args = ["migrate", "--to", json, "--to-password-source", `file:${file}`, "--json"];
  const { stdout } = await machine.run([...args, "--from", json]);
  const encrypted = clients.replace(/json$/, "ejson");
  expect(JSON.parse(stdout)).toMatchObject({ migrated: { to: { place: encrypted }, copied: 5 } });
  expect(await readFile(clients, "utf8")).toBe(before);
  expect((await stat(encrypted)).mode & 0o777).toBe(0o600);

  const text = await readFile(server, "utf8");
  await writeFile(
    server,
    text
      .replace('"name": "clients"', `"password": "${password}", "name": "clients"`)
      .replace('{"password": "plain as day"}', "{}"),
  );
  const plain = ["--from", sqlite, "--from-setting", `db_path=${machine.path("plain.db")}`];
  {
    await using source = await DatabaseFactory.create(sqlite, {
      db_path: machine.path("plain.db"),
    });
    await source.addItem(newClient({ client_id: 1, api_key: "one" }));
  }
  await rm(encrypted);
  const switched = await machine.run([...args, ...plain, "--switch", "--hub", "none"]);
  expect(switched.stderr).not.toContain("No password was written");
  expect(switched.code).toBe(0);
  const { settings } = await readServerJson(server);
  expect(settings.database).toMatchObject({ module: json, [json]: { password } });
});

test("a source with a client that is revoked in the target stays", async () => {
  const { machine, server, clients } = await jsonHub();
  await machine.init();
  const own = (await readFile(server, "utf8")).replace(/"password": "[^"]*"/, "");
  await writeFile(server, own);
  const early = JSON.parse(await readFile(clients, "utf8"));
  const [first] = Object.values(early) as Record<string, unknown>[];
  const gap = Object.keys(early).length + 1;
  early[gap + 1] = { ...first, client_id: gap + 1, api_key: "after the gap", name: "after" };
  await writeFile(clients, JSON.stringify(early));
  // The hub gives the next client an id that the migration has filled with a revoked row.
  const late = { ...early, [gap]: { ...first, client_id: gap, api_key: "late", name: "late" } };
  const written = machine.path("late.json");
  await writeFile(written, JSON.stringify(late));
  const args = [
    ...["migrate", "--from", json, "--to", sqlcipher, "--switch", "--remove-source"],
    ...(await hubPython()),
  ];
  const refused = await machine.run(args, {
    env: {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "migrate.compared": `cp ${written} ${clients}` }),
    },
  });
  expect(refused.code).toBe(17);
  const again = await machine.run([...args, "--merge"]);
  expect([again.code, again.stderr]).toEqual([0, expect.stringContaining("was not removed")]);
  expect(again.stdout).toContain(`revoked     ${gap} stay revoked in the target`);
  expect(JSON.parse(await readFile(clients, "utf8"))).toEqual(late);
});

test("a source that a hub wrote to after it was compared is not switched away from; with --merge it goes on", async () => {
  const { machine, server } = await jsonHub();
  await machine.init();
  const own = (await readFile(server, "utf8"))
    .replace(/"password": "[^"]*"/, "")
    .replace(`"module": "${json}"`, '"module": "hivemind-sqlite-db-plugin"');
  await writeFile(server, own);
  expect((await machine.run(["add-client", "--name", "hall"])).code).toBe(0);
  const to = ["--to", json, "--to-setting", "name=new"];
  const args = ["migrate", "--from", sqlcipher, ...to, "--switch", "--hub", "none"];
  const add = `${process.execPath} '${root}dist/cli/main.js' add-client --name late >&2`;
  const refused = await machine.run(args, {
    env: {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "migrate.compared": add }),
    },
  });
  expect(refused.code).toBe(17);
  expect(refused.stderr).toContain(`${machine.store} has changed since the start of the migration`);
  expect(refused.stderr).toMatch(/Stop the hub[\s\S]*--merge/);
  expect(await readFile(server, "utf8")).toBe(own);

  const again = await machine.run([...args, "--merge", "--json"]);
  expect([again.code, JSON.parse(again.stdout)]).toMatchObject([
    0,
    { migrated: { copied: 1, unchanged: 1, switched: server } },
  ]);
  expect(await readFile(server, "utf8")).toContain(`"module": "${json}"`);
});

test("the unit that goes on with the old store after the switch, and another program that has it open, are named with what to type", async () => {
  const { machine, server } = await jsonHub();
  await machine.init();
  const own = (await readFile(server, "utf8")).replace(/"password": "[^"]*"/, "");
  await writeFile(server, own);
  const unit = uniqueName();
  await writeUnits({ [`${unit}.service`]: holding(machine.store) });
  onTestFinished(() => removeUnits(`${unit}.service`));
  await systemctl("start", unit);
  const other = spawn("sh", ["-c", 'exec 3<"$0"; echo; exec sleep 600', machine.store]);
  onTestFinished(() => void other.kill());
  await once(other.stdout, "data");
  const args = ["migrate", "--from", sqlcipher, "--to", json, "--to-setting", "name=new"];
  const env = { HIVEMIND_SQLCIPHER_UNIT: unit };
  const copied = await machine.run(args, { env });
  expect([copied.code, copied.stderr]).toEqual([
    0,
    expect.not.stringMatching(/, and uses (?:its old store|it) until/),
  ]);
  const { code, stderr } = await machine.run([...args, "--merge", "--switch", "--hub", "none"], {
    env,
  });
  expect(code).toBe(0);
  const lines = stderr
    .split("\n")
    .filter((line) => /, and uses (?:its old store|it) until/.test(line));
  expect(lines).toEqual([
    `warning: ${unit} is active, and uses its old store until it is restarted: systemctl --user restart '${unit}'`,
    `warning: process ${other.pid} (sleep) has ${machine.store} open, and uses it until it is restarted: kill ${other.pid}, then start it again`,
  ]);

  other.kill();
  await once(other, "close");
  await systemctl("stop", unit);
  const alone = await machine.run([...args, "--merge", "--switch", "--hub", "none"], { env });
  expect([alone.code, alone.stderr]).toEqual([
    0,
    expect.not.stringMatching(/, and uses (?:its old store|it) until/),
  ]);
});

test.each([
  [
    ["--to", sqlcipher, "--to-setting", "password=x"],
    2,
    "a password on the command line is visible to other users",
  ],
  [["--to", redis, "--to-setting", "host"], 2, "It must be KEY=VALUE."],
  [["--to", "someones-db-plugin"], 2, 'no database plugin "someones-db-plugin"'],
  [["--to", redis, "--remove-source"], 2, "--remove-source needs --switch"],
  [
    ["--to", redis, "--to-setting", "port=1", "--to-setting", "retry_attempts=0"],
    18,
    "ECONNREFUSED",
  ],
])("migrate %j: exit code %i", async (args, expected, words) => {
  const { machine, server, clients } = await jsonHub();
  const before = [await readFile(server, "utf8"), await readFile(clients, "utf8")];
  const { code, stderr } = await machine.run(["migrate", "--from", json, ...args]);
  expect(stderr).toContain(words);
  expect(code).toBe(expected);
  expect([await readFile(server, "utf8"), await readFile(clients, "utf8")]).toEqual(before);
});

test("a server.json that does not parse is an error before anything is copied", async () => {
  const { machine, server } = await jsonHub();
  const half = (await readFile(server, "utf8")).slice(0, 100);
  await writeFile(server, half);
  const to = ["--to", "hivemind-sqlite-db-plugin"];
  for (const args of [to, [...to, "--switch"]]) {
    const { code, stderr } = await machine.run(["migrate", "--from", json, ...args]);
    expect(code).toBe(17);
    expect(stderr).toContain("server.json does not parse");
  }
  await expect(stat(machine.store)).rejects.toMatchObject({ code: "ENOENT" });
  expect(await readFile(server, "utf8")).toBe(half);
});

test("server.json names the store where nothing else does, comments or not; another kind of database is said in words", async () => {
  const { machine, server } = await jsonHub();
  const lost = await machine.run(["add-client", "--name", "bath"]);
  expect(lost.code).toBe(10);
  expect(lost.stderr).toContain(`names the database ${json}`);
  expect(lost.stderr).toContain(`migrate --from ${json}`);
  // Also beside a store that the keyring knows.
  const other = await Machine.make();
  await other.init();
  const beside = await machine.run(["add-client", "--name", "bath"]);
  expect(beside.stderr).toContain(other.store);
  expect(beside.stderr).toContain(`migrate --from ${json}`);

  const elsewhere = (await readFile(server, "utf8"))
    .replace(`"module": "${json}"`, '"module": "hivemind-sqlite-db-plugin"')
    .replace('{"password": "plain as day"}', '{"subfolder": "elsewhere", "name": "others"}');
  await writeFile(server, elsewhere);
  await machine.init();
  const path = machine.path("data", "elsewhere", "others.db");
  expect((await machine.json("status")).document).toMatchObject({ path, format: "sqlcipher" });
  const named = await machine.json("status", "--subfolder", "hivemind-core");
  expect(named.document).toMatchObject({ path: machine.store, format: "absent" });

  await writeFile(server, elsewhere.slice(0, 90));
  const broken = await machine.run(["list-clients"]);
  expect(broken.code).toBe(17);
  expect(broken.stderr).toContain("server.json does not parse");
  expect((await machine.run(["status"])).code).toBe(0);
  expect((await machine.run(["list-clients", "--db", path])).code).toBe(0);
});

/**
 * A plugin in a package of its own, as another would write it: packed, and installed beside other
 * packages.
 */
async function installedPlugin(): Promise<{ machine: Machine; project: string }> {
  const machine = await Machine.make();
  const [source, project] = [machine.path("my-plugin"), machine.path("project")];
  await mkdir(join(source, "dist"), { recursive: true });
  await mkdir(project);
  await writeFile(
    join(source, "package.json"),
    JSON.stringify({
      ...{ name: "@someone/my-plugin", version: "1.2.3", type: "module", files: ["dist"] },
      hivemind: { database: { "my-db-plugin": "./dist/index.js#MyDB" } },
      peerDependencies: { "hivemind-sqlcipher": "*" },
    }),
  );
  await writeFile(
    join(source, "dist", "index.js"),
    `import { readFile, writeFile } from "node:fs/promises";
import { BaseDatabase, deserializeClient, serializeClient, StoreError } from "hivemind-sqlcipher";

export class MyDB extends BaseDatabase {
  static async open({ file }, { mode }) {
    const text = await readFile(file, "utf8").catch(() => undefined);
    if (text === undefined && mode !== "create") throw new StoreError("notFound", \`there is no \${file}\`);
    const lines = (text ?? "").split("\\n").filter((line) => line !== "");
    return new MyDB(file, new Map(lines.map(deserializeClient).map((client) => [client.client_id, client])));
  }
  static place({ file }) {
    return file;
  }
  constructor(file, clients) {
    super();
    Object.assign(this, { file, clients });
  }
  addItem(client) {
    return this.addItems([client]);
  }
  async addItems(clients) {
    let count = 0;
    for await (const client of clients) {
      this.clients.set(client.client_id, client);
      count += 1;
    }
    await writeFile(this.file, [...this.clients.values()].map((each) => serializeClient(each) + "\\n").join(""));
    return count;
  }
  async searchByValue(key, value) {
    return [...this.clients.values()].filter((client) =>
      Object.hasOwn(client, key) && client[key] === value && !(key === "api_key" && value === "revoked"));
  }
  async size() {
    return this.clients.size;
  }
  async *[Symbol.asyncIterator]() {
    yield* this.clients.values();
  }
}
`,
  );
  await writeFile(
    join(project, "check.mjs"),
    `import { mkdtemp } from "node:fs/promises";
import { runConformance } from "hivemind-sqlcipher/testing";
import { DatabaseFactory } from "hivemind-sqlcipher";
await runConformance(async () => {
  const file = await mkdtemp(process.argv[2]) + "/clients.jsonl";
  return () => DatabaseFactory.create("my-db-plugin", { file });
});
`,
  );
  const npm = (...args: string[]) =>
    execFileSync(
      "npm",
      [...args, "--no-audit", "--no-fund", "--offline", "--silent", "--no-update-notifier"],
      {
        cwd: project,
        encoding: "utf8",
      },
    );
  await writeFile(join(project, "package.json"), "{}");
  const packed = npm("pack", source).trim();
  npm("install", "--legacy-peer-deps", join(project, packed));
  // What is being tested here stands in for what would be installed.
  await symlink(root, join(project, "node_modules", "hivemind-sqlcipher"));
  return { machine, project };
}

test("a plugin in a package of its own is found, passes the conformance tests, and is a target to migrate to; a broken one beside it hides nothing", {
  timeout: 180_000,
}, async () => {
  const { machine, project } = await installedPlugin();
  const inProject = { before: ["env", "-C", project] };
  const broken: [string, object, string][] = [
    ["syntax-error", { "broken-db-plugin": "./index.js#Broken" }, "export const = 1;"],
    ["gone", { "gone-db-plugin": "./nowhere.js#Gone" }, ""],
    ["outside", { "outside-db-plugin": "../gone/index.js#Outside" }, ""],
    ["throws", { "throwing-db-plugin": "./index.js#Throwing" }, "throw new Error('out of order');"],
    ["thief", { [redis]: "./index.js#Thief" }, "process.exit(99);"],
  ];
  for (const [name, database, text] of broken) {
    const folder = join(project, "node_modules", name);
    await mkdir(folder);
    const manifest = { name, version: "0.0.1", type: "module", hivemind: { database } };
    await writeFile(join(folder, "package.json"), JSON.stringify(manifest));
    await writeFile(join(folder, "index.js"), text);
  }
  const listed = await machine.run(["plugins", "my-db-plugin", "--json"], inProject);
  expect(listed.code).toBe(0);
  const { plugins } = JSON.parse(listed.stdout) as { plugins: { name: string; package: string }[] };
  const of = (name: string) => plugins.find((plugin) => plugin.package === name);
  expect(of("@someone/my-plugin")).toMatchObject({
    ...{ name: "my-db-plugin", version: "1.2.3", problem: null },
  });
  expect(of("syntax-error")).toMatchObject({ problem: expect.stringContaining("SyntaxError") });
  expect(of("gone")).toMatchObject({ problem: expect.stringContaining("there is no file") });
  expect(of("outside")).toMatchObject({
    problem: expect.stringContaining("is not in the package"),
  });
  expect(of("thief")).toMatchObject({
    problem: expect.stringContaining("has a plugin of this name itself"),
  });
  // Nothing of a plugin is run before it is named.
  expect(of("throws")).toMatchObject({ problem: null });
  const named = await machine.run(["plugins", "throwing-db-plugin"], inProject);
  expect(named.code).toBe(1);
  expect(named.stderr).toBe("");
  expect(named.stdout).toContain("out of order");
  expect(named.stdout).toContain(sqlcipher);

  execFileSync(process.execPath, [join(project, "check.mjs"), machine.path("place-")], {
    cwd: project,
    stdio: "pipe",
  });

  await mkdir(machine.path("data", "hivemind-core"), { recursive: true });
  const clients = await readFile(join(fixtures, "clients-hivemind-json-db.json"), "utf8");
  // A number that JavaScript would not carry.
  await writeFile(
    machine.path("data", "hivemind-core", "clients.json"),
    clients.replace('"api_key"', '"exact": 12345678901234567890, "api_key"'),
  );
  const file = machine.path("clients.jsonl");
  const args = ["migrate", "--from", json, "--to", "my-db-plugin", "--to-setting", `file=${file}`];
  const migrated = await machine.run([...args, "--json"], inProject);
  expect(migrated.stderr).toBe("");
  expect(JSON.parse(migrated.stdout)).toMatchObject({
    migrated: { verified: true, to: { place: file } },
  });
  expect(await readFile(file, "utf8")).toContain("kitchen-satellite");
  expect(await readFile(file, "utf8")).toContain("12345678901234567890");
  const switched = await machine.run([...args, "--merge", "--switch"], inProject);
  expect(switched.code).toBe(17);
  expect(switched.stderr).toContain("no hub has the database plugin my-db-plugin");
  // An error that the plugin got from the library is one to the command.
  const nowhere = ["migrate", "--from", "my-db-plugin", "--from-setting", "file=/nowhere"];
  const absent = await machine.run([...nowhere, "--to", json], inProject);
  expect(absent).toMatchObject({
    code: 10,
    stderr: expect.stringContaining("there is no /nowhere"),
  });
});
