// Runs in a session with a system manager of its own: rootless Podman of a user of its own, with
// containers of busybox that have a store open, and the command. Prints what it saw as JSON.
// Usage: node rootless-session.mjs HOME
import { execFileSync, spawnSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";

const [, script, base] = process.argv;
const root = dirname(dirname(dirname(script)));
const uid = 1234;
const home = `${base}/pi`;
const runtime = `/run/user/${uid}`;
const share = `${home}/.local/share/hivemind-core`;
const store = `${share}/clients.db`;
const config = `${home}/.config/hivemind-core`;
const inside = "/home/hivemind/.config/hivemind-core";
const copy = `${runtime}/hivemind-sqlcipher/server.json`;
process.env.PATH = `/usr/sbin:/usr/bin:/sbin:/bin:${process.env.PATH}`;

const call = (program, ...args) =>
  execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();

/** What the user's programs have as their environment. */
const environment = {
  HOME: home,
  XDG_RUNTIME_DIR: runtime,
  DBUS_SESSION_BUS_ADDRESS: `unix:path=${runtime}/bus`,
  PATH: "/usr/sbin:/usr/bin:/sbin:/bin",
};

/** Runs a program as the user, in a user unit, as a login session does. */
function asUser(args, variables = {}) {
  const settings = Object.entries(variables).map(([name, value]) => `--setenv=${name}=${value}`);
  const { status, stdout, stderr } = spawnSync(
    "setpriv",
    [
      ...[`--reuid=${uid}`, `--regid=${uid}`, "--init-groups", "systemd-run", "--user"],
      ...["--pipe", "--wait", "--quiet", "--collect", ...settings, "--", ...args],
    ],
    { encoding: "utf8", env: environment, cwd: "/" },
  );
  return { code: status, stdout, stderr };
}

function podman(...args) {
  const { code, stdout, stderr } = asUser(["podman", ...args]);
  if (code !== 0) throw new Error(`podman ${args.join(" ")}: ${stderr}`);
  return stdout.trim();
}

const own = ["/run/hivemind-node", "/run/hivemind-project/dist/cli/main.js"];
const command = (args, variables) => asUser([...own, ...args, "--db", store], variables);
const state = (name) => JSON.parse(podman("inspect", "--type=container", name))[0].State;
const atStep = (steps) => ({
  NODE_OPTIONS: "--import=/run/hivemind-project/test/faults/at-step.mjs",
  HIVEMIND_TEST_AT_STEP: JSON.stringify(steps),
});

function write(path, text, mode = 0o600) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text, { mode });
}

/** The user, with a range of ids for containers, known only in this session's mount namespace. */
function makeUser() {
  // Only without this mount the kernel lets a user's PID namespace have a /proc of its own.
  call("umount", "/proc/sys");
  const entries = {
    passwd: `pi:x:${uid}:${uid}::${home}:/bin/sh\n`,
    group: `pi:x:${uid}:\n`,
    subuid: "pi:100000:65536\n",
    subgid: "pi:100000:65536\n",
  };
  for (const [name, line] of Object.entries(entries)) {
    copyFileSync(`/etc/${name}`, `/run/${name}`);
    appendFileSync(`/run/${name}`, line);
    call("mount", "--bind", `/run/${name}`, `/etc/${name}`);
  }
  // The project and Node.js may lie in a directory that other users cannot enter.
  mkdirSync("/run/hivemind-project");
  call("mount", "--bind", root, "/run/hivemind-project");
  writeFileSync("/run/hivemind-node", "");
  call("mount", "--bind", process.execPath, "/run/hivemind-node");
  chmodSync(base, 0o711);
  write(
    `${home}/.config/containers/containers.conf`,
    `[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:8192"]
pids_limit = 0
log_driver = "k8s-file"
[engine]
events_logger = "file"
`,
  );
  write(`${home}/.config/containers/storage.conf`, '[storage]\ndriver = "vfs"\n');
  write(`${home}/passphrase`, "correct horse battery staple");
  write(`${home}/next`, "another horse battery staple");
  const plugin = "hivemind-sqlite-db-plugin";
  write(
    `${config}/server.json`,
    JSON.stringify({ network_protocol: {}, database: { module: plugin, [plugin]: {} } }),
  );
  for (const name of ["backups", "bundles"]) mkdirSync(`${home}/${name}`);
  call("chown", "-R", `${uid}:${uid}`, home);
}

function startManager() {
  mkdirSync(runtime, { mode: 0o700 });
  chownSync(runtime, uid, uid);
  writeFileSync(
    `/etc/systemd/system/user@${uid}.service`,
    `[Unit]
DefaultDependencies=no
[Service]
Type=notify
User=${uid}
Delegate=yes
KillMode=mixed
ExecStart=/lib/systemd/systemd --user
${Object.entries(environment)
  .map(([name, value]) => `Environment=${name}=${value}\n`)
  .join("")}`,
  );
  call("systemctl", "daemon-reload");
  call("systemctl", "start", `user@${uid}.service`);
}

function makeImage() {
  const files = `${base}/files`;
  mkdirSync(`${files}/bin`, { recursive: true });
  cpSync("/bin/busybox", `${files}/bin/busybox`);
  for (const name of ["sh", "sleep", "cat"]) symlinkSync("busybox", `${files}/bin/${name}`);
  const archive = `${base}/image.tar`;
  call("tar", "-C", files, "-cf", archive, ".");
  podman("import", archive, "hub");
}

const program = (path) =>
  `trap 'exit 0' TERM; exec 3<${path}/clients.db; sleep 1000000 3<&- & wait`;
