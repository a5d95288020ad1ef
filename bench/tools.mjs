// Functions shared by the benchmarks.
import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { homedir, loadavg } from "node:os";
import { join } from "node:path";
import { newClient, unlockStore } from "../dist/index.js";

export const command = new URL("../dist/cli/main.js", import.meta.url).pathname;

export const run = (program, ...args) =>
  execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

export const ours = (...args) =>
  JSON.parse(run(process.execPath, command, ...args, "--json", "--quiet"));

export const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

/** Prints a row of the table, with the machine's load; see table.mjs. */
export const report = (row) => console.log(JSON.stringify({ ...row, load: loadavg()[0] }));

/** Prints progress, because the table itself comes at the end. */
export const say = (text) => console.error(`bench: ${text}`);

/** Figures that scatter by more than this part of their median are measured again. */
const maxScatter = 1 / 3;

/**
 * Calls `turn`, which adds a figure to each of the series, `runs` times, and again as often at most
 * while the figures of a series scatter.
 */
export async function inTurns(runs, series, turn) {
  const scatters = (values) =>
    Math.max(...values) - Math.min(...values) > maxScatter * median(values);
  for (let count = 0; count < 2 * runs; count++) {
    if (count >= runs && !series.some(scatters)) return;
    await turn(count);
  }
}

/**
 * Returns the duration of `work` in seconds. Syncs earlier writes first, so that they do not count.
 */
export async function seconds(work) {
  run("sync");
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** Yields clients of about 32 KiB each. The contents of the file do not matter to a copy. */
export function* bigClients(bytes) {
  for (let id = 1; id * 32_768 <= bytes; id++) {
    yield newClient({
      client_id: id,
      api_key: randomBytes(16).toString("hex"),
      metadata: { filling: randomBytes(16_000).toString("hex") },
    });
  }
}

/**
 * Creates a store of this size in a directory with `init`. Returns the options that name the store.
 */
export async function makeStore(directory, mebibytes) {
  const store = join(directory, "clients.db");
  const global = ["--db", store, "--config", join(directory, "config.json")];
  ours("init", ...global, "--recovery-key-file", join(directory, "key"));
  const filled = await unlockStore(store, { kind: "keyring" }, { mode: "readwrite" });
  await filled.addItems(bigClients(mebibytes * 1024 * 1024));
  await filled.close();
  return { store, global };
}

/** Exports a store without a check, in a process of its own, as a script would. */
export const bareExport = (from, to) =>
  run(process.execPath, new URL("export.mjs", import.meta.url).pathname, from, to);

/**
 * Starts `bench-hub`, a service that has the store open. The unit counts as up when its program
 * runs: a hub's start-up time is the same after any downtime, and would hide a difference.
 *
 * @param kind - "writer" writes to the encrypted store; "holder" only has the file open
 */
export function runHub(store, kind = "writer") {
  const units = join(homedir(), ".config/systemd/user");
  const hub = new URL("../scripts/sample-hub.mjs", import.meta.url).pathname;
  const program =
    kind === "writer"
      ? `${process.execPath} ${hub} ${store}`
      : `/bin/sh -c 'exec 3<${store}; exec sleep infinity'`;
  mkdirSync(units, { recursive: true });
  writeFileSync(join(units, "bench-hub.service"), `[Service]\nType=exec\nExecStart=${program}\n`);
  systemctl("daemon-reload");
  systemctl("restart", "bench-hub");
}

export const systemctl = (...args) => run("systemctl", "--user", ...args);

export const sizeName = (mebibytes) =>
  mebibytes % 1024 === 0 ? `${mebibytes / 1024} GiB` : `${mebibytes} MiB`;

/** Runs a program. Returns seconds and its peak resident memory in MiB, without its children. */
export async function measured(program, ...args) {
  run("sync");
  const start = performance.now();
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text) => {
    output += text;
  });
  let peak = 0;
  const timer = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
      peak = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? peak);
    } catch {
      // The process has ended.
    }
  }, 20);
  const [code] = await once(child, "close");
  clearInterval(timer);
  if (code !== 0) throw new Error(`${program} ${args.join(" ")}: exit code ${code}\n${output}`);
  return { seconds: (performance.now() - start) / 1000, mebibytes: peak / 1024, output };
}
