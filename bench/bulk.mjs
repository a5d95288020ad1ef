// Measures adding, looking up and iterating over many clients, against HiveMind's plugin and a
// synchronous binding. Run by scripts/bench.
//
// Usage: bulk.mjs CLIENTS ADDED RUNS PYTHON BETTER_SQLITE3_DIRECTORY
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ClientStore, defaultAllowedTypes, newClient } from "../dist/index.js";
import { report, say, seconds } from "./tools.mjs";

const script = new URL(import.meta.url).pathname;
const plugin = new URL("./plugin.py", import.meta.url).pathname;
/** Concurrent lookups: more than a hub requests at once, fewer than an import. */
const sideBySide = 1_000;

const textOf = (number) => createHash("md5").update(String(number)).digest("hex");
const keysOf = (clients, lookups) =>
  Array.from({ length: lookups }, (_, turn) => textOf(1 + ((turn * 611953) % clients)));

function* manyClients(count) {
  for (let id = 1; id <= count; id++) {
    yield newClient({
      client_id: id,
      api_key: textOf(id),
      name: `HiveMind-Node-${id}`,
      password: textOf(-id),
      allowed_types: [...defaultAllowedTypes],
      metadata: { room: `room ${id % 100}` },
    });
  }
}

/** The work of this project's processes. */
const ours = {
  async add(store, count) {
    await store.addItems(manyClients(count));
    return count;
  },
  async addInOne(store, count) {
    await store.transaction(() => store.addItems(manyClients(count)));
    return count;
  },
  async lookup(store, _count, keys) {
    let found = 0;
    for (let start = 0; start < keys.length; start += sideBySide) {
      const asked = keys.slice(start, start + sideBySide);
      const clients = await Promise.all(asked.map((key) => store.getClientByApiKey(key)));
      found += clients.filter((client) => client !== undefined).length;
    }
    return found;
  },
  async iterate(store) {
    let found = 0;
    for await (const _ of store) found += 1;
    return found;
  },
};

/** The same work with the synchronous binding, which returns rows instead of clients. */
const synchronous = {
  addInOne(database, count) {
    const insert = database.prepare(
      `INSERT INTO clients VALUES (${Array(16).fill("?").join(", ")})`,
    );
    database.transaction(() => {
      for (const c of manyClients(count)) {
        insert.run(
          ...[c.client_id, c.api_key, c.name, c.description, Number(c.is_admin), c.last_seen],
          ...[null, null, null, JSON.stringify(c.allowed_types), c.crypto_key, c.password],
          ...[Number(c.can_broadcast), Number(c.can_escalate), Number(c.can_propagate)],
          JSON.stringify(c.metadata),
        );
      }
    })();
    return count;
  },
  lookup(database, _count, keys) {
    const select = database.prepare("SELECT * FROM clients WHERE api_key = ?");
    let found = 0;
    for (const key of keys) if (select.get(key) !== undefined) found += 1;
    return found;
  },
};

async function work(who, what, path, count, lookups, bindings) {
  const keys = keysOf(count, lookups);
  let found = 0;
  let took = 0;
  if (who === "ours") {
    await withStore(await ClientStore.open(path, "bench", { mode: "create" }), async (store) => {
      took = await seconds(async () => {
        found = await ours[what](store, count, keys);
      });
    });
  } else {
    const Database = createRequire(join(bindings, "package.json"))(
      "better-sqlite3-multiple-ciphers",
    );
    const database = new Database(path);
    for (const pragma of ["cipher='sqlcipher'", "legacy=4", "key='bench'", "journal_mode=WAL"]) {
      database.pragma(pragma);
    }
    took = await seconds(() => {
      found = synchronous[what](database, count, keys);
    });
    database.close();
  }
  const expected = what === "lookup" ? lookups : count;
  if (found !== expected) throw new Error(`${who} ${what}: ${found} of ${expected}`);
  const mebibytes = process.resourceUsage().maxRSS / 1024;
  console.log(JSON.stringify({ seconds: took, mebibytes }));
}

async function withStore(store, body) {
  try {
    await body(store);
  } finally {
    await store.close();
  }
}