const data = "/home/hivemind/.local/share/hivemind-core";
const mounts = [
  `--volume=${share}:${data}`,
  `--volume=${config}:${inside}`,
  `--volume=${copy}:${inside}/server.json:ro`,
];
const keepId = ["--userns=keep-id:uid=1000,gid=1000", "--user=1000:1000"];
const view = (name) => podman("exec", name, "cat", `${inside}/server.json`);
const backup = ["backup", "--to", `${home}/backups`, "--bundle-to", `${home}/bundles`];

function forget() {
  const settings = `${home}/.config/hivemind-sqlcipher/config.json`;
  const { backup: known, ...others } = JSON.parse(readFileSync(settings, "utf8"));
  const directories = { to: known.to, bundle_to: known.bundle_to };
  writeFileSync(settings, JSON.stringify({ ...others, backup: directories }));
}

const seen = {};

const parts = {
  makeStore() {
    const source = ["--passphrase-source", `file:${home}/passphrase`];
    const key = ["--recovery-key-file", `${home}/key`, "--bundle-to", `${home}/bundles`];
    const made = command(["init", ...source, ...key]);
    if (made.code !== 0) throw new Error(made.stderr);
  },

  keepId() {
    const prepared = command([
      ...["run", "--prepare", copy, "--server-json", `${config}/server.json`],
    ]);
    podman(
      ...["run", "--detach", "--name=hub", "--network=host", ...keepId, ...mounts],
      ...["hub", "sh", "-c", program(data)],
    );
    const started = state("hub").StartedAt;
    const { code, stdout, stderr } = command([...backup, "--json"]);
    seen.backup = {
      ...{ prepared, code, stderr, result: code === 0 ? JSON.parse(stdout) : null },
      isRunning: state("hub").Running,
      isRestarted: state("hub").StartedAt !== started,
    };
    const before = view("hub");
    const rotate = ["rotate", "--passphrase-file", `${home}/next`];
    const failing = atStep({
      "rotate.renamed": "kill -9 $PPID",
    });
    const killed = command(rotate, failing);
    const wasRunning = state("hub").Running;
    const settled = command(["settle"]);
    seen.rotate = {
      ...{ killed, wasRunning, settled, isRunning: state("hub").Running },
      isChanged: view("hub") !== before,
      opens: command(["list-clients", "--json"]),
    };
    podman("rm", "--force", "hub");
    forget();
  },

  /** As the generator of quadlets writes it, with the container's group below that of the unit. */
  split() {
    // On a host with older hierarchies of cgroups, Podman leaves the unit unless their root is the
    // user's.
    chownSync("/sys/fs/cgroup", uid, uid);
    const printed = command(["run", "--print-unit", "quadlet"]).stdout;
    const [, volume] = /^Volume=(.*)$/m.exec(printed);
    const [, preparation] = /^\[Service\]\n([\s\S]*)$/m.exec(printed);
    write(`${share}/hub.sh`, program(data), 0o644);
    write(
      `${home}/.config/systemd/user/split.service`,
      `[Service]
Environment=PODMAN_SYSTEMD_UNIT=%n
KillMode=mixed
Delegate=yes
Type=notify
NotifyAccess=all
Restart=always
${preparation}
ExecStartPre=/bin/rm -f %t/%N.cid
ExecStart=${[
        "/usr/bin/podman run --name=split --cidfile=%t/%N.cid --replace --rm --cgroups=split",
        `--sdnotify=conmon --detach --network=host ${keepId.join(" ")} ${mounts.slice(0, 2).join(" ")}`,
        `--volume=${volume} hub sh ${data}/hub.sh`,
      ].join(" ")}
ExecStop=/usr/bin/podman rm -v -f -i --cidfile=%t/%N.cid
ExecStopPost=-/usr/bin/podman rm -v -f -i --cidfile=%t/%N.cid
`,
      0o644,
    );
    call("chown", "-R", `${uid}:${uid}`, `${home}/.config/systemd`, share);
    const manager = (...args) => asUser(["systemctl", "--user", ...args]);
    manager("daemon-reload");
    const start = manager("start", "split");
    const group = readFileSync(`/proc/${state("split").Pid}/cgroup`, "utf8");
    const before = view("split");
    const saved = command([...backup, "--json"]);
    const rotated = command(["rotate", "--passphrase-file", `${home}/passphrase`]);
    seen.split = {
      ...{ start, saved, rotated, group, isChanged: view("split") !== before },
      service: saved.code === 0 ? JSON.parse(saved.stdout).service : null,
    };
    manager("stop", "split");
    chownSync("/sys/fs/cgroup", 0, 0);
    forget();
  },

  /** Without keep-id, the container's user is one of the user's sub-uids. */
  mapped() {
    podman("unshare", "chown", "-R", "1000:1000", share);
    podman(
      ...["run", "--detach", "--name=mapped", "--network=host", "--user=1000:1000"],
      ...[`--volume=${share}:/data`, "hub", "sh", "-c", program("/data")],
    );
    const started = state("mapped").StartedAt;
    const denied = command(backup);
    const { code, stderr } = asUser(["podman", "unshare", ...own, ...backup, "--db", store]);
    seen.mapped = {
      ...{ denied, code, stderr, isRunning: state("mapped").Running },
      isRestarted: state("mapped").StartedAt !== started,
    };
    podman("rm", "--force", "mapped");
  },
};

makeUser();
startManager();
makeImage();
for (const part of Object.values(parts)) part();
call("systemctl", "stop", `user@${uid}.service`);
if (existsSync("/run/hivemind-project")) call("umount", "/run/hivemind-project");
console.log(JSON.stringify(seen));
