// CPU time of a short command, in milliseconds, in turns: as it is, and with Node's compile cache
// filled. The clock would measure what else runs on the machine. See scripts/bench, and
// docs/design/performance.md on why the command has no such cache.
//
// Usage: bench/start.mjs [RUNS]
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { command, inTurns, makeStore, report, say } from "./tools.mjs";

const runs = Number(process.argv[2] ?? 15);
const timed = 'TIMEFORMAT="%3U %3S"; time "$0" "$@"';

/** User and system time together: Node has getrusage(2) for itself only, so bash reads both. */
function cpuMilliseconds(args, env) {
  const { status, stderr } = spawnSync("bash", ["-c", timed, process.execPath, command, ...args], {
    env: { ...process.env, ...env },
    encoding: "utf8",
    stdio: ["ignore", "ignore", "pipe"],
  });
  if (status !== 0) throw new Error(`${args.join(" ")}: exit code ${status}\n${stderr}`);
  const [user, system] = stderr.trim().split("\n").at(-1).split(" ");
  return 1000 * (Number(user) + Number(system));
}

const folder = mkdtempSync(join(homedir(), "bench-"));
const { global } = await makeStore(folder, 0);
const cached = { NODE_COMPILE_CACHE: join(folder, "compiled") };
const works = {
  "--version": ["--version"],
  "list-clients, empty store, key in the keyring": ["list-clients", ...global],
};
for (const [name, args] of Object.entries(works)) {
  cpuMilliseconds(args, cached);
  const ours = [];
  const values = [];
  await inTurns(runs, [ours, values], async () => {
    ours.push(cpuMilliseconds(args));
    values.push(cpuMilliseconds(args, cached));
  });
  report({
    work: `${name}: CPU time`,
    unit: "ms",
    ours,
    peers: [{ name: "the same with Node's compile cache", values, aim: "a figure, no aim" }],
  });
}
rmSync(folder, { recursive: true });
say(`starting: done, ${runs} turns`);
