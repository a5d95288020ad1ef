// What the bench scripts share.
import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { newClient, unlockStore } from "../dist/index.js";

export const command = new URL("../dist/cli/main.js", import.meta.url).pathname;

export const run = (program, ...args) =>
  execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

export const ours = (...args) =>
  JSON.parse(run(process.execPath, command, ...args, "--json", "--quiet"));

export const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

/** Prints a row of the table, or the versions of what was measured: bench-table.mjs says what is in them. */
export const report = (row) => console.log(JSON.stringify(row));

/** For those who wait: the table itself comes at the end. */
export const say = (text) => console.error(`bench: ${text}`);

/** Seconds that a piece of work takes. What was written before is on the disk first, and is not waited for in it. */
export async function seconds(work) {
  run("sync");
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** Clients of about 32 KiB each: what fills the file does not matter to a copy. */
export function* bigClients(bytes) {
  for (let id = 1; id * 32_768 <= bytes; id++) {
    yield newClient({
      client_id: id,
      api_key: randomBytes(16).toString("hex"),
      metadata: { filling: randomBytes(16_000).toString("hex") },
    });
  }
}

/** A store of that size, made with `init` in a folder, and the options that name it to a command. */
export async function makeStore(folder, mebibytes) {
  const store = join(folder, "clients.db");
  const global = ["--db", store, "--config", join(folder, "config.json")];
  ours("init", ...global, "--recovery-key-file", join(folder, "key"));
  const filled = await unlockStore(store, { kind: "keyring" }, { mode: "readwrite" });
  await filled.addItems(bigClients(mebibytes * 1024 * 1024));
  await filled.close();
  return { store, global };
}

/**
 * A service that has the store open and writes to it, `bench-hub`, until it is stopped. The unit counts as up when its
 * program runs: what a hub needs to be ready is the same however it was away, and would hide a difference.
 */
export function runHub(store) {
  const units = join(homedir(), ".config/systemd/user");
  const hub = new URL("../scripts/sample-hub.mjs", import.meta.url).pathname;
  mkdirSync(units, { recursive: true });
  writeFileSync(
    join(units, "bench-hub.service"),
    `[Service]\nType=exec\nExecStart=${process.execPath} ${hub} ${store}\n`,
  );
  systemctl("daemon-reload");
  systemctl("restart", "bench-hub");
}

export const systemctl = (...args) => run("systemctl", "--user", ...args);

export const sizeName = (mebibytes) =>
  mebibytes % 1024 === 0 ? `${mebibytes / 1024} GiB` : `${mebibytes} MiB`;

/** Runs a program to its end: seconds, and the peak of its resident memory in MiB (its children not counted). */
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
      // It has ended.
    }
  }, 20);
  const [code] = await once(child, "close");
  clearInterval(timer);
  if (code !== 0) throw new Error(`${program} ${args.join(" ")}: exit code ${code}\n${output}`);
  return { seconds: (performance.now() - start) / 1000, mebibytes: peak / 1024, output };
}
