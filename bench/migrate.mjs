// Measures a migration from the encrypted store to a Redis server and back, with every record read
// back and compared, against the loop of HiveMind's manual in Python, which adds the clients one by
// one and compares nothing. Run by scripts/bench.
//
// docs/design/performance.md has the time of each part.
//
// Usage: migrate.mjs CLIENTS RUNS
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseFactory, newClient } from "../dist/index.js";
import { median, report, say } from "./tools.mjs";

const [count = 100_000, runs = 3] = process.argv.slice(2).map(Number);
/** The loop takes the same time for each client, whatever their number. */
const loopCount = Math.min(count, 20_000);
const root = new URL("..", import.meta.url).pathname;
const directory = mkdtempSync(join(tmpdir(), "hivemind-bench-"));
const sqlcipher = "hivemind-sqlcipher-db-plugin";
const redis = "hivemind-redis-db-plugin";

function* clients(number) {
  for (let id = 1; id <= number; id++) {
    const hex = id.toString(16).padStart(32, "0");
    yield newClient({
      ...{ client_id: id, api_key: hex, name: `HiveMind-Node-${id}`, password: hex },
      metadata: {
        room: `room ${id % 100}`,
        skill_blacklist: id % 10 === 0 ? ["skill-volume"] : [],
      },
    });
  }
}

function store(name) {
  return { name: sqlcipher, config: { db_path: join(directory, `${name}.db`), password: "bench" } };
}

async function fill({ name, config }, number) {
  const database = await DatabaseFactory.create(name, config);
  await database.addItems(clients(number));
  await database.close();
}

function remove({ config }) {
  for (const end of ["", "-wal", "-shm"]) rmSync(config.db_path + end, { force: true });
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/**
 * Runs a migration in a new process. Returns microseconds per client and the peak memory in
 * megabytes.
 */
function migrate(from, to) {
  // The command sets the same flags.
  const script = `import { setFlagsFromString } from "node:v8";
import { migrate } from ${JSON.stringify(`${root}dist/index.js`)};
setFlagsFromString("--semi-space-growth-factor=1");
setFlagsFromString("--heap-growing-percent=30");
const began = performance.now();
const done = await migrate(${JSON.stringify({ from, to })});
if (!done.verified) throw new Error("not verified");
console.log(JSON.stringify({ ms: performance.now() - began, megabytes: process.resourceUsage().maxRSS / 1024 }));`;
  const output = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    env: { ...process.env, XDG_DATA_HOME: directory },
  });
  const { ms, megabytes } = JSON.parse(output);
  return { each: (ms * 1000) / count, megabytes };
}

/** The manual's loop, which adds the clients of a plugin to another. */
function loop(python, from, to) {
  const script = `
import time
from ovos_utils.log import LOG
LOG.set_level("ERROR")
from hivemind_redis_database import RedisDB
from hivemind_sqlite_database import SQLiteDB
def store(name):
    return SQLiteDB(name=name, subfolder="${directory}", password="bench")
source, target = ${from}, ${to}
began = time.monotonic()
for client in source:
    target.add_item(client)
took = time.monotonic() - began
assert len(target) == ${loopCount}
print(took)`;
  const { stdout, status, stderr } = spawnSync(`${python}/bin/python`, ["-c", script], {
    encoding: "utf8",
    env: { ...process.env, XDG_DATA_HOME: directory, XDG_STATE_HOME: directory },
  });
  if (status !== 0) throw new Error(stderr);
  return (Number(stdout.trim().split("\n").at(-1)) * 1e6) / loopCount;
}

/**
 * Returns the commands that write the same keys, for redis-cli: they show the server's own time.
 */
function writeCommands(path) {
  const parts = [];
  const add = (...words) => {
    parts.push(`*${words.length}\r\n`);
    for (const word of words) parts.push(`$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  };
  for (const { client_id, api_key, name, ...rest } of clients(loopCount)) {
    const id = String(client_id);
    const record = JSON.stringify({ ...rest, client_id, api_key, name, description: "" });
    add("SET", `raw:client:${id}`, record);
    add("SADD", `raw:name:${name}`, id);
    add("SADD", `raw:api_key:${api_key}`, id);
    add("HSET", `raw:idx:${id}`, "name", name, "api_key", api_key);
  }
  writeFileSync(path, parts.join(""));
}

const port = await freePort();
const server = spawn("redis-server", [
  ...["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory],
]);
try {
  await once(server.stdout, "data");
  server.stdout.resume();
  const redisCli = (stdin, ...args) =>
    execFileSync("redis-cli", ["-p", String(port), ...args], {
      stdio: [stdin, "ignore", "inherit"],
    });
  const [, python] = execFileSync(`${root}scripts/python-peers`, { encoding: "utf8" }).split("\n");
  const hub = { name: redis, config: { port } };
  const [ours, back] = [store("ours"), store("back")];
  say(`migrate ${count.toLocaleString("en")} clients`);
  await fill(ours, count);
  await fill(store("loop"), loopCount);
  const commands = join(directory, "commands");
  writeCommands(commands);

  const [there, here, loopThere, loopBack, raw] = [[], [], [], [], []];
  for (let turn = 0; turn < runs; turn++) {
    redisCli("ignore", "FLUSHALL");
    there.push(migrate(ours, hub));
    remove(back);
    here.push(migrate(hub, back));
    redisCli("ignore", "FLUSHALL");
    loopThere.push(loop(python, 'store("loop")', `RedisDB(port=${port})`));
    remove(store("python"));
    loopBack.push(loop(python, `RedisDB(port=${port})`, 'store("python")'));
    const began = performance.now();
    redisCli(openSync(commands), "--pipe");
    raw.push(((performance.now() - began) * 1000) / loopCount);
  }
  const line = (way, done, peers) => {
    const each = done.map((one) => one.each);
    const most = Math.round(Math.max(...done.map(({ megabytes }) => megabytes)));
    report({
      work: `migrate ${count.toLocaleString("en")} clients ${way}, every record compared`,
      unit: "µs a client",
      ours: each,
      peers,
      note: `${Math.round(1e6 / median(each)).toLocaleString("en")} clients a second, ${most} MB at most`,
    });
  };
  const manual = `the manual's loop in Python, ${loopCount.toLocaleString("en")} of them, none compared`;
  line("SQLCipher to Redis", there, [
    { name: manual, values: loopThere, at_most: 0.05 },
    { name: "redis-cli --pipe of the same keys", values: raw, aim: "the server's own limit" },
  ]);
  line("Redis to SQLCipher", here, [{ name: manual, values: loopBack, at_most: 0.05 }]);
} finally {
  server.kill();
  await once(server, "exit");
  rmSync(directory, { recursive: true });
}
