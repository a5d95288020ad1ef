import { type ChildProcess, execFile, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { dropInPath, readHubCommand, readHubCommands } from "../../src/hub/existing-unit.js";
import { renderDropIn, renderKeyringUnit, renderUnit } from "../../src/hub/units.js";
import { escapeVariables } from "../../src/service/unit-file.js";
import {
  property,
  removeUnits,
  systemctl,
  uniqueName,
  until,
  writeUnits,
} from "../service/units.js";
import {
  busCommand,
  cli,
  filesWithPassphrase,
  freePort,
  type Home,
  hubScript,
  makeListeningHome,
  opening,
  passphrase,
  processesWithPassphrase,
  startBus,
} from "./support.js";

const exec = promisify(execFile);

let hub: string;
let bus: ChildProcess;
let home: Home;
let unit: string;
let log: string;

beforeAll(async () => {
  hub = await hubScript("development");
});

describe("the text of a unit", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "units-"));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const run = [process.execPath, "/usr/share/a b/main.js", "run"];

  test.each([
    ["user", () => renderUnit({ kind: "user", run, hub: [hub, "listen"] })],
    [
      "system",
      () =>
        renderUnit({
          kind: "system",
          run,
          hub: [hub, "listen"],
          user: "daemon",
          serverJson: "/home/a: b/.config/hivemind-core/server.json",
          credential: "/etc/credstore.encrypted/hivemind-sqlcipher",
        }),
    ],
    ["user", () => renderKeyringUnit({ credential: "/etc/credstore.encrypted/k" })],
    [
      "system",
      () =>
        renderKeyringUnit({
          credential: "/etc/credstore.encrypted/k",
          owner: { user: "daemon", uid: 1 },
        }),
    ],
  ])("systemd has nothing to say about one of the %s kind", async (kind, render) => {
    const path = join(folder, `${uniqueName()}.service`);
    await writeFile(path, render());
    const { status, stderr } = spawnSync("systemd-analyze", [`--${kind}`, "verify", path], {
      encoding: "utf8",
    });
    expect({ status, stderr: stderr.split("\n").filter((line) => line.includes(path)) }).toEqual({
      status: 0,
      stderr: [],
    });
  });

  test("carries any word to the hub as it is", async () => {
    const name = `${uniqueName()}.service`;
    const words = ["a b", "100%i", "$HOME", "$" + "{HOME}", '"', "'", "\\n", ";", "é", ""];
    // Under its name when it is whole: it is read as soon as it is there.
    const script = `const fs = require("fs"); fs.writeFileSync("${folder}/new", JSON.stringify(process.argv.slice(1))); fs.renameSync("${folder}/new", "${folder}/words")`;
    const run = [process.execPath, "-e", script];
    const hub = words.map(escapeVariables);
    await writeUnits({ [name]: renderUnit({ kind: "user", run, hub }) });
    await systemctl("start", name);
    await until(() => existsSync(join(folder, "words")));
    const seen: string[] = JSON.parse(await readFile(join(folder, "words"), "utf8"));
    expect(seen).toEqual(words);
    // The launcher of this test is not this program.
    const command = await readHubCommand({ manager: "systemd-user", name });
    expect(command.slice(-hub.length)).toEqual(hub);
    await removeUnits(name);
  });

  test.each([
    [
      "variables, which the drop-in expands",
      "$HUB_OPTS $" + "{HUB_OPTS} $$X",
      "$HUB_OPTS $" + "{HUB_OPTS} $$X",
    ],
    ["variables that are not expanded", ":$HUB_OPTS", "$$HUB_OPTS"],
    ["another launcher with run", "/usr/bin/uv run -- hub", "/usr/bin/uv run -- hub"],
  ])("takes a unit's command as it is: %s", async (_, line, expected) => {
    const name = `${uniqueName()}.service`;
    const prefix = line.startsWith(":") ? ":" : "";
    const args = line.slice(prefix.length);
    const program = args.startsWith("/") ? "" : "/usr/bin/env ";
    await writeUnits({ [name]: `[Service]\nExecStart=${prefix}${program}${args}\n` });
    const command = await readHubCommand({ manager: "systemd-user", name });
    expect(command.join(" ")).toBe(`${program}${expected}`);
    await removeUnits(name);
  });

  test.each([
    '"%h/a b/hivemind-core" listen --name "it\'s" \'a "b"\' %n %N %p %% ',
    '-"/opt/a b/hivemind-core" listen $HUB_ARGS $$X "" "x\\"y" \\\n  --last',
    ":/opt/hivemind-core listen $HUB_ARGS",
    `${process.execPath} /opt/main.js\nExecStart=\nExecStart=/opt/hivemind-core listen`,
    `/opt/cli/main.js run -- /opt/hivemind-core listen`,
  ])("the hub in the drop-in is a copy, the unit's own counts: %s", async (line) => {
    const name = `${uniqueName()}.service`;
    const named = { manager: "systemd-user", name } as const;
    await writeUnits({ [name]: `[Service]\nExecStart=${line}\n` });
    const own = await readHubCommands(named);
    expect(own.isOutdated).toBe(false);
    const path = await dropInPath(named);
    onTestFinished(() => rm(dirname(path), { recursive: true, force: true }));
    await mkdir(dirname(path), { recursive: true });
    const ownRun = [process.execPath, "/opt/cli/main.js", "run"];
    const write = async (copy: string[]) => {
      await writeFile(path, renderDropIn({ kind: "user", run: ownRun, hub: copy }));
      await systemctl("daemon-reload");
    };
    await write(["/gone/hivemind-core", "listen"]);
    expect(await readHubCommands(named)).toEqual({ hub: own.hub, isOutdated: true });
    await write(own.hub);
    expect(await readHubCommands(named)).toEqual(own);
    await removeUnits(name);
  });

  test.each(["/opt/start-hub.sh", "/opt/hivemind-core listen %b"])(
    "the hub in the drop-in counts if the unit's own command cannot be read: %s",
    async (line) => {
      const name = `${uniqueName()}.service`;
      const named = { manager: "systemd-user", name } as const;
      const hub = ["/opt/hivemind-core", "listen"];
      const path = await dropInPath(named);
      onTestFinished(() => rm(dirname(path), { recursive: true, force: true }));
      await mkdir(dirname(path), { recursive: true });
      const ownRun = [process.execPath, "/opt/cli/main.js", "run"];
      await writeFile(path, renderDropIn({ kind: "user", run: ownRun, hub }));
      await writeUnits({ [name]: `[Service]\nExecStart=${line}\n` });
      expect(await readHubCommands(named)).toEqual({ hub, isOutdated: false });
      await removeUnits(name);
    },
  );

  test("the hub for which a sealed unit is prepared is compared with the unit's own", async () => {
    const name = `${uniqueName()}.service`;
    const named = { manager: "systemd-user", name } as const;
    const own = ["/opt/hivemind-core", "listen"];
    const path = await dropInPath(named);
    onTestFinished(() => rm(dirname(path), { recursive: true, force: true }));
    await mkdir(dirname(path), { recursive: true });
    for (const hub of [own, ["/gone/hivemind-core", "listen"]]) {
      const text = renderDropIn({
        ...{ kind: "system", run: [process.execPath, "/opt/cli/main.js", "run"], hub },
        ...{ serverJson: "/home/a/server.json", credential: "/etc/sealed" },
      });
      await writeFile(path, text);
      await writeUnits({ [name]: `[Service]\nExecStart=${own.join(" ")}\n` });
      expect(await readHubCommands(named)).toEqual({ hub: own, isOutdated: hub !== own });
    }
    await removeUnits(name);
  });

  test("cannot have a line of its own smuggled in", () => {
    expect(() => renderUnit({ kind: "user", run, hub: ["x\nExecStartPre=/bin/sh"] })).toThrow(
      "line break",
    );
  });
});

