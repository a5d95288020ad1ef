// How long the service is away: see scripts/bench, which runs this in a session of its own.
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { cpus, homedir, release } from "node:os";
import { join } from "node:path";
import { newClient, unlockStore } from "../dist/index.js";

const [runs = 5, ...sizes] = process.argv.slice(2).map(Number);
const mebibytes = sizes.length > 0 ? sizes : [1, 100, 1024];
const home = homedir();
const command = new URL("../dist/cli/main.js", import.meta.url).pathname;
const hub = new URL("./sample-hub.mjs", import.meta.url).pathname;

const run = (program, ...args) =>
  execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
const ours = (...args) => JSON.parse(run(process.execPath, command, ...args, "--json", "--quiet"));
const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

/** Clients of about 32 KiB each: what fills the file does not matter to a copy. */
function* bigClients(bytes) {
  for (let id = 1; id * 32_768 <= bytes; id++) {
    yield newClient({
      client_id: id,
      api_key: randomBytes(16).toString("hex"),
      metadata: { filling: randomBytes(16_000).toString("hex") },
    });
  }
}

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
console.log(
  `${cpus()[0]?.model}, ${cpus().length} cores, Linux ${release()}, Node ${process.version}\n`,
);
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
    `[Service]\nType=notify\nNotifyAccess=all\nExecStart=${process.execPath} ${hub} ${store}\n`,
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
  const span = (values) =>
    `${median(values).toFixed(0)} (${Math.min(...values).toFixed(0)}–${Math.max(...values).toFixed(0)})`;
  const mib = Math.round(statSync(store).size / 1024 / 1024);
  console.log(
    `${`${mib} MiB`.padEnd(10)} ${span(away).padEnd(22)} ${span(plain).padEnd(22)} ${(median(away) / median(plain)).toFixed(2).padEnd(7)} ${span(whole)}`,
  );
  rmSync(folder, { recursive: true });
}
