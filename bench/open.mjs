// Measures a short command and opening a store, in milliseconds, in turns. The whole command
// find-client by access key in a store of 1,000 clients runs against the shortest script with
// HiveMind's own plugin, against an empty Node.js process with a single call to the keyring, and
// against the shortest script that reads both secrets, opens the store and finds the client.
// Opening the store in the library runs against deriving its key each time. Run by scripts/bench.
//
// Usage: open.mjs [RUNS]
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { ClientStore, newClient, unlockStore } from "../dist/index.js";
import { identify } from "../dist/store/cipher.js";
import { command, inTurns, makeStore, report, run, say } from "./tools.mjs";

const runs = Number(process.argv[2] ?? 15);
const clients = 1_000;
const apiKey = (id) => id.toString(16).padStart(32, "0");
const wanted = apiKey(700);

const top = new URL("..", import.meta.url).pathname;
const python = `${run(join(top, "scripts/python-peers")).split("\n")[1]}/bin/python`;
const script = `import sys
from hivemind_sqlite_database import SQLiteDB
print(SQLiteDB(db_path=sys.argv[1], password=sys.stdin.read()).search_by_value("api_key", sys.argv[2]))`;
const oneCall = `require("keytar").getPassword("hivemind-sqlcipher", process.argv[1])`;
/** Its arguments are the store, its key_id and the client's key. It checks nothing. */
const shortest = `const { Database } = require("@journeyapps/sqlcipher");
const { getPassword } = require("keytar");
async function find([store, keyId, apiKey]) {
  await getPassword("hivemind-sqlcipher", store);
  const derived = await getPassword("hivemind-sqlcipher", store + "#derived:" + keyId);
  const [, , salt, key] = derived.split(":");
  const database = new Database(store);
  database.serialize();
  database.run(\`PRAGMA key = "x'\${key}\${salt}'"\`);
  database.get("SELECT * FROM clients WHERE api_key = ?", [apiKey], (error, row) =>
    console.log(error ?? row.client_id),
  );
  database.close();
}
find(process.argv.slice(1));`;

function milliseconds(program, args, input = "") {
  const start = performance.now();
  execFileSync(program, args, { input, cwd: top, stdio: ["pipe", "pipe", "inherit"] });
  return performance.now() - start;
}

async function opening(open) {
  const start = performance.now();
  await (await open()).close();
  return performance.now() - start;
}

const directory = mkdtempSync(join(homedir(), "bench-"));
const { store, global } = await makeStore(directory, 0);
const filled = await unlockStore(store, { kind: "keyring" }, { mode: "readwrite" });
await filled.addItems(
  Array.from({ length: clients }, (_, id) =>
    newClient({ client_id: id + 1, api_key: apiKey(id + 1) }),
  ),
);
await filled.close();
const lookup = ["lookup", "service", "hivemind-sqlcipher", "account", store];
const passphrase = run("secret-tool", ...lookup);
const find = [command, "find-client", ...global, "--by", "api_key", wanted];
const peer = ["-c", script, store, wanted];
const { keyId } = await identify(store);
const same = ["-e", shortest, store, keyId, wanted];
for (const found of [
  run(process.execPath, ...find),
  run(process.execPath, ...same),
  execFileSync(python, peer, { input: passphrase }),
]) {
  if (!found.toString().includes("700")) throw new Error("the client was not found");
}

const whole = { ours: [], python: [], keyring: [], shortest: [] };
const opened = { ours: [], deriving: [] };
await inTurns(runs, [...Object.values(whole), ...Object.values(opened)], async () => {
  whole.ours.push(milliseconds(process.execPath, find));
  whole.python.push(milliseconds(python, peer, passphrase));
  whole.keyring.push(milliseconds(process.execPath, ["-e", oneCall, store]));
  whole.shortest.push(milliseconds(process.execPath, same));
  opened.ours.push(
    await opening(() => unlockStore(store, { kind: "keyring" }, { mode: "readwrite" })),
  );
  opened.deriving.push(await opening(() => ClientStore.open(store, passphrase)));
});
rmSync(directory, { recursive: true });
say(`opening: done, ${whole.ours.length} turns`);

const version = run(
  ...[
    python,
    "-c",
    "from importlib.metadata import version; print(version('hivemind-sqlite-database'))",
  ],
).trim();
report({
  versions: { "hivemind-sqlite-database": version, python: run(python, "-V").split(" ")[1].trim() },
});
report({
  work: `find-client by key, whole command, ${clients.toLocaleString("en")} clients`,
  unit: "ms",
  ours: whole.ours,
  peers: [
    { name: "hivemind-sqlite-database, the shortest script", values: whole.python, at_most: 0.2 },
    { name: "an empty node process and the keyring call", values: whole.keyring, at_most: 1.4 },
    {
      name: "the shortest script with the same parts",
      values: whole.shortest,
      aim: "a figure, no aim",
    },
  ],
  note: "docs/design/performance.md says where the time goes; the shortest script checks nothing",
});
report({
  work: "open an existing store in the library, passphrase in the keyring",
  unit: "ms",
  ours: opened.ours,
  peers: [{ name: "the same by deriving the key", values: opened.deriving, at_most: 0.1 }],
});
