// A rotation with its verification, beside a bare sqlcipher_export of the same store: see scripts/bench.
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { unlockStore } from "../dist/index.js";
import { bigClients, command, machine, measured, ours, span } from "./bench-tools.mjs";

const [, script, runs = "3", size = "1024", bare] = process.argv;

if (bare !== undefined) {
  // The peer, a process of its own as ours is: `node bench-rotate.mjs 0 0 STORE COPY`.
  writeFileSync(process.argv[5], "");
  const store = await unlockStore(bare, { kind: "keyring" }, { mode: "readwrite" });
  await store.connection.all("ATTACH ? AS copy KEY 'another passphrase'", [process.argv[5]]);
  await store.connection.all("SELECT sqlcipher_export('copy')");
  await store.close();
  process.exit();
}

const folder = mkdtempSync(join(homedir(), "bench-"));
const store = join(folder, "clients.db");
const global = ["--db", store, "--config", join(folder, "config.json")];
mkdirSync(join(folder, "bundles"));
ours("init", ...global, "--recovery-key-file", join(folder, "key"));
const filled = await unlockStore(store, { kind: "keyring" }, { mode: "readwrite" });
await filled.addItems(bigClients(Number(size) * 1024 * 1024));
await filled.close();

const rotations = [];
const exports = [];
for (let turn = 0; turn < Number(runs); turn++) {
  exports.push(await measured(process.execPath, script, "0", "0", store, join(folder, "copy.db")));
  rmSync(join(folder, "copy.db"));
  rotations.push(
    await measured(
      ...[process.execPath, command, "rotate", ...global, "--json", "--quiet"],
      ...["--hub", "none", "--service", "none", "--bundle-to", join(folder, "bundles")],
    ),
  );
}
const seconds = (results) => results.map((result) => result.seconds);
const ratios = rotations.map((rotation, turn) => rotation.seconds / exports[turn].seconds);
const mib = Math.round(statSync(store).size / 1024 / 1024);
console.log(
  `\nRotation of ${mib} MiB, verified, seconds, median of ${runs} in turns (smallest to largest)`,
);
console.log(`${machine()}\n`);
console.log("hivemind-sqlcipher rotate   bare sqlcipher_export   ratio              peak memory");
console.log(
  `${span(seconds(rotations), 1).padEnd(27)} ${span(seconds(exports), 1).padEnd(23)} ${span(ratios, 2).padEnd(18)} ${span(rotations.map((r) => r.mebibytes))} MiB`,
);
rmSync(folder, { recursive: true });
