// Measures a whole rotation with its verification, without a service, against a bare
// sqlcipher_export of the same store. Run by scripts/bench.
//
// Usage: rotate.mjs SIZE_MIB:RUNS...
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { command, inTurns, makeStore, measured, report, say, sizeName } from "./tools.mjs";

const exporter = new URL("export.mjs", import.meta.url).pathname;

for (const argument of process.argv.slice(2)) {
  const [mebibytes, runs] = argument.split(":").map(Number);
  const work = `rotate ${sizeName(mebibytes)}, every page compared`;
  say(work);
  const directory = mkdtempSync(join(homedir(), "bench-"));
  const { store, global } = await makeStore(directory, mebibytes);
  const bundles = join(directory, "bundles");
  const copy = join(directory, "copy.db");
  mkdirSync(bundles);
  const rotations = [];
  const exports = [];
  const peaks = [];
  // Watching a service for a second is not part of the compared work.
  const options = ["--json", "--quiet", "--hub", "none", "--service", "none"];
  await inTurns(runs, [rotations, exports], async () => {
    exports.push((await measured(process.execPath, exporter, store, copy)).seconds);
    rmSync(copy);
    const args = ["rotate", ...global, ...options, "--bundle-to", bundles];
    const rotation = await measured(process.execPath, command, ...args);
    rotations.push(rotation.seconds);
    peaks.push(rotation.mebibytes);
  });
  rmSync(directory, { recursive: true });
  report({
    ...{ work, unit: "s", ours: rotations },
    peers: [{ name: "bare sqlcipher_export", values: exports, at_most: 2 }],
    note: `peak memory of the command: ${Math.round(Math.max(...peaks))} MiB`,
  });
}
