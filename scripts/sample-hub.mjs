// A stand-in for a hub, for quickstart: holds the store open, fills it once, then notes a client's
// last_seen again and again, as a hub does on every message. Usage: node sample-hub.mjs STORE
// With --unit before STORE, prints a unit that runs it.
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { newClient, unlockStore } from "../dist/index.js";
import { quoteCommand } from "../dist/service/unit-file.js";

const rooms = [
  "kitchen",
  "hall",
  "garage",
  "study",
  "Wohnzimmer",
  "salle à manger",
  "玄関",
  "attic",
];
const kinds = ["satellite", "panel", "speaker", "phone"];

function* sampleClients(count) {
  for (let id = 1; id <= count; id++) {
    yield newClient({
      client_id: id,
      api_key: randomBytes(16).toString("hex"),
      name: `${rooms[id % rooms.length]} ${kinds[id % kinds.length]} ${id}`,
      password: randomBytes(16).toString("hex"),
      is_admin: id === 1,
      can_broadcast: id % 3 !== 0,
      metadata: id % 10 === 0 ? { skill_blacklist: ["skill-shutdown"] } : {},
    });
  }
}

if (process.argv[2] === "--unit") {
  const command = [process.execPath, fileURLToPath(import.meta.url), process.argv[3]];
  console.log(`[Unit]
Description=A stand-in for the HiveMind hub: it holds its client store open and writes to it
[Service]
Type=notify
NotifyAccess=all
ExecStart=${quoteCommand(...command)}`);
  process.exit();
}

const store = await unlockStore(process.argv[2], { kind: "keyring" }, { mode: "readwrite" });
if ((await store.size()) === 0) await store.addItems(sampleClients(250));
const count = await store.size();
if (process.env.NOTIFY_SOCKET) await promisify(execFile)("systemd-notify", ["--ready"]);

let running = true;
process.on("SIGTERM", () => {
  running = false;
});
for (let turn = 0; running; turn++) {
  await store.updateClient((turn % count) + 1, { last_seen: Date.now() / 1000 });
  await new Promise((resolve) => setTimeout(resolve, 20));
}
await store.close();
