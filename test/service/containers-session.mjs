// Runs in a session with a system manager of its own: a container engine, containers of busybox
// that have a store open, and the command. Prints what it saw as JSON.
// Usage: node containers-session.mjs ENGINE HOME
import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

const [, script, engine, home] = process.argv;
const root = dirname(dirname(dirname(script)));
const share = `${home}/.local/share/hivemind-core`;
const store = `${share}/clients.db`;
/** Parts of newer engines than Debian 12 has, from scripts/setup --engines. */
const generator = `${root}/.cache/engines/quadlet`;
const composePlugin = `${root}/.cache/engines/docker-compose`;
const settings = `${home}/.config/hivemind-sqlcipher/config.json`;
// The distribution's own programs, wherever a machine has others of the same name.
process.env.PATH = `/usr/sbin:/usr/bin:/sbin:/bin:${process.env.PATH}`;

const call = (program, ...args) =>
  execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
const containers = (...args) => call(engine, ...args);
const state = (name) => JSON.parse(containers("inspect", "--type=container", name))[0].State;
const isRunning = (name) => state(name).Running;
const startedAt = (name) => state(name).StartedAt;

async function until(condition) {
  for (let looks = 0; looks < 300; looks++) {
    if (await condition()) return;
    await delay(100);
  }
  throw new Error(`waited too long for ${condition}`);
}

const startEngine = {
  podman() {
    writeFileSync(
      `${home}/containers.conf`,
      `[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:8192"]
pids_limit = 0
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
`,
    );
    writeFileSync(
      `${home}/storage.conf`,
      `[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "${home}/storage"\n`,
    );
    process.env.CONTAINERS_CONF = `${home}/containers.conf`;
    process.env.CONTAINERS_STORAGE_CONF = `${home}/storage.conf`;
  },
  async docker() {
    const options = [
      "--iptables=false",
      "--ip6tables=false",
      "--bridge=none",
      "--ip-forward=false",
    ];
    const paths = ["--data-root", `${home}/docker`, "--exec-root", "/run/docker"];
    const daemon = spawn("dockerd", [...options, ...paths, "--storage-driver", "vfs"], {
      stdio: "ignore",
    });
    daemon.unref();
    await until(() => spawnSync("docker", ["version"], { stdio: "ignore" }).status === 0);
  },
};

function makeImage() {
  const files = `${home}/files`;
  mkdirSync(`${files}/bin`, { recursive: true });
  cpSync("/bin/busybox", `${files}/bin/busybox`);
  for (const name of ["sh", "sleep", "cat", "test"]) symlinkSync("busybox", `${files}/bin/${name}`);
  const archive = `${home}/image.tar`;
  call("tar", "-C", files, "-cf", archive, ".");
  containers("import", archive, "hub");
}

/** Ends at once after a trap, without a process every moment. */
const idling = "sleep 1000000 3<&- & wait";

const holding = `exec 3</data/clients.db; ${idling}`;

const waiting = `trap 'exit 0' TERM; ${idling}`;

/** Creates a container that runs a shell program with the store's directory at /data. */
const create = (name, program, ...options) =>
  containers(
    ...["run", "--detach", "--name", name, "--volume", `${share}:/data`],
    ...[...(options.some(isNetwork) ? [] : ["--network=host"]), ...options],
    ...["hub", "sh", "-c", program],
  );

const isNetwork = (option) => option.startsWith("--network=");

/** While this file exists, the hub takes two seconds to end. */
const slow = `${share}/slow`;

const hub = (name, ...options) =>
  create(name, `trap '[ ! -e /data/slow ] || sleep 2; exit 0' TERM; ${holding}`, ...options);

/** Runs the command with a store of its own settings, and returns its outcome. */
function command(args, { environment = {}, options = ["--db", store] } = {}) {
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    [`${root}/dist/cli/main.js`, ...args, ...options],
    { encoding: "utf8", env: { ...process.env, ...environment } },
  );
  return { code: status, signal, stdout, stderr };
}

const key = ["--recovery-key-file", `${home}/key`];
const service = (name) => ["--service", engine, "--unit", name];
const backup = ["backup", "--to", `${home}/backups`, "--bundle-to", `${home}/bundles`];
const refusal = (name) => {
  const { code, stderr } = command([...backup, ...service(name)]);
  return { code, stderr };
};
const timers = () =>
  call(
    ...["systemctl", "list-units", "--all", "--plain", "--no-legend"],
    "hivemind-sqlcipher-restart-*",
  );
const remove = (...names) => containers("rm", "--force", ...names);

/** Returns what `doctor` finds about containers, or under other names. */
function diagnose(name, ...names) {
  const { stdout } = command(["doctor", "--json", ...service(name)]);
  const wanted = names.length > 0 ? names : ["container"];
  return JSON.parse(stdout).checks.filter((check) => wanted.includes(check.name));
}

/** Types a line into a shell. */
function type(line) {
  const own = `hivemind-sqlcipher() { ${process.execPath} ${root}/dist/cli/main.js "$@"; }`;
  const { status, stdout, stderr } = spawnSync("bash", ["-c", `${own}\n${line}`], {
    encoding: "utf8",
    cwd: home,
  });
  return { code: status, stdout, stderr };
}

/** Types the command of a fix: all of it, or what follows the colon of a sentence. */
const typeFix = ({ fix }) => type(/^[A-Z]/.test(fix) ? fix.slice(fix.lastIndexOf(": ") + 2) : fix);

