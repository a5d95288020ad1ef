/**
 * Copies every client of an encrypted store into HiveMind's JSON database and compares both, under
 * the operation lock of the store. The database is the file SUBFOLDER/clients.json in
 * $XDG_DATA_HOME, or in ~/.local/share.
 *
 *   node copy-to-json.mjs STORE SUBFOLDER
 */
import { migrate } from "hivemind-sqlcipher";

const [path, subfolder] = process.argv.slice(2);
if (subfolder === undefined) throw new Error("usage: node copy-to-json.mjs STORE SUBFOLDER");

const { clients, verified } = await migrate({
  from: {
    name: "hivemind-sqlcipher-db-plugin",
    config: { db_path: path, password_source: "keyring" },
  },
  to: { name: "hivemind-json-db-plugin", config: { name: "clients", subfolder } },
});
console.log(`${clients.active} active, ${clients.revoked} revoked, verified: ${verified}`);
