// Measures a rotation with its verification and its downtime, against a bare sqlcipher_export of
// the same store. Run by scripts/bench.
//
// Usage: rotate.mjs SIZE_MIB RUNS
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { unlockStore } from "../dist/index.js";
import {
  command,
  makeStore,
  measured,
  report,
  runHub,
  say,
  sizeName,
  systemctl,
} from "./tools.mjs";

if (process.argv[2] === "export") {
  // The peer runs in a process of its own, like the rotation: `node rotate.mjs export STORE COPY`.
  const [, , , from, to] = process.argv;
  writeFileSync(to, "");
  const store = await unlockStore(from, { kind: "keyring" }, { mode: "readwrite" });
  await store.connection.all("ATTACH ? AS copy KEY 'another passphrase'", [to]);
  await store.connection.all("SELECT sqlcipher_export('copy')");
  await store.close();
  process.exit();
}

const [mebibytes = 1024, runs = 3] = process.argv.slice(2).map(Number);
const directory = mkdtempSync(join(homedir(), "bench-"));
const { store, global } = await makeStore(directory, mebibytes);
mkdirSync(join(directory, "bundles"));
runHub(store);
say(`rotate ${sizeName(mebibytes)}`);

const rotate = (...service) =>
  measured(
    ...[process.execPath, command, "rotate", ...global, "--json", "--quiet", "--hub", "none"],
    ...["--bundle-to", join(directory, "bundles"), ...service],
  );
const rotations = [];
const exports = [];
const away = { ours: [], plain: [] };
const copy = join(directory, "copy.db");
for (let turn = 0; turn < runs; turn++) {
  const stopped = performance.now();
  systemctl("stop", "bench-hub");
  exports.push(await measured(process.execPath, process.argv[1], "export", store, copy));
  systemctl("start", "bench-hub");
  away.plain.push((performance.now() - stopped) / 1000);
  rmSync(copy);
  const besideHub = await rotate("--unit", "bench-hub");
  away.ours.push(JSON.parse(besideHub.output).service.stopped_ms / 1000);
  // Measure without a service, because watching a hub for a second is not part of the compared
  // work.
  systemctl("stop", "bench-hub");
  rotations.push(await rotate("--service", "none"));
  systemctl("start", "bench-hub");
}
systemctl("stop", "bench-hub");
const secondsOf = (results) => results.map(({ seconds }) => seconds);
report({
  work: `rotate ${sizeName(mebibytes)}, every row compared`,
  unit: "s",
  ours: secondsOf(rotations),
  peers: [{ name: "bare sqlcipher_export", values: secondsOf(exports), at_most: 1.3 }],
});
report({
  work: "service away meanwhile",
  unit: "s",
  ours: away.ours,
  peers: [
    {
      name: "stop, bare export, start",
      values: away.plain,
      aim: "an export follows the last write",
    },
  ],
});
rmSync(directory, { recursive: true });