/** Returns the findings about a container and its units, their typed fixes, and what is left. */
function repair(name, mend = () => {}) {
  const find = () => diagnose(name, "container", "hub-unit").filter(({ ok }) => !ok);
  const found = find();
  mend();
  const typed = found.map(typeFix);
  return { found: found.map(({ detail }) => detail), typed, left: find() };
}

/** Installs the unit that is printed for a compose file, and returns its lines as an option. */
function installCopyUnit(printed) {
  const file = printed.slice(2, printed.indexOf("\n"));
  const name = basename(file, ".service");
  writeFileSync(file, printed);
  mkdirSync(`${file}.d`, { recursive: true });
  const session = ["HOME", "DBUS_SESSION_BUS_ADDRESS"].map(
    (variable) => `Environment=${variable}=${process.env[variable]}\n`,
  );
  writeFileSync(`${file}.d/session.conf`, `[Service]\n${session.join("")}`);
  call("systemctl", "daemon-reload");
  call("systemctl", "enable", "--now", name);
  const [, source] = /^# +source: (.*)$/m.exec(printed);
  const [, target] = /^# +target: (.*)$/m.exec(printed);
  const mount = `--mount=type=bind,source=${source},target=${target},readonly`;
  return { file, name, source, target, mount };
}

/** Removes the remembered container from the settings. */
function forget() {
  const { backup: known, ...others } = JSON.parse(readFileSync(settings, "utf8"));
  const directories = { to: known.to, bundle_to: known.bundle_to };
  writeFileSync(settings, JSON.stringify({ ...others, backup: directories }));
}

/** Starts the hub by version 2 of compose, with the printed lines in its file. */
function composed(printed) {
  mkdirSync(`${home}/.docker/cli-plugins`, { recursive: true });
  symlinkSync(composePlugin, `${home}/.docker/cli-plugins/docker-compose`);
  const lines = printed.split("\n").filter((line) => /^# {5}/.test(line));
  const file = `${home}/compose.yaml`;
  writeFileSync(
    file,
    `services:
  hub:
    image: hub
    container_name: composed
    network_mode: host
    restart: unless-stopped
    command: ["sh", "-c", ${JSON.stringify(`trap 'exit 0' TERM; ${holding}`)}]
${lines.map((line) => line.slice(2)).join("\n")}
      - ${share}:/data
`,
  );
  const compose = (...args) => {
    const all = ["compose", "--file", file, ...args];
    const { status, stderr } = spawnSync("docker", all, { encoding: "utf8" });
    return { code: status, stderr };
  };
  const up = compose("up", "--detach");
  const [, source] = /^# +source: (.*)$/m.exec(printed);
  const [, target] = /^# +target: (.*)$/m.exec(printed);
  const view = () => containers("exec", "composed", "cat", target);
  const before = view();
  forget();
  const saved = command([...backup, "--json"]);
  const rotated = command(["rotate"]);
  const after = view();
  rmSync(source);
  const withoutCopy = compose("up", "--detach", "--force-recreate");
  compose("down");
  return {
    ...{ up, saved, rotated, isChanged: after !== before, withoutCopy },
    hasPassword: after.includes('"password":'),
    isDirectory: existsSync(source),
  };
}

/** Returns the steps of setup for the container of a store. */
function stepsOf(path) {
  const { stdout } = command(["setup", "--dry-run", "--json"], { options: ["--db", path] });
  const { obstacles } = JSON.parse(stdout).plan;
  return obstacles.find(({ id }) => id === "container").fix;
}

/** Runs the line of setup's steps with these words, as a user types it. */
function runStep(steps, words, { extra = [], environment = {} } = {}) {
  const line = steps.split("\n").find((each) => each.includes(` ${words} `));
  const own = `hivemind-sqlcipher() { ${process.execPath} ${root}/dist/cli/main.js "$@"; }`;
  const { status, stderr } = spawnSync("bash", ["-c", `${own}\n${[line, ...extra].join(" ")}`], {
    encoding: "utf8",
    env: { ...process.env, ...environment },
  });
  return { code: status, stderr };
}

/** Takes over the store of a container whose password is in its server.json on the disk. */
function adoption() {
  const inside = "/home/hivemind/.config/hivemind-core";
  const directory = `${home}/adopted`;
  const path = `${directory}/hivemind-core/clients.db`;
  const server = `${directory}/config/server.json`;
  mkdirSync(dirname(path), { recursive: true });
  mkdirSync(dirname(server));
  cpSync(`${root}/test/fixtures/sqlcipher4-schema2.db`, path);
  const plugin = "hivemind-sqlite-db-plugin";
  const block = { [plugin]: { password: "correct 'horse' battery" } };
  const database = { module: plugin, ...block };
  writeFileSync(server, JSON.stringify({ network_protocol: {}, database }), { mode: 0o600 });
  const create = (...more) =>
    containers(
      ...["run", "--detach", "--name", "adopted", "--network=host"],
      ...["--volume", `${dirname(path)}:/home/hivemind/.local/share/hivemind-core`],
      ...["--volume", `${dirname(server)}:${inside}`, ...more, "hub", "sh", "-c"],
      `trap 'exit 0' TERM; : hivemind-core listen; exec 3</home/hivemind/.local/share/hivemind-core/clients.db; ${idling}`,
    );
  create();
  const steps = stepsOf(path);
  const key = { extra: ["--recovery-key-file", `${directory}/key`] };
  const ran = [runStep(steps, "-m"), runStep(steps, "init --adopt", key)];
  ran.push(runStep(steps, "run --prepare"));
  const [, copy] = /run --prepare '?([^ ']+)/.exec(steps);
  remove("adopted");
  create("--volume", `${copy}:${inside}/server.json:ro`);
  const view = () => containers("exec", "adopted", "cat", `${inside}/server.json`);
  const before = view();
  // The second line for the same command removes the password.
  const last = steps.split("\n").filter((each) => !/init --adopt(?!.*--remove)/.test(each));
  for (const words of ["init --adopt", "rotate", "backup"]) {
    ran.push(runStep(last.join("\n"), words));
  }
  const isChanged = view() !== before && view().includes('"password":');
  remove("adopted");
  return { ran, isChanged, isOnDisk: readFileSync(server, "utf8").includes("password") };
}

