// Measures a rotation with its verification and its downtime, against a bare sqlcipher_export of
// the same store. Run by scripts/bench.
//
// Usage: rotate.mjs SIZE_MIB:RUNS...
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

const secondsOf = (results) => results.map(({ seconds }) => seconds);

/** Rotates a store of this size with and without a hub, and exports it. */
async function measure(mebibytes, runs) {
  const directory = mkdtempSync(join(homedir(), "bench-"));
  const { store, global } = await makeStore(directory, mebibytes);
  mkdirSync(join(directory, "bundles"));
  runHub(store);
  const rotate = (...service) =>
    measured(
      ...[process.execPath, command, "rotate", ...global, "--json", "--quiet", "--hub", "none"],
      ...["--bundle-to", join(directory, "bundles"), ...service],
    );
  const figures = { rotations: [], exports: [], away: [], plain: [] };
  const copy = join(directory, "copy.db");
  for (let turn = 0; turn < runs; turn++) {
    const stopped = performance.now();
    systemctl("stop", "bench-hub");
    figures.exports.push(await measured(process.execPath, process.argv[1], "export", store, copy));
    systemctl("start", "bench-hub");
    figures.plain.push(performance.now() - stopped);
    rmSync(copy);
    const besideHub = await rotate("--unit", "bench-hub");
    figures.away.push(JSON.parse(besideHub.output).service.stopped_ms);
    // Measure without a service, because watching a hub for a second is not part of the compared
    // work.
    systemctl("stop", "bench-hub");
    figures.rotations.push(await rotate("--service", "none"));
    systemctl("start", "bench-hub");
  }
  systemctl("stop", "bench-hub");
  rmSync(directory, { recursive: true });
  return figures;
}

let smallest;
for (const argument of process.argv.slice(2)) {
  const [mebibytes, runs] = argument.split(":").map(Number);
  say(`rotate ${sizeName(mebibytes)}`);
  const { rotations, exports, away, plain } = await measure(mebibytes, runs);
  report({
    work: `rotate ${sizeName(mebibytes)}, every page compared`,
    unit: "s",
    ours: secondsOf(rotations),
    peers: [{ name: "bare sqlcipher_export", values: secondsOf(exports), at_most: 2 }],
  });
  const peers = [{ name: "stop, bare export, start", values: plain, at_most: 1 }];
  if (smallest === undefined)
    smallest = { name: `the same at ${sizeName(mebibytes)}`, values: away };
  else peers.push({ ...smallest, at_most: 1.5 });
  report({
    work: `service away, rotation of ${sizeName(mebibytes)}`,
    unit: "ms",
    ours: away,
    peers,
  });
}