describe("a real hub in its unit", () => {
  beforeEach(async () => {
    const port = await freePort();
    bus = await startBus(hub, port);
    home = await makeListeningHome(port);
    unit = `${uniqueName()}.service`;
    log = join(home.home, "log");
  });
  afterEach(async () => {
    await removeUnits(unit);
    bus.kill();
    await home.remove();
  });

  const mainProcess = async () => Number(await property(unit, "MainPID"));
  const ready = () =>
    until(() => existsSync(log) && readFileSync(log, "utf8").includes("service ready!"));
  const more = () => `[Service]\nEnvironment="HOME=${home.home}"\nStandardOutput=append:${log}\n`;

  test("by the user's manager: run stays beside it, and it starts again when it is killed", async () => {
    const secret = join(home.runtime, "secret");
    await writeFile(secret, passphrase, { mode: 0o600 });
    const text = renderUnit({
      kind: "user",
      run: [...cli, "run", "--passphrase-source", `file:${secret}`],
      hub: [hub, "listen"],
    });
    await writeUnits({ [unit]: text + more() });
    await systemctl("start", unit);
    await ready();
    expect(processesWithPassphrase()).toEqual([]);
    expect(filesWithPassphrase(home.home)).toEqual([]);

    const first = await mainProcess();
    await rm(log);
    process.kill(first, "SIGKILL");
    await until(async () => (await property(unit, "NRestarts")) === "1");
    await ready();
    expect(await mainProcess()).not.toBe(first);

    await systemctl("stop", unit);
    expect(await property(unit, "Result")).toBe("success");
    expect(filesWithPassphrase(home.home)).toEqual([]);
  });
});

