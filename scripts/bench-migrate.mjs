// bench-migrate [CLIENTS] [--python]
//
// Moves so many clients (default 100,000) from an encrypted store to a Redis server and back, with this project's own
// `migrate`: seconds, clients a second, and the memory it took at most. With --python, also the loop of HiveMind's
// manual, which adds them to Redis one by one, on the first 20,000 of them. Needs dist/ (npm run build) and redis-server.
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseFactory, newClient } from "../dist/index.js";

const count = Number(process.argv.find((argument) => /^\d+$/.test(argument)) ?? 100_000);
const pythonCount = Math.min(count, 20_000);
const root = new URL("..", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "hivemind-bench-"));
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

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Runs one migration in a process of its own, and answers its seconds and its largest memory in megabytes. */
function migrate(from, to) {
  const script = `import { migrate } from ${JSON.stringify(`${root}dist/index.js`)};
const began = performance.now();
const done = await migrate(${JSON.stringify({ from, to })});
if (!done.verified) throw new Error("not verified");
console.log(JSON.stringify({ seconds: (performance.now() - began) / 1000, megabytes: process.resourceUsage().maxRSS / 1024 }));`;
  const output = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    env: { ...process.env, XDG_DATA_HOME: folder },
  });
  return JSON.parse(output);
}

function say(what, number, { seconds, megabytes }) {
  const memory = megabytes === undefined ? "" : `, ${Math.round(megabytes)} MB at most`;
  const rate = Math.round(number / seconds).toLocaleString("en");
  console.log(
    `${what}: ${number.toLocaleString("en")} clients in ${seconds.toFixed(1)} s, ${rate} a second${memory}`,
  );
}

const port = await freePort();
const server = spawn("redis-server", [
  ...["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
]);
try {
  await once(server.stdout, "data");
  const store = {
    name: sqlcipher,
    config: { db_path: join(folder, "clients.db"), password: "bench" },
  };
  const back = { name: sqlcipher, config: { db_path: join(folder, "back.db"), password: "bench" } };
  const hub = { name: redis, config: { port } };
  const database = await DatabaseFactory.create(store.name, store.config);
  await database.addItems(clients(count));
  await database.close();
  const there = migrate(store, hub);
  say("SQLCipher to Redis", count, there);
  say("Redis to SQLCipher", count, migrate(hub, back));

  if (process.argv.includes("--python")) {
    const [, development] = execFileSync(`${root}scripts/python-peers`, { encoding: "utf8" }).split(
      "\n",
    );
    const script = `
import time, sys
from hivemind_plugin_manager.database import Client
from hivemind_redis_database import RedisDB
db = RedisDB(port=${port}, index_prefix="python")
began = time.monotonic()
for i in range(1, ${pythonCount} + 1):
    key = "%032x" % i
    db.add_item(Client(client_id=i, api_key=key, name="HiveMind-Node-%d" % i, password=key))
print(time.monotonic() - began)`;
    const { stdout } = spawnSync(`${development}/bin/python`, ["-c", script], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    const seconds = Number(stdout.trim().split("\n").at(-1));
    say("the manual's loop, to Redis", pythonCount, { seconds });
    const times = count / there.seconds / (pythonCount / seconds);
    console.log(`migrate is ${times.toFixed(1)} times as fast, with every record compared`);
  }
} finally {
  server.kill();
  await once(server, "exit");
  rmSync(folder, { recursive: true });
}
