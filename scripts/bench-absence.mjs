// How long the service is away: see scripts/bench, which runs this in a session of its own. The unit counts as up when
// its program runs: what a hub needs to be ready is the same after either, and would hide the difference.
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { unlockStore } from "../dist/index.js";
import { bigClients, machine, median, ours, run, span } from "./bench-tools.mjs";

const [runs = 5, ...sizes] = process.argv.slice(2).map(Number);
const mebibytes = sizes.length > 0 ? sizes : [1, 100, 1024];
const home = homedir();
const hub = new URL("./sample-hub.mjs", import.meta.url).pathname;

function plainScript(store, copy) {
  const start = performance.now();
  run("systemctl", "--user", "stop", "bench-hub");
  run("cp", store, copy);
  run("systemctl", "--user", "start", "bench-hub");
  return performance.now() - start;
}

console.log(
  `Service away for a backup, milliseconds, median of ${runs} runs in turns (smallest to largest)`,
);
console.log(`${machine()}
`);
console.log("store      hivemind-sqlcipher     stop, cp, start        ratio   ours, whole job");

for (const size of mebibytes) {
  const folder = mkdtempSync(join(home, "bench-"));
  const store = join(folder, "clients.db");
  ours(
    "init",
    "--db",
    store,
    "--config",
    join(folder, "config.json"),
    "--recovery-key-file",
    join(folder, "key"),
  );
  const open = await unlockStore(store, { kind: "keyring" }, { mode: "readwrite" });
  await open.addItems(bigClients(size * 1024 * 1024));
  await open.close();
  const units = join(home, ".config/systemd/user");
  mkdirSync(units, { recursive: true });
  writeFileSync(
    join(units, "bench-hub.service"),
    `[Service]\nType=exec\nExecStart=${process.execPath} ${hub} ${store}\n`,
  );
  run("systemctl", "--user", "daemon-reload");
  run("systemctl", "--user", "restart", "bench-hub");

  const away = [];
  const plain = [];
  const whole = [];
  for (let turn = 0; turn < runs; turn++) {
    const start = performance.now();
    const result = ours(
      ...["backup", "--db", store, "--config", join(folder, "config.json"), "--unit", "bench-hub"],
      ...["--to", join(folder, "backups"), "--bundle-to", join(folder, "bundles")],
    );
    whole.push(performance.now() - start);
    away.push(result.service.stopped_ms);
    rmSync(join(folder, "backups"), { recursive: true });
    plain.push(plainScript(store, join(folder, "copy.db")));
    rmSync(join(folder, "copy.db"));
  }
  run("systemctl", "--user", "stop", "bench-hub");
  const mib = Math.round(statSync(store).size / 1024 / 1024);
  console.log(
    `${`${mib} MiB`.padEnd(10)} ${span(away).padEnd(22)} ${span(plain).padEnd(22)} ${(median(away) / median(plain)).toFixed(2).padEnd(7)} ${span(whole)}`,
  );
  rmSync(folder, { recursive: true });
}