async function compare([clients, added, runs], python, bindings) {
  const directory = mkdtempSync(join(tmpdir(), "hivemind-bench-"));
  const store = join(directory, "clients.db");
  const fresh = join(directory, "fresh.db");
  const turn = (program, args) => {
    const options = { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] };
    const lines = execFileSync(program, args.map(String), options).trim().split("\n");
    return JSON.parse(lines.at(-1));
  };
  const node = (who, what, path, count = clients, lookups = 0) =>
    turn(process.execPath, [script, who, what, path, count, lookups, bindings]);
  const peer = (what, path, count = clients, lookups = 0) =>
    turn(python, [plugin, what, path, count, lookups]);
  /** Measures in a new, empty store. */
  const onFresh = (measure) => {
    for (const suffix of ["", "-wal", "-shm"]) rmSync(`${fresh}${suffix}`, { force: true });
    node("ours", "add", fresh, 0);
    return measure();
  };
  const inTurns = (measures) => {
    const results = measures.map(() => []);
    for (let run = 0; run < runs; run++) {
      for (const [index, measure] of measures.entries()) results[index].push(measure());
    }
    return results;
  };
  const secondsOf = (results) => results.map((result) => result.seconds);
  const number = (count) => count.toLocaleString("en");

  try {
    say(`adding ${number(added)} clients`);
    // The plugin's loop takes minutes, so it runs only once.
    const loop = [onFresh(() => peer("add", fresh, added))];
    const [add, addInOne, addSync] = inTurns([
      () => onFresh(() => node("ours", "add", fresh, added)),
      () => onFresh(() => node("ours", "addInOne", fresh, added)),
      () => onFresh(() => node("synchronous", "addInOne", fresh, added)),
    ]);
    report({
      work: `add ${number(added)} clients`,
      unit: "s",
      ours: secondsOf(add),
      peers: [{ name: "the Python plugin's loop", values: secondsOf(loop), at_most: 0.05 }],
    });
    report({
      work: "the same, in one transaction",
      unit: "s",
      ours: secondsOf(addInOne),
      peers: [{ name: "synchronous binding", values: secondsOf(addSync), at_most: 1.11 }],
    });

    say(`making a store of ${number(clients)} clients`);
    node("ours", "add", store);
    say(`looking up ${number(clients)} clients by api_key`);
    const [lookup, lookupSync, lookupPlugin] = inTurns([
      () => node("ours", "lookup", store, clients, clients),
      () => node("synchronous", "lookup", store, clients, clients),
      () => peer("lookup", store, clients, clients),
    ]);
    report({
      work: `${number(clients)} lookups by api_key, store of ${number(clients)}`,
      unit: "s",
      ours: secondsOf(lookup),
      peers: [
        { name: "the Python plugin", values: secondsOf(lookupPlugin), at_most: 1 },
        { name: "synchronous binding", values: secondsOf(lookupSync), at_most: 1.25 },
      ],
    });

    say(`iterating ${number(clients)} clients`);
    const small = join(directory, "small.db");
    node("ours", "add", small, Math.ceil(clients / 100));
    const [iterate, iteratePlugin, iterateSmall] = inTurns([
      () => node("ours", "iterate", store),
      () => peer("iterate", store),
      () => node("ours", "iterate", small, Math.ceil(clients / 100)),
    ]);
    report({
      work: `iterate ${number(clients)} clients`,
      unit: "s",
      ours: secondsOf(iterate),
      peers: [{ name: "the Python plugin", values: secondsOf(iteratePlugin), at_most: 1 }],
    });
    const memoryOf = (results) => results.map(({ mebibytes }) => mebibytes);
    report({
      work: "its memory at most",
      unit: "MiB",
      ours: memoryOf(iterate),
      peers: [
        { name: "a hundredth as many clients", values: memoryOf(iterateSmall), at_most: 1.5 },
        { name: "the Python plugin", values: memoryOf(iteratePlugin), aim: "" },
      ],
    });
    const packages = JSON.parse(
      execFileSync(python, ["-m", "pip", "list", "--format=json"], { encoding: "utf8" }),
    );
    const versionOf = (name) => packages.find((found) => found.name === name)?.version;
    const binding = createRequire(join(bindings, "package.json"));
    report({
      versions: {
        "hivemind-sqlite-database": versionOf("hivemind-sqlite-database"),
        sqlcipher3: versionOf("sqlcipher3"),
        "synchronous binding (better-sqlite3-multiple-ciphers)": binding(
          "better-sqlite3-multiple-ciphers/package.json",
        ).version,
      },
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const [first, ...rest] = process.argv.slice(2);
if (first === "ours" || first === "synchronous") {
  const [what, path, count, lookups, bindings] = rest;
  await work(first, what, path, Number(count), Number(lookups), bindings);
} else {
  const [added, runs, python, bindings] = rest;
  await compare([first, added, runs].map(Number), python, bindings);
}
