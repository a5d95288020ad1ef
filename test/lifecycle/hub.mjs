// A hub in miniature, started by a unit: opens the store, with a passphrase out of the keyring if it is encrypted, says
// that it is ready, and holds it open until it is stopped. Usage: node hub.mjs STORE
import { spawnSync } from "node:child_process";
import { unlock } from "../../dist/keys/unlock.js";
import { identify } from "../../dist/store/cipher.js";
import { Connection } from "../../dist/store/connection.js";

const [, , path] = process.argv;
const { format } = await identify(path);
const connection =
  format === "plaintext"
    ? await Connection.open(path, { mode: "readwrite" })
    : (await unlock(path, { kind: "keyring" }, { mode: "readwrite" })).connection;
await connection.all("SELECT count(*) FROM clients");
spawnSync("systemd-notify", ["--ready"]);
setInterval(() => {}, 60_000);
process.on("SIGTERM", async () => {
  await connection.close();
  process.exit(0);
});
