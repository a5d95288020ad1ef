import type { ChildProcess } from "node:child_process";
import { existsSync, lstatSync, readdirSync, readFileSync } from "node:fs";
import { mkdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ClientStore } from "../../src/store/client-store.js";
import {
  asOrdinaryUser,
  catchesTerm,
  childrenOf,
  filesWithPassphrase,
  freePort,
  type Home,
  hubScript,
  isAlive,
  makeHome,
  makeListeningHome,
  passphrase,
  plugin,
  processesWithPassphrase,
  type Running,
  startBus,
  startRun,
  until,
} from "./support.js";

let hub: string;
let bus: ChildProcess;
let busPort: number;
let home: Home;

beforeAll(async () => {
  hub = await hubScript("development");
  busPort = await freePort();
  bus = await startBus(hub, busPort);
});
afterAll(() => {
  bus.kill();
});
beforeEach(async () => {
  home = await makeHome();
});
afterEach(() => home.remove());

/**
 * A hub that tells what it sees and does what it is told, to be asked about signals and streams.
 */
const shell = (script: string) => ["/bin/sh", "-c", script];

/** The home of a hub that listens, instead of the one that was made for the test. */
async function listeningHome(user?: number): Promise<Home> {
  await home.remove();
  return makeListeningHome(busPort, user === undefined ? {} : { user });
}

/** Waits until a hub that listens is ready, to end on SIGTERM too. */
async function readyHub(run: Running): Promise<number> {
  await until(() => run.stdout().includes("service ready!"));
  const [pid = 0] = await childrenOf(run.child.pid ?? 0);
  await until(() => catchesTerm(pid));
  return pid;
}

describe("the real hub", () => {
  test("adds a client to the encrypted store and lists it, and its settings stay as they are", async () => {
    const settings = await readFile(home.serverJson);
    const added = await startRun(home, [hub, "add-client", "--name", "kitchen"]);
    expect(await added.ended).toBe(0);
    const listed = await startRun(home, [hub, "list-clients"]);
    expect(await listed.ended).toBe(0);
    expect(listed.stdout()).toContain("kitchen");

    await using store = await ClientStore.open(home.storePath, passphrase, { mode: "readonly" });
    expect(await store.searchByValue("name", "kitchen")).toHaveLength(1);
    expect(await readFile(home.serverJson)).toEqual(settings);
    expect(filesWithPassphrase(home.home, home.runtime)).toEqual([]);
  });

  test("listens, sees its passphrase where nobody else does, and ends on SIGTERM", async () => {
    home = await listeningHome();
    const run = await startRun(home, [hub, "listen"]);
    const pid = await readyHub(run);
    expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).toContain("listen");

    expect(processesWithPassphrase()).toEqual([]);
    expect(filesWithPassphrase(home.home, home.runtime)).toEqual([]);
    const seen = readFileSync(`/proc/${pid}/root${home.serverJson}`, "utf8");
    expect(seen).toContain("a pass'phrase");
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(home.serverJson);

    run.child.kill("SIGTERM");
    expect(await run.ended).toBe(0);
    expect(filesWithPassphrase(home.home, home.runtime)).toEqual([]);
  });

  test("does not outlive a run that is killed", async () => {
    home = await listeningHome();
    const run = await startRun(home, [hub, "listen"]);
    const pid = await readyHub(run);
    run.child.kill("SIGKILL");
    await until(() => !isAlive(pid));
    expect(filesWithPassphrase(home.home, home.runtime)).toEqual([]);
    await using store = await ClientStore.open(home.storePath, passphrase, { mode: "readonly" });
    expect(await store.size()).toBe(0);
  });
});

