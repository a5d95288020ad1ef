// A hub at full speed: holds the store open and commits writes continuously. Write s sets last_seen
// of client s % (CLIENTS - 1) + 1 to s, and every 50th write is a new client instead, so that any
// copy shows which writes it contains. PROGRESS contains the number of the last committed write.
// The results are appended to RUNS.
//
// Usage: node hub.mjs STORE CLIENTS PROGRESS RUNS
import { spawnSync } from "node:child_process";
import { appendFileSync, constants, openSync, readdirSync, writeSync } from "node:fs";
import { unlock } from "../../dist/keys/unlock.js";

const [, , path, clients, progressPath, runsPath] = process.argv;
const every = 50;
const count = Number(clients);
const note = (what) => appendFileSync(runsPath, `${JSON.stringify(what)}\n`);

const { connection } = await unlock(path, { kind: "keyring" }, { mode: "readwrite" });
const [{ found }] = await connection.all(
  "SELECT CAST(max(max(last_seen), 0) AS INTEGER) AS found FROM clients",
);
const insert = await connection.prepare(
  "INSERT INTO clients (client_id, api_key, name, last_seen, allowed_types) VALUES (?, ?, 'satellite', ?, '[]')",
);
const update = await connection.prepare("UPDATE clients SET last_seen = ? WHERE client_id = ?");
const progress = openSync(progressPath, constants.O_RDWR | constants.O_CREAT, 0o600);
const number = Buffer.alloc(8);

let running = true;
process.on("SIGTERM", () => {
  running = false;
});
note({ found, at: Date.now() });
spawnSync("systemd-notify", ["--ready"]);

let longest = 0;
let looked = performance.now();
let turn = found;
try {
  while (running) {
    const next = turn + 1;
    const began = performance.now();
    if (next % every === 0) {
      await insert.run([count + next / every, `key ${next}`, next]);
    } else {
      await update.run([next, (next % (count - 1)) + 1]);
    }
    const now = performance.now();
    longest = Math.max(longest, now - began);
    turn = next;
    number.writeDoubleBE(turn);
    writeSync(progress, number, 0, 8, 0);
    if (now - looked < 1000) continue;
    looked = now;
    const { rss } = process.memoryUsage();
    note({ rss, descriptors: readdirSync("/proc/self/fd").length });
  }
} catch (error) {
  note({ error: String(error) });
}
const at = Date.now();
await connection.close();
note({ committed: turn, at, longest_ms: Math.round(longest) });
