// Measures the downtime of the service for a backup, in milliseconds, against a plain script
// (systemctl stop, cp, systemctl start). Run by scripts/bench.
//
// Usage: downtime.mjs SIZE_MIB:RUNS ...
import { mkdtempSync, rmSync, statfsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { makeStore, ours, report, run, runHub, say, sizeName, systemctl } from "./tools.mjs";

const home = homedir();
/** The space for the store, the backup and the script's copy, in stores. */
const copies = 3.2;

function plainScript(store, copy) {
  const start = performance.now();
  systemctl("stop", "bench-hub");
  run("cp", store, copy);
  systemctl("start", "bench-hub");
  return performance.now() - start;
}

async function measure(mebibytes, runs) {
  const directory = mkdtempSync(join(home, "bench-"));
  const { store, global } = await makeStore(directory, mebibytes);
  runHub(store);
  const away = [];
  const plain = [];
  for (let turn = 0; turn < runs; turn++) {
    const result = ours(
      ...["backup", ...global, "--unit", "bench-hub"],
      ...["--to", join(directory, "backups"), "--bundle-to", join(directory, "bundles")],
    );
    away.push(result.service.stopped_ms);
    rmSync(join(directory, "backups"), { recursive: true });
    plain.push(plainScript(store, join(directory, "copy.db")));
    rmSync(join(directory, "copy.db"));
  }
  systemctl("stop", "bench-hub");
  rmSync(directory, { recursive: true });
  return { away, plain };
}

let smallest;
for (const argument of process.argv.slice(2)) {
  const [mebibytes, runs] = argument.split(":").map(Number);
  const work = `service away, backup of ${sizeName(mebibytes)}`;
  const { bavail, bsize } = statfsSync(home);
  const room = Math.floor((bavail * bsize) / 1024 ** 2);
  if (room < mebibytes * copies) {
    const needed = Math.ceil(mebibytes * copies);
    report({ work, skipped: `${needed} MiB are needed in ${home}, and ${room} are free` });
    continue;
  }
  say(work);
  const { away, plain } = await measure(mebibytes, runs);
  const peers = [{ name: "the manual's stop, cp, start", values: plain, at_most: 1 }];
  if (smallest === undefined)
    smallest = { name: `the same at ${sizeName(mebibytes)}`, values: away };
  else peers.push({ ...smallest, at_most: 1.5 });
  report({ work, unit: "ms", ours: away, peers });
}