/** Encrypts the plain store of a container, first with a start that fails. */
function encryption() {
  const inside = "/home/hivemind/.config/hivemind-core";
  const plain = `${home}/plain/hivemind-core/clients.db`;
  const config = `${home}/plain/config`;
  mkdirSync(config, { recursive: true });
  cpSync(`${home}/.config/hivemind-core/server.json`, `${config}/server.json`);
  mkdirSync(dirname(plain));
  cpSync(`${root}/test/fixtures/plain-schema0.db`, plain);
  const open = `: hivemind-core listen; exec 3</home/hivemind/.local/share/hivemind-core/clients.db`;
  const create = (...more) =>
    containers(
      ...["run", "--detach", "--name", "plain", "--network=host"],
      ...["--volume", `${dirname(plain)}:/home/hivemind/.local/share/hivemind-core`],
      ...["--volume", `${config}:${inside}`, ...more, "hub", "sh", "-c"],
      `trap 'exit 0' TERM; [ ! -e ${inside}/fail ] || exit 1; ${open}; ${idling}`,
    );
  create();
  const fix = stepsOf(plain);
  const step = (name, options) => runStep(fix, name, options);
  const [, copy] = /run --prepare '?([^ ']+)/.exec(fix);
  const prepared = step("run --prepare");
  remove("plain");
  create("--volume", `${copy}:${inside}/server.json:ro`);
  const hasPassword = () =>
    containers("exec", "plain", "cat", `${inside}/server.json`).includes('"password":');
  const key = ["--recovery-key-file", `${home}/plain/key`];
  const outcome = (steps) => {
    const environment = {
      NODE_OPTIONS: `--import=${root}/test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify(steps),
    };
    const { code, stderr } = step("encrypt", { extra: key, environment });
    return { code, stderr, hasPassword: hasPassword(), isRunning: isRunning("plain") };
  };
  const before = { ...prepared, hasPassword: hasPassword(), directories: step("-m") };
  const failed = outcome({
    "encrypt.promoted": `touch ${config}/fail`,
    "encrypt.put-back": `rm ${config}/fail`,
  });
  const done = outcome({});
  const saved = step("backup");
  remove("plain");
  return { fix, before, failed, done, saved };
}

/** What doctor finds about the container "composed", whose copy a unit writes, and its fixes. */
function repairs({ file, name, source }) {
  const config = `${home}/.config/hivemind-core/server.json`;
  const edit = (path, from, to) => {
    const text = readFileSync(path, "utf8");
    if (!text.includes(from)) throw new Error(`${path} has no ${from}`);
    writeFileSync(path, text.replaceAll(from, to));
  };
  const seen = {};
  edit(file, process.execPath, "/opt/node-1/bin/node");
  call("systemctl", "daemon-reload");
  seen.program = repair("composed");
  edit(source, '"password":', '"password": "other", "former":');
  seen.password = repair("composed");
  rmSync(source);
  seen.copy = repair("composed");
  renameSync(config, `${config}.away`);
  rmSync(source);
  spawnSync("systemctl", ["restart", name]);
  seen.unit = repair("composed", () => renameSync(`${config}.away`, config));
  writeFileSync(`${share}/fail`, "");
  create("failing", `[ ! -e /data/fail ] || exit 3; ${waiting}`, "--restart=always");
  spawnSync("sleep", ["3"]);
  seen.loop = repair("failing", () => rmSync(`${share}/fail`));
  remove("failing");
  const inside = "/home/hivemind";
  containers(
    ...["run", "--detach", "--name", "unlocked", "--network=host", `--env=HOME=${inside}`],
    ...["--volume", `${share}:${inside}/.local/share/hivemind-core`],
    ...["--volume", `${dirname(config)}:${inside}/.config/hivemind-core`],
    ...["hub", "sh", "-c", waiting],
  );
  const { found, typed } = repair("unlocked");
  seen.none = { found, typed };
  remove("unlocked");
  return seen;
}

/** Whether the copy of the container "composed" is refused to the hub of another container. */
function refusesOther(copy) {
  const config = `${home}/other-config`;
  cpSync(`${home}/.config/hivemind-core`, config, { recursive: true });
  containers(
    ...["create", "--name", "other", "--network=host"],
    ...["--volume", `${share}:/home/hivemind/.local/share/hivemind-core`],
    ...["--volume", `${config}:/home/hivemind/.config/hivemind-core`, "hub", "sleep", "1"],
  );
  const { code, stderr } = command(["run", "--prepare", copy, "--container", "other"]);
  remove("other");
  return code === 17 && stderr.includes("the container composed mounts");
}

const seen = {};

const parts = {
  makeStore() {
    for (const name of ["backups", "bundles"]) mkdirSync(`${home}/${name}`);
    mkdirSync(`${home}/.config/hivemind-core`, { recursive: true });
    const plugin = "hivemind-sqlite-db-plugin";
    writeFileSync(
      `${home}/.config/hivemind-core/server.json`,
      JSON.stringify({ network_protocol: {}, database: { module: plugin, [plugin]: {} } }),
    );
    const made = command(["init", ...key, "--bundle-to", `${home}/bundles`]);
    if (made.code !== 0) throw new Error(made.stderr);
  },

  auto() {
    hub("hub");
    const before = startedAt("hub");
    const made = command([...backup, "--json"]);
    seen.auto = {
      code: made.code,
      stderr: made.stderr,
      result: made.code === 0 ? JSON.parse(made.stdout) : null,
      isRunning: isRunning("hub"),
      isRestarted: startedAt("hub") !== before,
      settings: readFileSync(settings, "utf8"),
    };
  },

  dependents() {
    create("satellite", waiting, "--network=container:hub");
    const before = startedAt("satellite");
    const { code, stderr } = command(backup);
    const restarted = startedAt("satellite");
    seen.dependents = {
      code,
      stderr,
      isRunning: isRunning("satellite"),
      isRestarted: restarted !== before,
    };
    const environment = {
      NODE_OPTIONS: `--import=${root}/test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "backup.stopped": "kill" }),
    };
    command(backup, { environment });
    containers("start", "hub");
    const settled = command(["settle"]);
    const isRestarted = startedAt("satellite") !== restarted;
    seen.dependents.afterKill = { code: settled.code, isRestarted };
    remove("satellite");
  },

  rotate() {
    const before = startedAt("hub");
    const { code, stderr } = command(["rotate", "--hub", "none"]);
    seen.rotate = {
      code,
      stderr,
      isRunning: isRunning("hub"),
      isRestarted: startedAt("hub") !== before,
    };
  },

  /** A hub whose container mounts a copy of server.json in memory. */
  delivered() {
    remove("hub");
    forget();
    const inside = "/home/hivemind/.config/hivemind-core";
    const config = `${home}/.config/hivemind-core`;
    const copy = `${process.env.XDG_RUNTIME_DIR}/hivemind-sqlcipher/boxed.json`;
    const prepare = (...args) => command(["run", "--prepare", ...args]);
    const first = prepare(copy, "--server-json", `${config}/server.json`);
    const open = "exec 3</home/hivemind/.local/share/hivemind-core/clients.db";
    const program = `trap 'exit 0' TERM; [ ! -e ${inside}/fail ] || exit 1; ${open}; ${idling}`;
    containers(
      ...["run", "--detach", "--name", "boxed", "--network=host"],
      ...["--volume", `${share}:/home/hivemind/.local/share/hivemind-core`],
      ...["--volume", `${config}:${inside}`, "--volume", `${copy}:${inside}/server.json:ro`],
      ...["hub", "sh", "-c", program],
    );
    // What the container sees, and what a copy for the passphrase that opens the store contains.
    const view = () => containers("exec", "boxed", "cat", `${inside}/server.json`);
    const expected = (source) => {
      const other = `${copy}.expected`;
      const { code, stderr } = prepare(other, "--container", "boxed", ...source);
      return code === 0 ? readFileSync(other, "utf8").trim() : stderr;
    };
    const notice = prepare(`${copy}.expected`, "--container", "boxed").stderr;
    const password = view();
    const outcome = ({ code, stderr, stdout, signal }, before, source = []) => ({
      ...{ code, signal, stderr, stdout, isRunning: isRunning("boxed") },
      isChanged: view() !== before,
      isCurrent: view() === expected(source),
    });
    const atStep = (steps) => ({
      environment: {
        NODE_OPTIONS: `--import=${root}/test/faults/at-step.mjs`,
        HIVEMIND_TEST_AT_STEP: JSON.stringify(steps),
      },
    });
    seen.delivered = { first: { ...first, hasPassword: password.includes('"password":') }, notice };
    seen.delivered.rotated = outcome(command(["rotate", "--json"]), password);

    let before = view();
    const failing = {
      "rotate.promoted": `touch ${config}/fail`,
      "rotate.put-back": `rm ${config}/fail`,
    };
    seen.delivered.failed = outcome(command(["rotate"], atStep(failing)), before);

    for (const [name, step, work] of [
      ["undone", "rotate.held", ""],
      ["finished", "rotate.renamed", ""],
      // As after a reboot, which empties the file system in memory.
      ["undoneWithoutCopy", "rotate.held", `rm ${copy};`],
      ["finishedWithoutCopy", "rotate.renamed", `rm ${copy};`],
    ]) {
      before = view();
      const { signal } = command(["rotate"], atStep({ [step]: `${work} kill -9 $PPID` }));
      seen.delivered[name] = { killed: signal, ...outcome(command(["settle"]), before) };
    }
    // A backup from before the rotations, whose passphrase is in its bundle.
    before = view();
    const oldest = (directory, ending) =>
      readdirSync(`${home}/${directory}`)
        .filter((name) => name.endsWith(ending))
        .map((name) => `${home}/${directory}/${name}`)
        .sort((one, other) => statSync(one).mtimeMs - statSync(other).mtimeMs)[0];
    const restore = ["restore", oldest("backups", ".db"), "--yes", "--json"];
    const identity = ["--identity", `${home}/key`, "--bundle", oldest("bundles", ".age")];
    seen.delivered.restored = outcome(command([...restore, ...identity]), before);
    seen.delivered.isOnDisk = readFileSync(`${config}/server.json`, "utf8").includes("password");

    // systemd-creds keeps no key of the machine in memory.
    mkdirSync(`${home}/lib`);
    call("mount", "--bind", `${home}/lib`, "/var/lib/systemd");
    const sealed = ["--passphrase-source", `sealed:${home}/sealed`];
    const importPassphrase = (...source) => {
      const keyId = readFileSync(store).subarray(0, 8).toString("hex");
      const bundle = `${home}/bundles/clients.${keyId}.bundle.age`;
      return command(["bundle", "import", bundle, "--identity", `${home}/key`, ...source]);
    };
    importPassphrase(...sealed);
    before = view();
    seen.delivered.sealed = outcome(command(["rotate", ...sealed]), before, sealed);
    before = view();
    const undone = command(["rotate", ...sealed], atStep(failing));
    seen.delivered.sealedFailed = outcome(undone, before, sealed);
    importPassphrase();

    call("rm", copy);
    const { code, stderr } = command([...backup, ...service("boxed")]);
    seen.delivered.withoutCopy = { code, stderr, isRunning: isRunning("boxed") };
    remove("boxed");
    seen.delivered.encrypted = encryption();
    seen.delivered.adopted = adoption();
    forget();
    hub("hub");
    seen.engine = command(["run", "--", engine, "run", "hub"]);
  },

  /** A hub with the real packages, which are this machine's, asked inside the container. */
  async asked() {
    if (engine !== "podman") return;
    remove("hub");
    forget();
    const python = realpathSync(`${root}/.cache/python/development`);
    const base = call(`${python}/bin/python`, "-c", "import sys; print(sys.base_prefix)");
    const script = `${home}/opt/hivemind-core`;
    mkdirSync(dirname(script));
    writeFileSync(
      script,
      `#!${python}/bin/python
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
if "BROKEN" not in os.environ:
    from hivemind_core.config import get_server_config
    from hivemind_core.database import ClientDatabase
    with ClientDatabase(get_server_config()["database"]) as opened:
        print("opened", len(opened.db), flush=True)
        while True:
            time.sleep(1)
while True:
    time.sleep(1)
`,
      { mode: 0o755 },
    );
    mkdirSync(`${home}/broken`);
    writeFileSync(`${home}/broken/sqlcipher3.py`, "raise ImportError('not built')");
    const config = `${home}/.config/hivemind-core`;
    const copy = `${process.env.XDG_RUNTIME_DIR}/hivemind-sqlcipher/real.json`;
    const prepare = (...args) => command(["run", "--prepare", copy, ...args]);
    prepare("--server-json", `${config}/server.json`);
    const readable = ["/usr", "/lib", "/lib64", python, base, dirname(script), `${home}/broken`];
    const create = (name, ...options) =>
      containers(
        ...["run", "--detach", "--name", name, "--network=host", "--tmpfs=/tmp"],
        ...[...new Set(readable)].flatMap((path) => ["--volume", `${path}:${path}:ro`]),
        ...["--volume", `${share}:/home/hivemind/.local/share/hivemind-core`],
        ...["--volume", `${config}:/home/hivemind/.config/hivemind-core`],
        ...["--volume", `${copy}:/home/hivemind/.config/hivemind-core/server.json:ro`],
        ...["--env=HOME=/home/hivemind", "--env=XDG_CONFIG_HOME=", ...options],
        ...["hub", script, "listen"],
      );
    const opened = () => (containers("logs", "real").match(/opened 0/g) ?? []).length;
    create("real");
    await until(() => opened() === 1);
    const prepared = prepare("--container", "real");
    const rotated = command(["rotate"]);
    await until(() => opened() === 2 || !isRunning("real"));
    seen.asked = { prepared, rotated, opened: opened(), logs: containers("logs", "real") };
    remove("real");
    create("broken", "--env=BROKEN=1", `--env=PYTHONPATH=${home}/broken`);
    seen.asked.broken = prepare("--container", "broken");
    const refused = command(["rotate", ...service("broken")]);
    seen.asked.refused = { ...refused, isRunning: isRunning("broken") };
    remove("broken");
    forget();
    hub("hub");
  },

  async killed() {
    const at = { NODE_OPTIONS: `--import=${root}/test/faults/at-step.mjs` };
    const environment = { ...at, HIVEMIND_TEST_AT_STEP: '{"backup.stopped":"kill"}' };
    const { signal } = command(backup, { environment });
    const wasRunning = isRunning("hub");
    const next = command(["settle"]);
    seen.killed = { signal, wasRunning, next, isRunning: isRunning("hub"), timers: timers() };
  },

  async killedDuringStop() {
    writeFileSync(slow, "");
    const before = startedAt("hub");
    const stop = `setsid ${engine} stop hub >/dev/null 2>&1 & sleep 1; kill -9 $PPID`;
    const environment = {
      NODE_OPTIONS: `--import=${root}/test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ "backup.armed": stop }),
    };
    const { signal } = command(backup, { environment });
    const { code } = command(["settle"]);
    const isRestarted = startedAt("hub") !== before;
    seen.killedDuringStop = { signal, code, isRunning: isRunning("hub"), isRestarted };
    rmSync(slow);
  },

  async timer() {
    const job = `
      import { selectService } from "${root}/dist/service/select.js";
      const service = await selectService({ service: "${engine}", unit: "hub", storePath: "${store}" });
      await service.prepareStop();
      await service.armRestart({ afterMs: 1000, command: ["touch", "${home}/recovered"] });
      await service.stop();
      process.kill(process.pid, "SIGKILL");`;
    const { signal } = spawnSync(process.execPath, ["--input-type=module", "-e", job]);
    const wasRunning = isRunning("hub");
    await until(() => isRunning("hub") && timers() === "");
    // Podman's monitor of the container, a child of the timer's command, must outlive it.
    await delay(500);
    const isRecovered = existsSync(`${home}/recovered`);
    seen.timer = { signal, wasRunning, isRecovered, isRunning: isRunning("hub") };
  },

  async schedule() {
    const environment = Object.entries(process.env).flatMap(([name, value]) =>
      /^(PATH|HOME|XDG_|DBUS_|CONTAINERS_)/.test(name) ? [`Environment=${name}=${value}\n`] : [],
    );
    const own = [process.execPath, `${root}/dist/cli/main.js`, ...backup, "--db", store];
    writeFileSync(
      "/etc/systemd/system/job.service",
      `[Service]\nType=oneshot\n${environment.join("")}ExecStart=${own.join(" ")}\n`,
    );
    call("systemctl", "daemon-reload");
    const before = startedAt("hub");
    const { status } = spawnSync("systemctl", ["start", "job"]);
    await delay(500);
    seen.schedule = {
      code: status,
      isRunning: isRunning("hub"),
      isRestarted: startedAt("hub") !== before,
    };
  },

  stranger() {
    create("cli", waiting);
    containers("exec", "--detach", "cli", "sh", "-c", holding);
    const before = startedAt("hub");
    const { code, stderr } = command(backup);
    seen.stranger = { code, stderr, isUntouched: startedAt("hub") === before };
    remove("cli");
  },

  stopped() {
    containers("stop", "hub");
    forget();
    const { code, stderr } = command(backup);
    seen.stopped = { code, stderr, isRunning: isRunning("hub") };
    remove("hub");
  },

  /**
   * A hub on a JSON file, which has no file open. Only its process names it, as with the image of
   * HiveMind. A unit and a container are left from earlier.
   */
  closed() {
    create("earlier", `: hivemind-core listen; ${waiting}`);
    containers("stop", "earlier");
    const unit = "/etc/systemd/system/earlier.service";
    writeFileSync(
      unit,
      `[Service]\nEnvironment=HOME=${home}\nExecStart=/bin/hivemind-core listen\n`,
    );
    call("systemctl", "daemon-reload");
    writeFileSync(`${share}/hivemind-core`, waiting);
    writeFileSync(`${share}/entrypoint`, "exec sh /data/hivemind-core listen");
    create("closed", "exec sh /data/entrypoint");
    forget();
    const made = readdirSync(`${home}/backups`).filter((name) => name.endsWith(".db"));
    const newest = `${home}/backups/${made.sort().at(-1)}`;
    const into = ["--into", "hivemind-json-db-plugin", "--discard-replaced"];
    const before = startedAt("closed");
    const restored = command(["restore", newest, "--yes", ...into]);
    const isRestarted = startedAt("closed") !== before;
    containers("pause", "closed");
    forget();
    const paused = command(backup);
    containers("unpause", "closed");
    seen.closed = { restored, isRestarted, isRunning: isRunning("closed"), paused };
    forget();
    remove("closed", "earlier");
    for (const name of ["hivemind-core", "entrypoint", "clients.json"]) rmSync(`${share}/${name}`);
    rmSync(unit);
    call("systemctl", "daemon-reload");
  },

  refusals() {
    hub("volatile", "--rm");
    hub("paused");
    containers("pause", "paused");
    hub("swarm", "--label", "com.docker.swarm.service.name=stack_hub");
    containers("run", "--detach", "--name", "foreign", "--network=host", "hub", "sleep", "1000");
    const own = "exec 3>/clients.db; exec sleep 1000";
    containers("run", "--detach", "--name", "own", "--network=host", "hub", "sh", "-c", own);
    seen.refusals = {
      volatile: refusal("volatile"),
      paused: refusal("paused"),
      swarm: refusal("swarm"),
      absent: refusal("absent"),
      foreign: refusal("foreign"),
      own: refusal("own"),
      invalid: refusal("-x"),
      isRunning: isRunning("volatile"),
    };
    const denied = `
      import { selectService } from "${root}/dist/service/select.js";
      process.setuid(65534);
      const choice = { service: "${engine}", unit: "swarm", storePath: "${store}" };
      const error = await selectService(choice).then((service) => service.check("${store}")).catch((error) => error);
      console.log(JSON.stringify({ kind: error.kind, message: error.message, hint: error.hint }));`;
    seen.denied = JSON.parse(call(process.execPath, "--input-type=module", "-e", denied));
    containers("unpause", "paused");
    remove("volatile", "paused", "swarm", "foreign", "own");
  },

  /** Units as Podman's generators write them; the second has no label that names the unit. */
  units() {
    if (engine !== "podman") return;
    const variables = [
      "HOME",
      "DBUS_SESSION_BUS_ADDRESS",
      "CONTAINERS_CONF",
      "CONTAINERS_STORAGE_CONF",
    ];
    const unit = (...lines) =>
      [
        ...["[Service]", "Environment=PODMAN_SYSTEMD_UNIT=%n"],
        ...variables.map((name) => `Environment=${name}=${process.env[name]}`),
        ...[...lines, ""],
      ].join("\n");
    writeFileSync(`${home}/hub.sh`, `trap 'exit 0' TERM; ${holding}`);
    const printed = command(["run", "--print-unit", "quadlet"]).stdout;
    const [, volume] = /^Volume=(.*)$/m.exec(printed);
    const [, preparation] = /^\[Service\]\n([\s\S]*)$/m.exec(printed);
    writeFileSync(
      "/etc/systemd/system/quadlet.service",
      unit(
        ...["Type=notify", "NotifyAccess=all", "Restart=always"],
        preparation,
        [
          "ExecStart=/usr/bin/podman run --detach --rm --replace --name in-quadlet",
          "--sdnotify=conmon --cgroups=split --network=host",
          `--volume ${share}:/data --volume ${home}/hub.sh:/hub.sh`,
          `--volume ${volume} hub sh /hub.sh`,
        ].join(" "),
        "ExecStop=/usr/bin/podman stop in-quadlet",
      ),
    );
    const real = existsSync(generator);
    if (real) {
      const environment = variables.map((name) => `Environment=${name}=${process.env[name]}\n`);
      mkdirSync(`${home}/quadlets`);
      writeFileSync(
        `${home}/quadlets/podman5.container`,
        `[Container]
ContainerName=in-podman5
Image=localhost/hub
Network=host
Volume=${share}:/data
Volume=${home}/hub.sh:/hub.sh
Volume=${volume}
Exec=sh /hub.sh

[Service]
${environment.join("")}${preparation}Restart=always
# Podman 4 leaves this file
ExecStartPre=-rm -f %t/%N.cid
`,
      );
      const written = execFileSync(generator, ["-dryrun"], {
        encoding: "utf8",
        env: { ...process.env, QUADLET_UNIT_DIRS: `${home}/quadlets` },
      });
      const [, text] = /^---podman5\.service---\n([\s\S]*)$/m.exec(written);
      writeFileSync("/etc/systemd/system/podman5.service", text);
    }
    writeFileSync(
      "/etc/systemd/system/generated.service",
      unit(
        ...["Type=forking", "PIDFile=/run/generated.pid", "Restart=on-failure"],
        "ExecStart=/usr/bin/podman start in-generated",
        "ExecStop=/usr/bin/podman stop in-generated",
      ),
    );
    containers(
      ...["create", "--name", "in-generated", "--conmon-pidfile=/run/generated.pid"],
      ...["--user=1000:1000", "--network=host", "--volume", `${share}:/data`],
      ...["hub", "sh", "-c", `trap 'exit 0' TERM; ${holding}`],
    );
    call("chown", "-R", "1000:1000", share);
    call("systemctl", "daemon-reload");
    for (const name of ["quadlet", "generated", ...(real ? ["podman5"] : [])]) {
      call("systemctl", "start", name);
      const before = startedAt(`in-${name}`);
      const { code, stdout, stderr } = command([...backup, "--service", "auto", "--json"]);
      const group = readFileSync(`/proc/${state(`in-${name}`).Pid}/cgroup`, "utf8");
      seen[name] = {
        code,
        isSplit: group.includes(`${name}.service/libpod-payload-`),
        stderr,
        service: code === 0 ? JSON.parse(stdout).service : null,
        isActive: call("systemctl", "is-active", name) === "active",
        isRestarted: startedAt(`in-${name}`) !== before,
        engine: refusal(`in-${name}`),
      };
      if (name !== "generated") {
        const password = () => containers("exec", `in-${name}`, "cat", volume.split(":")[1]);
        const first = password();
        const rotated = command(["rotate", "--service", "systemd", "--unit", name]);
        seen[name].rotated = {
          code: rotated.code,
          stderr: rotated.stderr,
          isDelivered: password() !== first && password().includes('"password":'),
        };
      }
      call("systemctl", "stop", name);
    }
    const stopped = command([...backup, "--service", "systemd", "--unit", "quadlet"]);
    seen.stoppedUnit = { code: stopped.code, stderr: stopped.stderr };
    remove("in-generated");
    call("chown", "-R", "0:0", share);
  },

  /** The unit for a compose file, and its lines as options of the engine. */
  compose() {
    const print = (...options) => command(["run", "--print-unit", "compose"], ...options).stdout;
    const printed = print();
    const unit = installCopyUnit(printed);
    const { file, name, source, target } = unit;
    const open = "exec 3</data/clients.db";
    const program = `trap 'exit 0' TERM; ${open}; ${idling}`;
    const data = "/home/hivemind/.local/share/hivemind-core";
    create("composed", program, unit.mount, "--volume", `${share}:${data}`);
    forget();
    const view = () => containers("exec", "composed", "cat", target);
    const before = view();
    const { code, stderr } = command(["rotate", ...service("composed")]);
    seen.compose = {
      ...{ code, stderr, hasPassword: before.includes('"password":') },
      isChanged: view() !== before,
      isRefused: refusesOther(source),
      isMountKept: print({
        options: ["--db", `${store}2`, "--container", "composed"],
      }).includes(`source: ${source}\n`),
      notices: call("systemd-analyze", "verify", file),
    };
    if (process.env.PROVE === "1") seen.repaired = repairs(unit);
    remove("composed");
    if (engine === "docker" && existsSync(composePlugin)) seen.compose2 = composed(printed);
    call("systemctl", "disable", "--now", name);
  },

  /** Runs the command blocks of the guide, with a shell in the place of the hub's image. */
  guide() {
    if (engine !== "podman") return;
    forget();
    const page = readFileSync(`${root}/docs/guide/containers.md`, "utf8");
    const own = /<!-- executed by test\/service\/containers.test.ts -->\n```sh\n([\s\S]*?)```/g;
    const blocks = [...page.matchAll(own)].map(([, block]) => block);
    const image = "docker.io/smartgic/hivemind-listener:alpha";
    const open = "exec 3</home/hivemind/.local/share/hivemind-core/clients.db";
    const program = `trap 'exit 0' TERM; ${open}; ${idling}`;
    const definition = `hivemind-sqlcipher() { ${process.execPath} ${root}/dist/cli/main.js "$@"; }`;
    const lines = ["set -eu", definition, ...blocks].join("\n");
    const { status, stdout, stderr } = spawnSync(
      "bash",
      ["-c", lines.replaceAll(image, `hub sh -c ${JSON.stringify(program)}`)],
      { encoding: "utf8", cwd: home },
    );
    const file = "/home/hivemind/.config/hivemind-core/server.json";
    seen.guide = {
      code: status,
      output: stdout + stderr,
      hasPassword: containers("exec", "hivemind_listener", "cat", file).includes('"password":'),
      isOnDisk: readFileSync(`${home}/.config/hivemind-core/server.json`, "utf8").includes(
        "password",
      ),
      isRunning: isRunning("hivemind_listener"),
    };
    remove("hivemind_listener");
  },

  deaf() {
    create("deaf", holding, "--stop-timeout=2");
    const { code, stderr } = command([...backup, ...service("deaf")]);
    seen.deaf = { code, stderr, isRunning: isRunning("deaf"), doctor: diagnose("deaf") };
    remove("deaf");
  },

  /** A hub whose files are on no volume, beside the store's own. */
  doctor() {
    const files = `${home}/lost`;
    const store = `${files}/home/hivemind/.local/share/hivemind-core/clients.db`;
    const identity = `${files}/home/hivemind/.config/hivemind/_identity.json`;
    for (const file of [store, identity]) {
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, "");
    }
    const config = `${files}/home/hivemind/.config/hivemind-core`;
    cpSync(`${home}/.config/hivemind-core`, config, { recursive: true });
    const listening = `: hivemind-core listen; ${waiting}`;
    const lost = (...options) =>
      containers(
        ...["run", "--detach", "--name", "lost", "--env=HOME=/home/hivemind", "--user=1000:1000"],
        ...["--network=host", ...options, "hub", "sh", "-c", listening],
      );
    lost();
    containers("cp", `${files}/home`, "lost:/");
    hub("hub");
    seen.doctor = diagnose("hub");
    const typed = seen.doctor.map(typeFix);
    const volumes = seen.doctor.map(({ fix }) => {
      const [, copy, directory] = /with the copy, ~(\S+), mounted at (\S+): /.exec(fix);
      return `--volume=${process.env.HOME}${copy}:${directory}`;
    });
    remove("lost");
    lost(...volumes);
    seen.copiedOut = {
      codes: typed.map(({ code }) => code),
      owner: statSync(`${process.env.HOME}/lost-store/clients.db`).uid,
    };
    seen.healthy = diagnose("hub");
    remove("lost", "hub");
    if (engine !== "podman") return;
    writeFileSync(`${home}/secret`, "{}");
    containers("secret", "create", "server.json", `${home}/secret`);
    hub("hub", "--secret=server.json");
    const [finding] = diagnose("hub");
    seen.secret = { doctor: [finding], rotated: command(["rotate", ...service("hub")]) };
    if (process.env.PROVE !== "1") return void remove("hub");
    const [, print] = /\((hivemind-sqlcipher .*) prints how\)/.exec(finding.fix);
    const unit = installCopyUnit(type(print).stdout);
    remove("hub");
    hub("hub", unit.mount);
    containers("secret", "rm", "server.json");
    forget();
    Object.assign(seen.secret, { fixed: typeFix(finding), left: diagnose("hub") });
    remove("hub");
    call("systemctl", "disable", "--now", unit.name);
    rmSync(unit.file);
  },
};

await startEngine[engine]();
makeImage();
// Both engines mount the copy alike, and are searched alike: scripts/test tries one of them.
if (engine !== "podman" && process.env.PROVE !== "1") {
  delete parts.delivered;
  delete parts.closed;
}
for (const part of Object.values(parts)) await part();
if (existsSync("/run/docker.pid")) process.kill(Number(readFileSync("/run/docker.pid", "utf8")));
console.log(JSON.stringify(seen));
