// Measures how long the service is stopped for each operation on its store, in milliseconds,
// against a plain script that stops the service, does the work without a check, and starts it. Run
// by scripts/bench.
//
// Usage: downtime.mjs SIZE_MIB:RUNS ...
import { cpSync, mkdirSync, mkdtempSync, renameSync, rmSync, statfsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import {
  bareExport,
  inTurns,
  makeStore,
  ours,
  report,
  run,
  runHub,
  say,
  sizeName,
  systemctl,
} from "./tools.mjs";

const home = homedir();
/** The space for the store, its copies and the backup, in stores. */
const copies = 4.2;

/** Runs `work` while the service is stopped. Returns the milliseconds from stop to start. */
async function plainScript(work) {
  const start = performance.now();
  systemctl("stop", "bench-hub");
  await work();
  systemctl("start", "bench-hub");
  return performance.now() - start;
}

/** A store with a hub, and the operations on it. */
async function prepare(mebibytes) {
  const directory = mkdtempSync(join(home, "bench-"));
  const { store, global } = await makeStore(directory, mebibytes);
  for (const name of ["bundles", "backups"]) mkdirSync(join(directory, name));
  const copy = join(directory, "copy.db");
  const unit = ["--unit", "bench-hub"];
  const bundles = ["--bundle-to", join(directory, "bundles")];
  const operate = (...args) => ours(...args, ...global, "--yes", "--hub", "none");
  const backUp = (...args) =>
    ours("backup", ...global, "--to", join(directory, "backups"), ...bundles, ...args);
  const away = (result) => result.service.stopped_ms;
  const copyStore = async () => {
    run("cp", store, copy);
    rmSync(copy);
  };
  const exportStore = async () => {
    bareExport(store, copy);
    rmSync(copy);
  };
  let backup;
  return {
    directory,
    operations: {
      backup: {
        ours: () => away(backUp(...unit)),
        after: () => run("sh", "-c", 'rm "$1"/backups/*', "sh", directory),
        peer: "the manual's stop, cp, start",
        plain: () => plainScript(copyStore),
      },
      rotate: {
        ours: () => away(operate("rotate", ...bundles, ...unit)),
        peer: "stop, bare sqlcipher_export, start",
        plain: () => plainScript(exportStore),
      },
      restore: {
        before: () => {
          backup ??= backUp("--online").backup.path;
        },
        ours: () => away(operate("restore", backup, "--discard-replaced", ...unit)),
        peer: "stop, cp, start",
        plain: () =>
          plainScript(async () => {
            cpSync(backup, copy);
            for (const end of ["-wal", "-shm"]) rmSync(store + end, { force: true });
            renameSync(copy, store);
          }),
      },
      decrypt: {
        // A hub that opens the encrypted store would not start on the other.
        hub: "holder",
        ours: () => away(operate("decrypt", ...unit)),
        after: () => operate("encrypt", ...bundles, "--service", "none"),
        peer: "stop, bare sqlcipher_export, start",
        plain: () => plainScript(exportStore),
      },
      encrypt: {
        hub: "holder",
        before: () => operate("decrypt", "--service", "none"),
        ours: () => away(operate("encrypt", ...bundles, ...unit)),
        peer: "stop, bare sqlcipher_export, start",
        plain: () => plainScript(exportStore),
      },
    },
    store,
  };
}

/** Operations whose downtime does not depend on the size of the store. */
const constant = ["backup", "rotate", "restore"];
/** Larger stores are only backed up: the other operations are measured up to this size. */
const maxMebibytes = 1024;

const smallest = {};
for (const argument of process.argv.slice(2)) {
  const [mebibytes, runs] = argument.split(":").map(Number);
  const { bavail, bsize } = statfsSync(home);
  const room = Math.floor((bavail * bsize) / 1024 ** 2);
  if (room < mebibytes * copies) {
    const needed = Math.ceil(mebibytes * copies);
    const skipped = `${needed} MiB are needed in ${home}, and ${room} are free`;
    report({ work: `service away, store of ${sizeName(mebibytes)}`, skipped });
    continue;
  }
  const { directory, store, operations } = await prepare(mebibytes);
  for (const [name, operation] of Object.entries(operations)) {
    if (mebibytes > maxMebibytes && name !== "backup") continue;
    const work = `service away, ${name} of ${sizeName(mebibytes)}`;
    say(work);
    const away = [];
    const plain = [];
    await inTurns(runs, [away, plain], async () => {
      operation.before?.();
      runHub(store, operation.hub);
      away.push(await operation.ours());
      systemctl("stop", "bench-hub");
      operation.after?.();
      runHub(store, operation.hub);
      plain.push(await operation.plain());
      systemctl("stop", "bench-hub");
    });
    const peers = [{ name: operation.peer, values: plain, at_most: 1 }];
    if (smallest[name] === undefined) {
      smallest[name] = { name: `the same at ${sizeName(mebibytes)}`, values: away };
    } else if (constant.includes(name)) {
      peers.push({ ...smallest[name], at_most: 1.5 });
    }
    report({ work, unit: "ms", ours: away, peers, chart: { operation: name, mebibytes } });
  }
  rmSync(directory, { recursive: true });
}
