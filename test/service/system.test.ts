/** Units of a real system manager, which `scripts/private-session --system` boots in namespaces. */
import { execFile } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { root } from "../built.js";
import { temporaryFolder } from "./units.js";

const privateSession = fileURLToPath(new URL("../../scripts/private-session", import.meta.url));

const module = `${root}dist/service/select.js`;

let home: string;

beforeAll(() => {
  home = temporaryFolder();
});

afterAll(() => rmSync(home, { recursive: true }));

/** Runs a program in a session with its own system manager, and returns what it reports. */
async function inSystem(program: string): Promise<unknown> {
  const prelude = `
    import { execFileSync, spawn } from "node:child_process";
    import { chownSync, existsSync, writeFileSync } from "node:fs";
    import { setTimeout as delay } from "node:timers/promises";
    import { selectService } from ${JSON.stringify(module)};
    const home = ${JSON.stringify(home)}, module = ${JSON.stringify(module)};
    const systemctl = (...args) => execFileSync("systemctl", args, { encoding: "utf8" }).trim();
    const until = async (condition) => { while (!condition()) await delay(20); };
    const activeState = (unit) => systemctl("show", "--value", "--property=ActiveState", unit);
    const unit = (name, text) => {
      writeFileSync("/etc/systemd/system/" + name, text);
      systemctl("daemon-reload");
    };
    const storePath = home + "/clients.db";
    writeFileSync(storePath, "");
    const choice = { service: "auto", unit: "hub", storePath };
    const holding = "[Service]\\nExecStart=/bin/sh -c 'exec 3<" + storePath + "; exec sleep infinity'\\n";
    const report = (value) => console.log(JSON.stringify(value));`;
  const { stdout } = await promisify(execFile)(privateSession, [
    ...["--system", home],
    ...[process.execPath, "--input-type=module", "-e", prelude + program],
  ]);
  return JSON.parse(stdout);
}

test("a system unit is found by auto, stopped, started with its dependents, and no timer stays", async () => {
  const seen = await inSystem(`
    unit("hub.service", holding);
    unit("bound.service", "[Unit]\\nBindsTo=hub.service\\nAfter=hub.service\\n[Service]\\nExecStart=sleep infinity\\n");
    systemctl("start", "hub", "bound");
    const service = await selectService(choice);
    const notices = await service.check(storePath);
    const before = await service.state();
    const owned = await service.owns(before.mainPid);
    const dependents = await service.prepareStop();
    const timer = await service.armRestart({ afterMs: 3_600_000, command: ["true"] });
    await service.stop();
    const stopped = activeState("hub");
    await service.start(dependents);
    const { fired } = await timer.disarm();
    const after = await service.state();
    report({
      kind: service.kind, notices, owned, dependents, stopped, fired, active: after.active,
      sameRun: before.invocation === after.invocation, bound: activeState("bound"),
      left: systemctl("list-units", "--all", "--plain", "--no-legend", "hivemind-sqlcipher-restart-*"),
    });`);
  expect(seen).toEqual({
    kind: "systemd",
    notices: [],
    owned: true,
    dependents: ["bound.service"],
    stopped: "inactive",
    fired: false,
    active: true,
    sameRun: false,
    bound: "active",
    left: "",
  });
});

test("a system unit is started by its manager's timer after the stopping program was killed", async () => {
  const seen = await inSystem(`
    unit("hub.service", holding);
    systemctl("start", "hub");
    const child = spawn(process.execPath, ["--input-type=module", "-e", \`
      import { selectService } from "\${module}";
      const service = await selectService(\${JSON.stringify(choice)});
      await service.armRestart({ afterMs: 1000, command: ["touch", "\${home}/recovered"] });
      await service.stop();
      process.kill(process.pid, "SIGKILL");\`], { stdio: "inherit" });
    const signal = await new Promise((resolve) => child.once("exit", (_, name) => resolve(name)));
    const stopped = activeState("hub");
    await until(() => activeState("hub") === "active");
    report({ signal, stopped, recovered: existsSync(home + "/recovered") });`);
  expect(seen).toEqual({ signal: "SIGKILL", stopped: "inactive", recovered: true });
});

test("a unit's User is compared with the store's owner, whether it runs or not", async () => {
  const seen = await inSystem(`
    unit("hub.service", holding + "User=nobody\\n");
    const service = await selectService({ ...choice, service: "systemd" });
    const refusal = () => service.check(storePath).then(() => "none", ({ kind, message }) => kind + ": " + message);
    const stopped = await refusal();
    chownSync(storePath, 65534, 65534);
    const own = await refusal();
    execFileSync("chmod", ["755", home]);
    systemctl("start", "hub");
    const running = await refusal();
    chownSync(storePath, 0, 0);
    const holder = await refusal();
    systemctl("stop", "hub");
    const foreign = await refusal();
    // As in the moment after systemd's fork, the main process is root's.
    unit("hub.service", "[Service]\\nExecStart=+/bin/sleep infinity\\nUser=nobody\\n");
    systemctl("start", "hub");
    chownSync(storePath, 65534, 65534);
    report({ stopped, own, running, holder, foreign, forked: await refusal() });`);
  const refusal = `refused: hub runs as user 65534, but ${home}/clients.db belongs to user 0`;
  expect(seen).toEqual({
    stopped: refusal,
    own: "none",
    running: "none",
    holder: "none",
    foreign: refusal,
    forked: "none",
  });
});

test("a user who may not manage a system unit learns that before anything is stopped", async () => {
  const seen = await inSystem(`
    unit("hub.service", "[Service]\\nExecStart=sleep infinity\\n");
    systemctl("start", "hub");
    const { InvocationID: before } = {
      InvocationID: systemctl("show", "--value", "--property=InvocationID", "hub"),
    };
    chownSync(storePath, 65534, 65534);
    process.setuid(65534);
    const service = await selectService({ ...choice, service: "systemd" }).catch((error) => error);
    const error = await service.check?.(storePath).catch((error) => error) ?? service;
    report({ kind: error.kind, message: error.message, hint: error.hint, before: before.length });`);
  expect(seen).toMatchObject({ kind: "service", hint: expect.stringContaining("--stop-command") });
});