describe("on a machine where nobody logs in, with the system's manager", () => {
  const user = { user: "daemon", uid: 1 };
  let outer: string;
  let port: number;

  beforeEach(async () => {
    outer = await mkdtemp(join(tmpdir(), "units-system-"));
    await chmod(outer, 0o755);
    port = await freePort();
    home = await makeListeningHome(port, { parent: outer, user: user.uid });
    await writeFile(join(outer, "passphrase"), passphrase);
  });
  afterEach(() => rm(outer, { recursive: true, force: true }));

  /** Runs shell lines as root beside a system manager of its own; returns what they print. */
  async function inSystem(lines: string): Promise<string> {
    const script = `
      until_() { while ! eval "$1"; do sleep 0.05; done; }
      property() { systemctl show --value --property="$2" "$1"; }
      ${await opening(hub)}
      ${lines}`;
    const privateSession = fileURLToPath(new URL("../../scripts/private-session", import.meta.url));
    const words = ["--system", outer, "/bin/bash", "-euc", script];
    const { stdout } = await exec(privateSession, words);
    return stdout;
  }

  test("the hub runs with a sealed passphrase and a bound server.json, with nothing beside it", async () => {
    const credential = join(outer, "sealed");
    const text = renderUnit({
      kind: "system",
      run: [...cli, "run", "--passphrase-source", "credential"],
      hub: [hub, "listen"],
      user: user.user,
      serverJson: home.serverJson,
      credential,
    });
    const settings = await readFile(home.serverJson, "utf8");
    await writeFile(join(outer, "hub.service"), text);
    const output = await inSystem(`
      systemd-creds encrypt --with-key=host --name=hivemind-sqlcipher ${outer}/passphrase ${credential}
      rm ${outer}/passphrase
      cp ${outer}/hub.service /etc/systemd/system/
      mkdir /etc/systemd/system/hub.service.d
      printf '[Service]\\nEnvironment=HOME=${home.home}\\nStandardOutput=append:${outer}/log\\n' \\
        >/etc/systemd/system/hub.service.d/home.conf
      systemctl daemon-reload
      ${busCommand(hub, port)
        .map((word) => `'${word}'`)
        .join(" ")} >/dev/null &
      systemctl start hub || { cat ${outer}/log ${outer}/systemd-system.log >&2; exit 1; }
      until_ 'grep -q "service ready!" ${outer}/log'
      pid=$(property hub MainPID)
      tr '\\0' ' ' <"/proc/$pid/cmdline"; echo
      stat -c %U "/proc/$pid"
      grep -c "a pas[s].phrase" "/proc/$pid/root${home.serverJson}"
      grep -lr "a pas[s].phrase" ${outer} /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null || echo nowhere
      # The unit names a former installation: its drop-in replaces the program.
      sed -i 's|${cli.join(" ")}|/opt/former/cli/main.js|' /etc/systemd/system/hub.service
      systemctl daemon-reload
      ${cli.join(" ")} run --print-unit dropin --unit hub >${outer}/drop-in
      cp ${outer}/drop-in /etc/systemd/system/hub.service.d/hivemind-sqlcipher.conf
      systemctl daemon-reload
      systemctl restart hub
      grep -c "a pas[s].phrase" "/proc/$(property hub MainPID)/root${home.serverJson}"
      property hub ActiveState
      systemctl stop hub
      property hub Result
      ls -d /run/hivemind-sqlcipher* 2>/dev/null || echo gone`);
    const [command, ...rest] = output.trim().split("\n");
    expect(command).toMatch(/hivemind-core listen $/);
    expect(rest).toEqual(["daemon", "1", "nowhere", "1", "active", "success", "gone"]);
    expect(await readFile(home.serverJson, "utf8")).toBe(settings);
  });

  test("the keyring is unlocked by a sealed credential, and run finds the passphrase in it", async () => {
    const credential = join(outer, "sealed");
    await writeFile(join(outer, "keyring.service"), renderKeyringUnit({ credential, owner: user }));
    const bus = "dbus-daemon --session --fork --address=unix:path=/run/user/1/bus";
    const wait = "until busctl --user status org.freedesktop.secrets; do sleep 0.1; done";
    const output = await inSystem(`
      as_user() {
        setpriv --reuid=1 --regid=1 --clear-groups -- env -i "HOME=${home.home}" "PATH=$PATH" \\
          XDG_RUNTIME_DIR=/run/user/1 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1/bus "$@"
      }
      printf %s "the keyring's own" | systemd-creds encrypt --with-key=host --name=hivemind-keyring - ${credential}
      cp ${outer}/keyring.service /etc/systemd/system/
      # What a login session of that user has: a runtime folder and a bus.
      printf '[Service]\\nUser=daemon\\nRuntimeDirectory=user/1\\nRuntimeDirectoryMode=0700\\nType=forking\\nExecStart=${bus}\\n' \\
        >/etc/systemd/system/user@1.service
      mkdir /etc/systemd/system/keyring.service.d
      printf '[Service]\\nEnvironment=HOME=${home.home}\\n' >/etc/systemd/system/keyring.service.d/home.conf
      systemctl daemon-reload
      systemctl start user@1
      # One that somebody's program has had started, locked: it is replaced.
      as_user gnome-keyring-daemon --components=secrets >/dev/null
      as_user /bin/sh -c '${wait}' >/dev/null 2>&1
      systemctl start keyring
      as_user secret-tool store --label=hub service hivemind-sqlcipher account '${home.storePath}' <${outer}/passphrase
      rm ${outer}/passphrase
      systemctl restart keyring
      as_user ${cli.join(" ")} run -- ${hub} list-clients
      grep -lr "the keyring.s own\\|a pas[s].phrase" ${outer} /proc/[0-9]*/environ 2>/dev/null || echo nowhere`);
    expect(output).toContain("HiveMind Credentials");
    expect(output.trim().split("\n").at(-1)).toBe("nowhere");
  });
});
