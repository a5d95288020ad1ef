// A bare sqlcipher_export of a store, the peer of rotate, encrypt and decrypt.
//
// Usage: export.mjs STORE COPY
import { writeFileSync } from "node:fs";
import { unlockStore } from "../dist/index.js";

const [, , from, to] = process.argv;
writeFileSync(to, "");
const store = await unlockStore(from, { kind: "keyring" }, { mode: "readwrite" });
await store.connection.all("ATTACH ? AS copy KEY 'another passphrase'", [to]);
await store.connection.all("SELECT sqlcipher_export('copy')");
await store.close();