test("the passphrase is in no argument, no environment, and written to memory alone", async () => {
  const trace = join(home.home, "trace");
  const strace = ["strace", "-f", "-y", "-v", "-s", "10000", "-o", trace];
  const calls = "trace=execve,write,writev,pwrite64,pwritev,sendto,sendmsg";
  const run = await startRun(home, shell("exit 3"), {
    wrap: (line) => [...strace, "-e", calls, ...line],
  });
  expect(await run.ended).toBe(3);
  const shown = readFileSync(trace, "utf8")
    .split("\n")
    .filter((line) => line.includes("a pass'phrase"));
  const targets = shown.map(
    (line) => /^\d+ +(?:write|writev|sendmsg|sendto)\(\d+<([^>:[]+)/.exec(line)?.[1],
  );
  expect(new Set(targets)).toEqual(new Set(["socket", "/dev/shm/server.json"]));
});

describe("what the hub gets", () => {
  test.each([
    ["exit 7", 7],
    ["kill -TERM $$", 128 + 15],
    ["kill -KILL $$", 128 + 9],
  ])("%s is handed through as code %i", async (script, code) => {
    expect(await (await startRun(home, shell(script))).ended).toBe(code);
  });

  test("standard streams are the hub's", async () => {
    const run = await startRun(home, shell("cat; echo heard >&2"), { input: "said" });
    expect(await run.ended).toBe(0);
    expect(run.stdout()).toBe("said");
    expect(run.stderr()).toContain("heard");
  });

  test("every signal arrives, once", async () => {
    const script = `
      for (const name of ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"]) {
        process.on("SIG" + name, () => { console.log(name); if (name === "TERM") process.exit(3); });
      }
      setInterval(() => {}, 1000);
      console.log("listening");`;
    const run = await startRun(home, [process.execPath, "-e", script]);
    await until(() => run.stdout().includes("listening"));
    for (const name of ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"]) {
      run.child.kill(`SIG${name}` as NodeJS.Signals);
      await until(() => run.stdout().includes(name));
    }
    expect(await run.ended).toBe(3);
    expect(run.stdout()).toBe("listening\nHUP\nINT\nQUIT\nUSR1\nUSR2\nTERM\n");
  });

  // A line typed into `script` is as on a terminal: its Ctrl-C goes to all in the foreground.
  const inTerminal = (line: string[]) => ["script", "-qec", `exec ${line.join(" ")}`, "/dev/null"];
  const interruptible = `
    process.on("SIGINT", () => console.log("caught"));
    process.on("SIGUSR1", () => process.exit(5));
    setInterval(() => {}, 1000);
    console.log("run is", process.ppid);`;

  test.each([
    ["arrives", [], "caught"],
    // In a session of its own the hub gets only what is passed on.
    ["is not passed on, since the terminal has done that", ["setsid"], ""],
  ])("a terminal's Ctrl-C %s", async (_, before, expected) => {
    const file = join(home.home, "hub.js");
    await writeFile(file, interruptible);
    const command = [...before, process.execPath, file];
    const run = await startRun(home, command, { wrap: inTerminal });
    await until(() => /run is \d+/.test(run.stdout()));
    const pid = Number(/run is (\d+)/.exec(run.stdout())?.[1]);
    run.child.stdin?.write("\x03");
    await until(() => run.stdout().includes("^C") && run.stdout().includes(expected));
    process.kill(pid, "SIGUSR1");
    expect(await run.ended).toBe(5);
    expect(run.stdout().match(/caught/g) ?? []).toEqual(expected === "" ? [] : [expected]);
  });

  test("the environment is the hub's as it is, and core dumps are off", async () => {
    home.environment.NOTIFY_SOCKET = "/run/x";
    home.environment.XDG_CONFIG_HOME = join(home.home, ".config");
    home.environment.EMPTY = "";
    const run = await startRun(home, shell("ulimit -c; env -0 | sort -z"));
    expect(await run.ended).toBe(0);
    const [limit, ...rest] = run.stdout().split("\n");
    expect(limit).toBe("0");
    const seen = Object.fromEntries(
      rest
        .join("\n")
        .split("\0")
        .filter(Boolean)
        .map((line) => line.split(/=(.*)/s).slice(0, 2)),
    );
    expect(seen).toMatchObject(home.environment);
  });

  test("only server.json is new, it cannot be written, and no descriptor or folder of ours is left", async () => {
    const other = join(home.home, ".config/hivemind-core/other");
    const script = `
      grep -c . "$HOME/.config/hivemind-core/server.json"
      (echo x >"$HOME/.config/hivemind-core/server.json") 2>&1 | grep -o 'Read-only' || echo written
      echo y >"${other}"
      ls /proc/$$/fd >"$HOME/descriptors"
      grep -c hivemind-sqlcipher /proc/self/mountinfo
      umask`;
    const run = await startRun(home, shell(script));
    expect(await run.ended).toBe(0);
    const [lines, writing, mounts, umask] = run.stdout().split("\n");
    expect(Number(lines)).toBeGreaterThan(2);
    expect([writing, mounts]).toEqual(["Read-only", "1"]);
    const descriptors = (await readFile(join(home.home, "descriptors"), "utf8")).trim().split("\n");
    expect(descriptors.filter((each) => Number(each) <= 5)).toEqual(["0", "1", "2"]);
    expect(umask).toBe(`00${process.umask().toString(8).padStart(2, "0")}`);
    expect(await readFile(other, "utf8")).toBe("y\n");
  });

  test("a server.json in shared memory itself is covered too", async () => {
    await home.remove();
    home = await makeHome({ parent: "/dev/shm" });
    const run = await startRun(home, [hub, "list-clients"]);
    expect(await run.ended).toBe(0);
    expect(filesWithPassphrase(home.home)).toEqual([]);
  });

  test("a server.json behind a symbolic link is covered where the link leads", async () => {
    const file = join(home.home, "hub settings.json");
    await rename(home.serverJson, file);
    await symlink(file, home.serverJson);
    const run = await startRun(home, [hub, "list-clients"]);
    expect(await run.ended).toBe(0);
    expect(lstatSync(home.serverJson).isSymbolicLink()).toBe(true);
    expect(filesWithPassphrase(home.home)).toEqual([]);
  });
});

describe("as an ordinary user", () => {
  const nobody = 65534;
  test("the real hub reads its store, as that user and with no rights of the namespace", async () => {
    home = await listeningHome(nobody);
    const prefix = await asOrdinaryUser(nobody, hub);
    const run = await startRun(home, [hub, "listen"], {
      wrap: (line) => [...prefix, ...line],
      user: nobody,
    });
    const pid = await readyHub(run);
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    expect(status).toMatch(/^Uid:\s+65534\s+65534\s+65534\s+65534$/m);
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
      expect(status).toMatch(new RegExp(`^${set}:\\s+0+$`, "m"));
    }
    expect(processesWithPassphrase()).toEqual([]);
    expect(filesWithPassphrase(home.home, home.runtime)).toEqual([]);
    run.child.kill("SIGTERM");
    expect(await run.ended).toBe(0);
  });

  test("root who may not mount gets the same namespace, and stays root", async () => {
    const withoutRight = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"];
    const run = await startRun(
      home,
      shell('id -u; grep -c . "$HOME/.config/hivemind-core/server.json"'),
      {
        wrap: (line) => [...withoutRight, ...line],
      },
    );
    expect(await run.ended).toBe(0);
    expect(run.stdout()).toMatch(/^0\n\d+\n$/);
  });

  // A user namespace in which no further one may be made: what a hardened system answers.
  const hardened = (line: string[]) => [
    ...["unshare", "--user", "--map-root-user", "/bin/sh", "-c"],
    `echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"`,
    ...["sh", ...line],
  ];

  test("a system without namespaces is told apart, with the way out", async () => {
    const run = await startRun(home, shell("echo started"), { wrap: hardened });
    expect(await run.ended).toBe(17);
    expect(run.stdout()).toBe("");
    expect(run.stderr()).toMatch(/no mount namespace.*No space left on device.*--private-config/s);
  });

  test("there the real hub reads its store by a private configuration", async () => {
    await giveIdentity(home);
    const run = await startRun(home, [hub, "list-clients"], {
      wrap: hardened,
      privateConfig: true,
    });
    expect(await run.ended).toBe(0);
    expect(filesWithPassphrase(home.home, home.runtime)).toEqual([]);
  });
});

/** The files that tell a hub from others, as it makes them at its first start. */
async function giveIdentity({ home: folder }: Home): Promise<void> {
  const identity = join(folder, ".config/hivemind");
  await mkdir(identity, { recursive: true });
  await writeFile(join(identity, "_identity.json"), '{"name": "hub"}');
}

describe("a private configuration", () => {
  const options = { privateConfig: true };
  let config: string;

  beforeEach(async () => {
    config = join(home.runtime, "hivemind-sqlcipher/config");
    await giveIdentity(home);
    await writeFile(join(home.home, ".config/other"), "other");
    await writeFile(join(home.home, ".config/hivemind-core/notes"), "notes");
  });

  test("has its own server.json, everything else is the real thing, and nothing is left", async () => {
    const script = `echo "$XDG_CONFIG_HOME"; cat "$XDG_CONFIG_HOME/hivemind-core/server.json"
      cat "$XDG_CONFIG_HOME/other" "$XDG_CONFIG_HOME/hivemind-core/notes"
      echo new >"$XDG_CONFIG_HOME/hivemind/made"; stat -c %a "$XDG_CONFIG_HOME" "$XDG_CONFIG_HOME/hivemind-core"
      exit 5`;
    const run = await startRun(home, shell(script), options);
    expect(await run.ended).toBe(5);
    expect(run.stdout()).toContain(`${config}\n// the hub's`);
    expect(run.stdout()).toContain("a pass'phrase");
    expect(run.stdout()).toContain("othernotes700\n700\n");
    expect(await readFile(join(home.home, ".config/hivemind/made"), "utf8")).toBe("new\n");
    expect(readdirSync(join(home.runtime, "hivemind-sqlcipher"))).toEqual([]);
  });

  test("is the real hub's too, which ends on SIGTERM and leaves nothing", async () => {
    home = await listeningHome();
    await giveIdentity(home);
    const run = await startRun(home, [hub, "listen"], options);
    await readyHub(run);
    expect(processesWithPassphrase()).toEqual([]);
    expect(filesWithPassphrase(home.home)).toEqual([]);
    run.child.kill("SIGTERM");
    expect(await run.ended).toBe(0);
    expect(filesWithPassphrase(home.home, home.runtime)).toEqual([]);
  });

  test("is one at a time, and what a killed one left is removed by the next start", async () => {
    const first = await startRun(home, shell("echo started; exec sleep infinity"), options);
    await until(() => first.stdout().includes("started"));
    const [pid = 0] = await childrenOf(first.child.pid ?? 0);

    const second = await startRun(home, shell("echo started"), options);
    expect(await second.ended).toBe(11);
    expect(second.stderr()).toContain(`process ${first.child.pid} runs a hub`);

    first.child.kill("SIGKILL");
    await first.ended;
    await until(() => !isAlive(pid));
    expect(filesWithPassphrase(home.runtime)).toHaveLength(1);
    await writeFile(join(config, "stale"), "");
    const third = await startRun(home, shell('ls "$XDG_CONFIG_HOME"'), options);
    expect(await third.ended).toBe(0);
    expect(third.stdout()).toBe("hivemind\nhivemind-core\nother\n");
    expect(filesWithPassphrase(home.runtime)).toEqual([]);
  });

  test("is refused without an identity, which the hub would make in it and lose", async () => {
    await rm(join(home.home, ".config/hivemind"), { recursive: true });
    const run = await startRun(home, shell("echo started"), options);
    expect(await run.ended).toBe(17);
    expect(run.stderr()).toContain("no identity yet");
    expect(readdirSync(home.runtime)).toEqual([]);
  });

  test("is refused in a folder that is on a disk, or not the user's alone, or not there", async () => {
    const disk = join(home.home, "runtime");
    await mkdir(disk, { mode: 0o700 });
    for (const [runtime, words] of [
      [disk, "is on a disk, not in memory"],
      ["/dev/shm", "is not private to this user"],
      [join(disk, "none"), "no such file"],
      ["relative", "XDG_RUNTIME_DIR is not set to an absolute path"],
    ] as const) {
      home.environment.XDG_RUNTIME_DIR = runtime;
      const run = await startRun(home, shell("echo started"), options);
      expect([17, 18]).toContain(await run.ended);
      expect(run.stderr()).toContain(words);
      expect(run.stdout()).toBe("");
    }
    expect(filesWithPassphrase(home.home)).toEqual([]);
  });
});

describe("a hub that would not open this store with this passphrase is not started", () => {
  async function refusal(
    command: readonly string[],
    options: Record<string, unknown> = {},
  ): Promise<string> {
    const before = await readFile(home.storePath);
    const run = await startRun(home, command, options);
    expect(await run.ended).toBe(17);
    expect(run.stdout()).toBe("");
    expect(await readFile(home.storePath)).toEqual(before);
    return run.stderr();
  }

  async function settings(change: object): Promise<void> {
    const text = (await readFile(home.serverJson, "utf8")).replace(/^\/\/.*/, "");
    await writeFile(home.serverJson, JSON.stringify({ ...JSON.parse(text), ...change }));
  }

  test("the released line, whose plugin takes a password and ignores it", async () => {
    const released = await hubScript("released");
    expect(await refusal([released, "list-clients"])).toMatch(
      /hivemind-sqlite-database 0\.2\.1 in .* ignores the password.*plain text.*0\.3\.0/s,
    );
  });

  test("one whose packages cannot be imported", async () => {
    await writeFile(join(home.home, "sqlcipher3.py"), "raise ImportError('broken build')");
    home.environment.PYTHONPATH = home.home;
    expect(await refusal([hub, "list-clients"])).toContain("cannot open an encrypted store");
  });

  test("one whose SQLCipher is of another format than the store", async () => {
    const said = await refusal([hub, "list-clients"], { cipherCompatibility: 3 });
    expect(said).toMatch(/format 3, .* reads format 4.*encrypt --cipher-compatibility 4/s);

    // No Python of today has one, so what it would answer is made up.
    const python = join(home.home, "python3");
    const packages = {
      ...{ pluginManager: "0.10", sqlitePlugin: "0.4", schemaVersion: 2, writtenSchema: 2 },
      ...{ cipherVersion: "3.4.2 community", takesPassword: true, problem: null, paths: [] },
    };
    await writeFile(python, `#!/bin/sh\necho '${JSON.stringify(packages)}'\n`, { mode: 0o755 });
    const older = await refusal([hub, "listen"], { cipherCompatibility: 4, hubPython: python });
    expect(older).toMatch(/format 4, .* reads format 3.*pip install/s);
  });

  test("one whose server.json is not there, does not parse, or names another store", async () => {
    await settings({ database: { module: "hivemind-json-db-plugin" } });
    expect(await refusal([hub, "listen"])).toContain("names hivemind-json-db-plugin");
    await settings({ database: { module: plugin, [plugin]: { db_path: "clients.db" } } });
    expect(await refusal([hub, "listen"])).toContain(
      "names a store in memory or without an absolute path",
    );
    await settings({ database: { module: plugin, [plugin]: { name: "others" } } });
    expect(await refusal([hub, "listen"])).toContain(
      "hivemind-core/others.db, but the passphrase is",
    );
    await settings({ database: {} });
    expect(await refusal([hub, "listen"])).toContain("names no database module");
    await writeFile(home.serverJson, "{,}");
    expect(await refusal([hub, "listen"])).toContain("line 1, column 2");
    await rm(home.serverJson);
    expect(await refusal([hub, "listen"])).toMatch(/no server.json.*print-config/s);
    expect(existsSync(home.serverJson)).toBe(false);
  });

  test("one that would write to server.json, for want of a network_protocol", async () => {
    await settings({ network_protocol: undefined });
    expect(await refusal([hub, "listen"])).toMatch(/no "network_protocol".*print-config/s);
  });

  test("print-config, which would show the passphrase", async () => {
    expect(await refusal([hub, "print-config"])).toContain("would show the passphrase");
  });

  test("a command that is not there is code 10", async () => {
    const run = await startRun(home, ["hivemind-core-x", "listen"]);
    expect(await run.ended).toBe(10);
    expect(run.stderr()).toContain("no such command: hivemind-core-x");
  });

  test("what is no Python script is started, with a notice", async () => {
    const run = await startRun(home, shell("echo started"));
    expect(await run.ended).toBe(0);
    expect(run.stderr()).toMatch(/^notice: cannot determine which Python runs \/bin\/sh/);
  });
});
