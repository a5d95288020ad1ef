// Revokes a client as a hub would, without regard to an operation. Usage: node revoke-client.mjs
// STORE ID
import "../known-keys.ts";
import { openWithSource } from "../../dist/keys/unlock.js";

const [, , path, id] = process.argv;
const store = await openWithSource(path, { kind: "keyring" }, { mode: "readwrite" });
await store.deleteItem(Number(id));
await store.close();
