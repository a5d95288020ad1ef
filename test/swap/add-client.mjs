// Adds a client as another command would, and records the outcome. Usage: node add-client.mjs STORE
// FILE
import "../known-keys.ts";
import { writeFileSync } from "node:fs";
import { newClient } from "../../dist/client/client.js";
import { openWithSource } from "../../dist/keys/unlock.js";

const [, , path, file] = process.argv;
let outcome = "added";
try {
  const store = await openWithSource(
    path,
    { kind: "keyring" },
    { mode: "readwrite", busyTimeoutMs: 100 },
  );
  try {
    await store.addItem(newClient({ client_id: 77, api_key: "in the middle" }));
  } finally {
    await store.close();
  }
} catch (error) {
  outcome = error.kind ?? String(error);
}
writeFileSync(file, outcome);
