/**
 * Opens an encrypted store and prints its clients.
 *
 *   node read-clients.mjs /home/hub/.local/share/hivemind-core/clients.db
 */
import { isRevoked, unlockStore } from "hivemind-sqlcipher";

const [path] = process.argv.slice(2);
if (path === undefined) throw new Error("usage: node read-clients.mjs STORE");

const store = await unlockStore(path, { kind: "keyring" }, { mode: "readonly" });
try {
  for await (const client of store) {
    if (isRevoked(client)) continue;
    console.log(client.client_id, client.name, client.is_admin ? "admin" : "");
  }
} finally {
  await store.close();
}
