// Measures a real hub with a satellite: how long the hub needs until it listens, started by this
// program's `run` and alone with the password in server.json, and how long the satellite gets no
// reply during each operation. Run by scripts/bench.
//
// Usage: hub.mjs RUNS ENVIRONMENT      the Python environment of HiveMind's development line
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import keytar from "keytar";
import { command, inTurns, ours, report, run, say, systemctl } from "./tools.mjs";

const runs = Number(process.argv[2] ?? 5);
const environment = process.argv[3];
const home = homedir();
const tools = new URL("../test/setup", import.meta.url).pathname;
const store = join(home, ".local/share/hivemind-core/clients.db");
const [backups, bundles] = ["backups", "bundles"].map((name) => join(home, name));
const hub = "hivemind-listener";
const alone = "bench-alone";

/** Installs the hub with five clients, and moves it to an encrypted store. */
async function setUp() {
  const script = 'TOOLS=$1; . "$TOOLS/installed.sh"; install_units; start_hub a b c d e';
  process.env.SCOPE = "user";
  process.env.HUB_ENVIRONMENT = environment;
  run("bash", "-euc", script, "bash", tools);
  const clients = JSON.parse(readFileSync(join(home, ".local/share/hivemind-core/clients.json")));
  const key = join(home, "key.txt");
  const targets = ["--to", backups, "--bundle-to", bundles, "--recovery-key-file", key];
  run(process.execPath, command, "setup", "--yes", "--quiet", ...targets);
  await untilListening();
  return Object.values(clients)[0];
}

/** Makes a unit that starts the same hub without `run`: its server.json has the password. */
async function installAlone() {
  const config = join(home, "alone");
  mkdirSync(config);
  cpSync(join(home, ".config/hivemind"), join(config, "hivemind"), { recursive: true });
  const settings = JSON.parse(readFileSync(join(home, ".config/hivemind-core/server.json")));
  const { module } = settings.database;
  const password = await keytar.getPassword("hivemind-sqlcipher", store);
  settings.database[module] = { ...settings.database[module], password };
  mkdirSync(join(config, "hivemind-core"));
  writeFileSync(join(config, "hivemind-core/server.json"), JSON.stringify(settings));
  const start = `${home}/.venvs/ovos/bin/hivemind-core listen`;
  writeFileSync(
    join(home, ".config/systemd/user", `${alone}.service`),
    `[Service]\nEnvironment=XDG_CONFIG_HOME=${config}\nExecStart=${start}\n`,
  );
  systemctl("daemon-reload");
}

async function untilListening() {
  const isListening = () =>
    new Promise((resolve) => {
      const socket = connect(5678, "127.0.0.1");
      socket.on("connect", () => resolve(true)).on("error", () => resolve(false));
      socket.on("close", () => socket.destroy()).setTimeout(1000, () => socket.destroy());
    });
  while (!(await isListening())) await delay(10);
}

/** Returns the seconds from the start of the unit until the hub listens. */
async function startHub(unit) {
  systemctl("stop", hub, alone);
  const start = performance.now();
  systemctl("start", unit);
  await untilListening();
  return (performance.now() - start) / 1000;
}

async function measureStart() {
  await installAlone();
  const [withRun, without] = [[], []];
  for (const unit of [hub, alone]) await startHub(unit);
  await inTurns(runs, [withRun, without], async () => {
    withRun.push(await startHub(hub));
    without.push(await startHub(alone));
  });
  report({
    work: "a hub starts by run, until it listens",
    unit: "s",
    ours: withRun,
    peers: [
      { name: "the hub with the password in server.json", values: without, aim: "0.3 s more" },
    ],
  });
}

/** A satellite that speaks four times a second. Its log has the time of each reply, in seconds. */
class Satellite {
  #log = join(home, "replies");
  #process;

  start({ api_key, password }) {
    writeFileSync(this.#log, "");
    const program = [join(tools, "satellite.py"), api_key, password, this.#log];
    this.#process = spawn(join(environment, "bin/python"), program, { stdio: "ignore" });
  }

  stop() {
    this.#process.kill();
  }

  #replies() {
    return readFileSync(this.#log, "utf8").split("\n").filter(Boolean).map(Number);
  }

  async #untilReplied() {
    const before = this.#replies().length;
    while (this.#replies().length < before + 4) await delay(50);
  }

  /** Returns the longest time without a reply during `work` and until replies come again. */
  async silence(work) {
    await this.#untilReplied();
    const from = this.#replies().at(-1);
    await work();
    await this.#untilReplied();
    const times = this.#replies().filter((time) => time >= from);
    return Math.max(...times.slice(1).map((time, index) => time - times[index]));
  }
}

async function measureSilence(client) {
  await startHub(hub);
  const satellite = new Satellite();
  satellite.start(client);
  const newest = () => {
    const names = readdirSync(backups).filter((name) => name.endsWith(".db"));
    return join(backups, names.sort().at(-1));
  };
  const operations = {
    backup: () => ours("backup"),
    "backup --online": () => ours("backup", "--online"),
    restore: () => ours("restore", newest(), "--yes", "--discard-replaced"),
    rotate: () => ours("rotate", "--yes"),
  };
  const manual = () => {
    systemctl("stop", hub);
    run("cp", store, join(home, "copy.db"));
    systemctl("start", hub);
  };
  for (const [name, operate] of Object.entries(operations)) {
    const [values, plain] = [[], []];
    await inTurns(runs, [values, plain], async () => {
      values.push(await satellite.silence(operate));
      plain.push(await satellite.silence(manual));
    });
    const peer = { name: "the manual's stop, cp, start", values: plain, aim: "a figure, no aim" };
    report({ work: `a satellite without reply, ${name}`, unit: "s", ours: values, peers: [peer] });
  }
  satellite.stop();
}

const client = await setUp();
await measureStart();
await measureSilence(client);
say(`a real hub and its satellite: done, ${runs} turns`);
process.exit();
