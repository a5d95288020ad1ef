// A minimal hub, started by a unit. Opens the store with a passphrase from a file or, if encrypted,
// from the keyring, reports that it is ready, and holds the store open until it is stopped. With
// "late" it fails only after it has reported ready. With HUB_WRITES it writes to the store all the
// time.
//
// Usage: node hub.mjs STORE [PASSPHRASE-FILE [late]]
import "../known-keys.ts";
import { spawnSync } from "node:child_process";
import { unlock } from "../../dist/keys/unlock.js";
import { identify } from "../../dist/store/cipher.js";
import { Connection } from "../../dist/store/connection.js";

const [, , path, file, late] = process.argv;
const source = file === undefined ? { kind: "keyring" } : { kind: "file", path: file };
const ready = () => spawnSync("systemd-notify", ["--ready"]);

if (late) ready();
const { format } = await identify(path);
const connection =
  format === "plaintext"
    ? await Connection.open(path, { mode: "readwrite" })
    : (await unlock(path, source, { mode: "readwrite" })).connection;
await connection.all("SELECT count(*) FROM clients");
if (!late) ready();
if (process.env.HUB_WRITES) {
  const write = "UPDATE clients SET last_seen = last_seen + 0.5 WHERE client_id > 2";
  setInterval(() => connection.run(write).catch(() => {}), 5);
} else setInterval(() => {}, 60_000);
process.on("SIGTERM", async () => {
  await connection.close();
  process.exit(0);
});
