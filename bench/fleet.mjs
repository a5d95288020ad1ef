// Listing and pruning a target that many stores share: seconds, and the peak memory of the command.
// The backups of the command's own store are real. Those of the others are small files with
// manifests of the usual size, because neither command reads them. See scripts/bench.
//
// Usage: bench/fleet.mjs [STORES] [BACKUPS]
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { command, makeStore, measured, ours, report, say } from "./tools.mjs";

const stores = Number(process.argv[2] ?? 1000);
const backups = Number(process.argv[3] ?? 30);
const runs = 3;
const day = 86_400_000;

const folder = mkdtempSync(join(homedir(), "bench-"));
const target = join(folder, "target");
mkdirSync(target);
const { global } = await makeStore(folder, 0);
const places = ["--to", target, "--bundle-to", join(folder, "bundles"), "--service", "none"];
for (let count = 0; count < backups; count++) ours("backup", ...global, ...places);
say(`fleet: made ${backups} backups of one store`);
const [example] = readdirSync(target).filter((name) => name.endsWith(".manifest.json"));
const manifest = JSON.parse(readFileSync(join(target, example), "utf8"));
for (let store = 1; store < stores; store++) addStore();
say(`fleet: made ${backups} backups of each of ${stores - 1} further stores`);

/** Adds the backups of another store, with its id in their names, as copies in a target have it. */
function addStore() {
  const id = randomBytes(8).toString("hex");
  const key_id = randomBytes(8).toString("hex");
  for (let age = 0; age < backups; age++) {
    const created_at = new Date(Date.now() - age * day).toISOString();
    const stem = `clients.${created_at.slice(0, 19).replaceAll(":", "-")}Z`;
    const mac = randomBytes(32).toString("hex");
    const other = { created_at, file: `${stem}.db`, size: 16, key_id, store_id: id, mac };
    const text = `${JSON.stringify({ ...manifest, ...other }, undefined, 2)}\n`;
    writeFileSync(join(target, `${stem}.${id}.db`), randomBytes(16));
    writeFileSync(join(target, `${stem}.${id}.manifest.json`), text);
  }
}

const size = `${stores} stores × ${backups} backups`;
const commands = {
  "list every store (backups --all)": ["backups", target, "--all"],
  "judge every store (status --all)": ["status", target, "--all"],
  "list one store's backups": ["backups", target],
  "decide what to prune of one store": ["prune", target, "--keep-last", "7", "--dry-run"],
  "prune one store to 7 backups": ["prune", target, "--keep-last", "7"],
};
for (const [name, args] of Object.entries(commands)) {
  const isRepeatable = !(args[0] === "prune" && !args.includes("--dry-run"));
  const seconds = [];
  let peak = 0;
  for (let turn = 0; turn < (isRepeatable ? runs : 1); turn++) {
    const run = await measured(process.execPath, command, ...args, ...global, "--json");
    seconds.push(run.seconds);
    peak = Math.max(peak, run.mebibytes);
  }
  const note = `peak memory: ${Math.round(peak)} MiB`;
  report({ work: `${name}, ${size}`, unit: "s", ours: seconds, note });
}
const left = ours("backups", target, ...global);
if (
  left.backups.length !== Math.min(7, backups) ||
  left.of_other_stores !== (stores - 1) * backups
) {
  throw new Error(
    `prune left ${left.backups.length} own and ${left.of_other_stores} other backups`,
  );
}
rmSync(folder, { recursive: true });
say(`fleet: done, ${size}`);
