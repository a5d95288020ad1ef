// A rotation with its verification, beside a bare sqlcipher_export of the same store: see scripts/bench.
//
// Usage: bench-rotate SIZE_MIB RUNS
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { unlockStore } from "../dist/index.js";
import { command, makeStore, measured, report, say, sizeName } from "./bench-tools.mjs";

if (process.argv[2] === "export") {
  // The peer, a process of its own as ours is: `node bench-rotate.mjs export STORE COPY`.
  const [, , , from, to] = process.argv;
  writeFileSync(to, "");
  const store = await unlockStore(from, { kind: "keyring" }, { mode: "readwrite" });
  await store.connection.all("ATTACH ? AS copy KEY 'another passphrase'", [to]);
  await store.connection.all("SELECT sqlcipher_export('copy')");
  await store.close();
  process.exit();
}

const [mebibytes = 1024, runs = 3] = process.argv.slice(2).map(Number);
const folder = mkdtempSync(join(homedir(), "bench-"));
const { store, global } = await makeStore(folder, mebibytes);
mkdirSync(join(folder, "bundles"));
const work = `rotate ${sizeName(mebibytes)}, every row compared`;
say(work);

const rotations = [];
const exports = [];
const copy = join(folder, "copy.db");
for (let turn = 0; turn < runs; turn++) {
  exports.push(await measured(process.execPath, process.argv[1], "export", store, copy));
  rmSync(copy);
  rotations.push(
    await measured(
      ...[process.execPath, command, "rotate", ...global, "--json", "--quiet"],
      ...["--hub", "none", "--service", "none", "--bundle-to", join(folder, "bundles")],
    ),
  );
}
report({
  work,
  unit: "s",
  ours: rotations.map(({ seconds }) => seconds),
  peers: [
    { name: "bare sqlcipher_export", values: exports.map(({ seconds }) => seconds), at_most: 1.3 },
  ],
});
rmSync(folder, { recursive: true });
