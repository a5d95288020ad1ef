import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { findHolders } from "../../src/process/holders.js";
import { selectService } from "../../src/service/select.js";
import { root } from "../built.js";
import {
  holding,
  property,
  removeUnits,
  systemctl,
  temporaryFolder,
  uniqueName,
  until,
  writeUnits,
} from "./units.js";

/** For the processes that a test may kill. */
const selectModule = `${root}dist/service/select.js`;

/** An hour: such a restart does not fire within a test. */
const later = 3_600_000;

let folder: string;
let store: string;
let unit: string;
let written: string[];

beforeEach(() => {
  folder = temporaryFolder();
  store = join(folder, "clients.db");
  writeFileSync(store, "stands for a store; nobody reads it here");
  unit = uniqueName();
  written = [];
});

afterEach(async () => {
  await removeUnits(...written);
  rmSync(folder, { recursive: true });
});

async function runningUnit(): Promise<void> {
  const bound = `${unit}-bound.service`;
  written.push(`${unit}.service`, bound);
  await writeUnits({
    [`${unit}.service`]: holding(store),
    [bound]: `[Unit]\nBindsTo=${unit}.service\nAfter=${unit}.service\n[Service]\nExecStart=/bin/sleep infinity\n`,
  });
  await systemctl("start", unit, bound);
}

