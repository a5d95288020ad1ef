// Measures a whole backup with every page authenticated, and a whole restore, against restic and a
// bare copy of the same file. Run by scripts/bench.
//
// A virtual machine gives unused memory back to its host, and takes it again page by page, which
// can double the time of a copy. So each work begins with memory that was just used.
//
// Usage: whole.mjs SIZE_MIB RUNS
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { inTurns, makeStore, ours, report, run, say, seconds, sizeName } from "./tools.mjs";

const [mebibytes = 1024, runs = 3] = process.argv.slice(2).map(Number);
const directory = mkdtempSync(join(homedir(), "bench-"));
const { store, global } = await makeStore(directory, mebibytes);
const backups = join(directory, "backups");
const repository = join(directory, "restic");
const copy = join(directory, "copy.db");
const restored = join(directory, "restored");
process.env.RESTIC_PASSWORD = "bench";
const restic = (...args) => run("restic", "--quiet", "--no-cache", "--repo", repository, ...args);

const measure = (work) => {
  const used = join(directory, "used");
  run("dd", "if=/dev/zero", `of=${used}`, "bs=1M", `count=${2 * mebibytes}`, "status=none");
  rmSync(used);
  return seconds(work);
};

const bareCopy = (from) =>
  measure(() => run("sh", "-c", 'cp "$1" "$2" && sync "$2" && sha256sum "$2"', "sh", from, copy));

const backup = { ours: [], restic: [], bare: [] };
const restore = { ours: [], restic: [], bare: [] };
await inTurns(runs, [backup.ours, backup.restic, restore.ours, restore.restic], async (turn) => {
  say(`backup and restore of ${sizeName(mebibytes)}, turn ${turn + 1}`);
  let made;
  backup.ours.push(
    await measure(() => {
      made = ours(
        ...["backup", ...global, "--service", "none"],
        ...["--to", backups, "--bundle-to", join(directory, "bundles")],
      );
    }),
  );
  restic("init");
  backup.restic.push(
    await measure(() => {
      restic("backup", store);
      restic("check", "--read-data");
    }),
  );
  backup.bare.push(await bareCopy(store));
  rmSync(copy);

  mkdirSync(restored);
  restore.ours.push(
    await measure(() =>
      ours("restore", ...global, made.backup.path, "--to", join(restored, "clients.db")),
    ),
  );
  rmSync(restored, { recursive: true });
  restore.restic.push(
    await measure(() => restic("restore", "latest", "--verify", "--target", restored)),
  );
  rmSync(restored, { recursive: true });
  restore.bare.push(await bareCopy(made.backup.path));
  for (const path of [copy, backups, repository]) rmSync(path, { recursive: true });
  // Once used, the directory of the backups must exist.
  mkdirSync(backups, { mode: 0o700 });
});
const compared = (work, figures, peer) =>
  report({
    work: `${work} of ${sizeName(mebibytes)}, every page authenticated`,
    unit: "s",
    ours: figures.ours,
    peers: [
      { name: peer, values: figures.restic, at_most: 1 },
      { name: "cp, fsync and one hash", values: figures.bare, at_most: 1.3 },
    ],
  });
compared("backup", backup, "restic backup, check --read-data");
compared("restore", restore, "restic restore --verify");
report({ versions: { restic: run("restic", "version").split(" ")[1] } });
rmSync(directory, { recursive: true });
