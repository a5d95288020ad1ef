// A minimal hub: holds the store open and commits new clients continuously. Records and syncs each
// in its log after the commit has returned.
//
// Usage: node writer.mjs STORE PASSPHRASE-FILE LOG [PAUSE-MS]
import "../known-keys.ts";
import { execFileSync } from "node:child_process";
import { fsyncSync, openSync, readFileSync, writeSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { openEncrypted } from "../../dist/store/cipher.js";

const [, , path, passphraseFile, logPath, pause = "1"] = process.argv;
const passphrase = readFileSync(passphraseFile, "utf8");
const { connection } = await openEncrypted(path, passphrase, { mode: "readwrite" });
const log = openSync(logPath, "a");
const insert = await connection.prepare(
  "INSERT INTO clients (client_id, api_key, name) VALUES ((SELECT max(client_id) + 1 FROM clients), ?, ?)",
);
const newest = await connection.prepare("SELECT max(client_id) AS id FROM clients");

let running = true;
process.on("SIGTERM", () => {
  running = false;
});
for (let turn = 0; running; turn++) {
  await insert.run([`key ${process.pid} ${turn}`, "x".repeat(turn % 3000)]);
  const { id } = await newest.get();
  writeSync(log, `${id}\n`);
  fsyncSync(log);
  // Report ready after the first write, because the test may then block further writes.
  if (turn === 0 && process.env.NOTIFY_SOCKET) execFileSync("systemd-notify", ["--ready"]);
  await delay(Number(pause));
}
await connection.close();