/** Spawns a process that arms a restart, stops the service, prints the restart's name and hangs. */
async function stopper(
  choice: object,
  restart: object,
): Promise<{ process: ChildProcess; name: string }> {
  const program = `
    import { selectService } from ${JSON.stringify(selectModule)};
    const service = await selectService(${JSON.stringify(choice)});
    await service.prepareStop();
    const timer = await service.armRestart(${JSON.stringify(restart)});
    await service.stop();
    console.log(timer.name);
    setInterval(() => {}, 1e6);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [name] = (await once(child.stdout, "data")) as [Buffer];
  return { process: child, name: name.toString().trim() };
}

/** Returns the units that the manager still has of a restart. */
async function leftovers(name: string | null): Promise<string> {
  expect(name).toMatch(/^hivemind-sqlcipher-restart-/);
  return systemctl("list-units", "--all", "--plain", "--no-legend", `${name}.*`);
}

describe("the timer in the unit's manager", () => {
  test("starts the unit and its dependents after the stopping program was killed, and leaves nothing", async () => {
    await runningUnit();
    const witness = join(folder, "it's $HOME recovered");
    const stopped = await stopper(
      { service: "systemd-user", unit, storePath: store },
      { afterMs: 8_000, command: ["/bin/sh", "-c", 'touch "$0"; exit 3', witness] },
    );
    expect(await property(unit, "ActiveState")).toBe("inactive");
    stopped.process.kill("SIGKILL");
    // The installation of any package does the same. systemd 252 garbles arguments then.
    await systemctl("daemon-reload");
    await until(async () => (await property(`${unit}-bound.service`, "ActiveState")) === "active");
    expect(await property(unit, "ActiveState")).toBe("active");
    expect(existsSync(witness)).toBe(true);
    await until(async () => (await leftovers(stopped.name)) === "");
  });

  test("runs the recovery command in the environment of the program that armed it", async () => {
    await runningUnit();
    const environment = join(folder, "environment");
    process.env.HIVEMIND_SQLCIPHER_STORE = "/a place/with $dollars";
    const service = await selectService({ service: "systemd-user", unit, storePath: store });
    const timer = await service.armRestart({
      afterMs: 0,
      command: ["/bin/sh", "-c", 'env >"$0"', environment],
    });
    delete process.env.HIVEMIND_SQLCIPHER_STORE;
    await until(
      () => existsSync(environment) && readFileSync(environment, "utf8").includes("HOME"),
    );
    expect(readFileSync(environment, "utf8").split("\n")).toEqual(
      expect.arrayContaining([
        "HIVEMIND_SQLCIPHER_STORE=/a place/with $dollars",
        `HOME=${process.env.HOME}`,
        `DBUS_SESSION_BUS_ADDRESS=${process.env.DBUS_SESSION_BUS_ADDRESS}`,
      ]),
    );
    await until(async () => (await leftovers(timer.name)) === "");
  });

  test("is cancelled without a trace", async () => {
    await runningUnit();
    const service = await selectService({ service: "systemd-user", unit, storePath: store });
    const timer = await service.armRestart({ afterMs: later, command: ["true"] });
    expect(await leftovers(timer.name)).toContain(`${timer.name}.timer`);
    expect(await timer.disarm()).toEqual({ fired: false });
    expect(await leftovers(timer.name)).toBe("");
    expect(await systemctl("list-timers", "--all", "--no-legend")).not.toContain(timer.name);
  });

  test("reports on cancellation that it has fired", async () => {
    await runningUnit();
    const service = await selectService({ service: "systemd-user", unit, storePath: store });
    const timer = await service.armRestart({ afterMs: 0, command: ["true"] });
    await until(async () => (await leftovers(timer.name)) === "");
    expect(await timer.disarm()).toEqual({ fired: true });
  });

  test("reports on cancellation that it is firing, and ends its recovery command", async () => {
    await runningUnit();
    const service = await selectService({ service: "systemd-user", unit, storePath: store });
    const timer = await service.armRestart({ afterMs: 0, command: ["sleep", "infinity"] });
    await until(async () => (await property(`${timer.name}.service`, "ActiveState")) === "active");
    expect(await timer.disarm()).toEqual({ fired: true });
    expect(await leftovers(timer.name)).toBe("");
  });

  test("is cancelled by name by the next program, after the program that armed it was killed", async () => {
    await runningUnit();
    const choice = { service: "systemd-user" as const, unit, storePath: store };
    const stopped = await stopper(choice, { afterMs: later, command: ["true"] });
    stopped.process.kill("SIGKILL");
    const next = await selectService(choice);
    await next.disarmRestart(stopped.name);
    expect(await leftovers(stopped.name)).toBe("");
  });

  test("is cancelled by its own recovery command, which continues, and the unit is started", async () => {
    await runningUnit();
    const choice = { service: "systemd-user", unit, storePath: store };
    const recover = `
      import { readFileSync, writeFileSync } from "node:fs";
      import { selectService } from ${JSON.stringify(selectModule)};
      const service = await selectService(${JSON.stringify(choice)});
      const name = readFileSync(${JSON.stringify(join(folder, "name"))}, "utf8");
      await service.disarmRestart(name);
      writeFileSync(${JSON.stringify(join(folder, "result"))}, "cancelled");`;
    const stopped = await stopper(choice, {
      afterMs: 8_000,
      command: [process.execPath, "--input-type=module", "-e", recover],
    });
    writeFileSync(join(folder, "name"), stopped.name);
    stopped.process.kill("SIGKILL");
    await until(async () => (await property(unit, "ActiveState")) === "active");
    expect(readFileSync(join(folder, "result"), "utf8")).toBe("cancelled");
    await until(async () => (await leftovers(stopped.name)) === "");
  });

  test("an operation that succeeds leaves the unit running and no timer", async () => {
    await runningUnit();
    const service = await selectService({ service: "auto", unit, storePath: store });
    const dependents = await service.prepareStop();
    const timer = await service.armRestart({ afterMs: later, command: ["true"] });
    await service.stop();
    const { upAt } = await service.start(dependents);
    expect(upAt).toBeLessThanOrEqual(performance.now());
    expect(await timer.disarm()).toEqual({ fired: false });
    expect((await service.state()).active).toBe(true);
    expect(await leftovers(timer.name)).toBe("");
  });
});

describe("the operator's own commands", () => {
  /** Returns commands that start and stop a hub, which logs the SIGTERM that ends it. */
  function commands(): { stopCommand: string; startCommand: string } {
    const hub = join(folder, "hub");
    const pid = join(folder, "pid");
    writeFileSync(
      hub,
      `exec 3<"${store}"\ntrap 'echo ended >>"${folder}/log"; exit' TERM\necho $$ >"${pid}"\nwhile :; do sleep 0.05; done\n`,
    );
    return {
      stopCommand: `kill "$(cat '${pid}')"`,
      startCommand: `setsid sh '${hub}' & while ! test -s '${pid}'; do sleep 0.01; done`,
    };
  }

  const held = async () => (await findHolders(store)).holders.length > 0;

  async function started() {
    const own = commands();
    const service = await selectService({ service: "auto", unit, storePath: store, ...own });
    expect(service.kind).toBe("command");
    await service.start([]);
    await until(held);
    return { service, own };
  }

  test("stop and start the hub, which is active while a process has the store open", async () => {
    const { service } = await started();
    expect((await service.state()).active).toBe(true);
    await service.stop();
    expect(await held()).toBe(false);
    expect((await service.state()).active).toBe(false);
    await service.start([]);
    await until(held);
    await service.stop();
    expect(readFileSync(join(folder, "log"), "utf8")).toBe("ended\nended\n");
  });

  test("a command that fails is an error that names the command and the exit code", async () => {
    const service = await selectService({
      service: "command",
      unit,
      storePath: store,
      stopCommand: "exit 4",
      startCommand: "kill -9 $$",
    });
    await expect(service.stop()).rejects.toMatchObject({
      kind: "service",
      message: "the stop command failed with exit code 4",
    });
    await expect(service.start([])).rejects.toMatchObject({
      kind: "service",
      message: "the start command was killed",
    });
  });

  test("the watcher starts the hub as soon as the program that stopped it is killed", async () => {
    const { service, own } = await started();
    const witness = join(folder, "it's $HOME recovered");
    const stopped = await stopper(
      { service: "command", unit, storePath: store, ...own },
      { afterMs: later, command: ["/bin/sh", "-c", 'touch "$0"; exit 3', witness] },
    );
    expect(await held()).toBe(false);
    const pid = Number(stopped.name.replace("watcher ", ""));
    stopped.process.kill("SIGKILL");
    await until(held);
    expect(existsSync(witness)).toBe(true);
    await until(() => !existsSync(`/proc/${pid}`));
    // Fails if the hub inherited the watcher's ignored signals.
    await service.stop();
  });

  test("the watcher starts nothing after a recovery command that succeeded: that has started the hub", async () => {
    const { own } = await started();
    const stopped = await stopper(
      { service: "command", unit, storePath: store, ...own },
      { afterMs: later, command: ["true"] },
    );
    const pid = Number(stopped.name.replace("watcher ", ""));
    stopped.process.kill("SIGKILL");
    await until(() => !existsSync(`/proc/${pid}`));
    expect(await held()).toBe(false);
  });

  test("the watcher survives SIGTERM and SIGHUP to its session, and starts the hub", async () => {
    const { service, own } = await started();
    const stopped = await stopper(
      { service: "command", unit, storePath: store, ...own },
      { afterMs: later, command: ["false"] },
    );
    const pid = Number(stopped.name.replace("watcher ", ""));
    process.kill(-pid, "SIGTERM");
    process.kill(-pid, "SIGHUP");
    stopped.process.kill("SIGTERM");
    await until(held);
    await service.stop();
  });

  test("the watcher fires at its time limit while the program hangs, and reports that it fired", async () => {
    const { service } = await started();
    const watcher = await service.armRestart({ afterMs: 3_000, command: ["false"] });
    await service.stop();
    rmSync(join(folder, "pid"));
    await until(held);
    expect(await watcher.disarm()).toEqual({ fired: true });
    await service.stop();
  });

  test("the watcher is disarmed without a trace", async () => {
    const { service } = await started();
    const watcher = await service.armRestart({ afterMs: later, command: ["true"] });
    const group = Number(watcher.name?.replace("watcher ", ""));
    await service.stop();
    expect(await watcher.disarm()).toEqual({ fired: false });
    expect(await held()).toBe(false);
    await until(() => !isGroup(group));
  });
});

describe("which service", () => {
  test("auto is the user's unit if there is one", async () => {
    await runningUnit();
    const service = await selectService({ service: "auto", unit, storePath: store });
    expect(service).toMatchObject({ kind: "systemd-user", name: unit });
  });

  test("auto is none if there is no unit and no process has the store open", async () => {
    const service = await selectService({ service: "auto", unit, storePath: store });
    expect(service).toMatchObject({ kind: "none", name: null });
    expect(await service.state()).toEqual({ active: false });
    // A named unit that is missing may be a mistake.
    expect((await service.check(store)).join()).toContain(`no service ${unit} was found`);
    const usual = await selectService({ service: "auto", storePath: store });
    expect(await usual.check(store)).toEqual([]);
    const timer = await service.armRestart({ afterMs: 0, command: ["false"] });
    expect(timer.name).toBeNull();
    expect(await timer.disarm()).toEqual({ fired: false });
  });

  test("auto refuses to guess while a process has the store open", async () => {
    const holder = spawn("sh", ["-c", 'exec 3<"$0"; echo; exec sleep infinity', store]);
    await once(holder.stdout, "data");
    await expect(selectService({ service: "auto", unit, storePath: store })).rejects.toMatchObject({
      kind: "inUse",
      message: expect.stringContaining(`${store} is open in ${holder.pid} (`),
    });
    holder.kill("SIGKILL");
  });

  test("auto ignores a masked unit that does not run", async () => {
    const units = join(process.env.HOME ?? "", ".config/systemd/user");
    mkdirSync(units, { recursive: true });
    written.push(`${unit}.service`);
    await systemctl("mask", unit);
    const service = await selectService({ service: "auto", unit, storePath: store });
    expect(service.kind).toBe("none");
  });

  test("commands come in pairs", async () => {
    for (const choice of [
      { service: "command" as const },
      { service: "command" as const, stopCommand: "true" },
      { service: "auto" as const, startCommand: "true" },
    ]) {
      await expect(selectService({ ...choice, unit, storePath: store })).rejects.toMatchObject({
        kind: "usage",
      });
    }
  });

  test("a manager that does not respond is an error with its message", async () => {
    const { XDG_RUNTIME_DIR, DBUS_SESSION_BUS_ADDRESS } = process.env;
    process.env.XDG_RUNTIME_DIR = folder;
    process.env.DBUS_SESSION_BUS_ADDRESS = `unix:path=${folder}/bus`;
    try {
      await expect(
        selectService({ service: "systemd-user", unit, storePath: store }),
      ).rejects.toMatchObject({
        kind: "service",
        message: expect.stringMatching(
          /user manager of systemd does not respond: Failed to connect to bus/,
        ),
      });
      expect((await selectService({ service: "auto", unit, storePath: store })).kind).toBe("none");
    } finally {
      Object.assign(process.env, { XDG_RUNTIME_DIR, DBUS_SESSION_BUS_ADDRESS });
    }
  });
});

function isGroup(pid: number): boolean {
  try {
    process.kill(-pid, 0);
    return true;
  } catch {
    return false;
  }
}
