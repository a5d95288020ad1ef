import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from "vitest";
import type { StoreError } from "../../src/errors.js";
import { findHolders } from "../../src/process/holders.js";
import { readProc } from "../../src/process/proc.js";
import { selectService } from "../../src/service/select.js";
import type { Service } from "../../src/service/service.js";
import {
  exec,
  holding,
  property,
  removeUnits,
  systemctl,
  temporaryFolder,
  uniqueName,
  until,
  writeUnits,
} from "./units.js";

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

/** Writes and starts the unit under test and other units, and returns its service. */
async function running(text: string, beside: Record<string, string> = {}): Promise<Service> {
  const service = await present(text, beside);
  await systemctl("start", unit, ...Object.keys(beside));
  await until(async () => hasBegun((await service.state()).mainPid));
  return service;
}

/**
 * Returns whether a process runs its own program: at first it is a fork of the manager,
 * "(program)".
 */
function hasBegun(pid: number | undefined): boolean {
  if (pid === undefined) return true;
  const program = readProc(pid, "comm");
  return program !== "" && !program.startsWith("(") && !program.startsWith("systemd");
}

const holders = async () => (await findHolders(store)).holders;
const sleeps = async () => (await holders()).every(({ command }) => command === "sleep");

async function present(text: string, beside: Record<string, string> = {}): Promise<Service> {
  written.push(`${unit}.service`, ...Object.keys(beside));
  await writeUnits({ [`${unit}.service`]: text, ...beside });
  return selectService({ service: "systemd-user", unit, storePath: store });
}

const refused = (part: string | RegExp, kind = "refused") =>
  expect.objectContaining({ kind, message: expect.stringMatching(part) });

describe("stopping and starting", () => {
  test("a unit with the store open closes it, and has it open again afterwards, in a new run", async () => {
    const service = await running(holding(store));
    const before = await service.state();
    expect(before).toMatchObject({ active: true, mainPid: expect.any(Number) });
    expect(await service.check(store)).toEqual([]);
    await until(sleeps);
    expect(await holders()).toEqual([{ pid: before.mainPid, command: "sleep" }]);
    expect(await service.owns(before.mainPid ?? 0)).toBe(true);
    expect(await service.owns(process.pid)).toBe(false);
    expect(await service.prepareStop()).toEqual([]);

    await service.stop();
    expect((await service.state()).active).toBe(false);
    expect(await holders()).toEqual([]);

    await service.start([]);
    const after = await service.state();
    expect(after.active).toBe(true);
    expect(after.invocation).not.toBe(before.invocation);
    await until(sleeps);
    expect(await holders()).toEqual([{ pid: after.mainPid, command: "sleep" }]);
  });

  test("a unit that ignores SIGTERM is killed at its own time limit", async () => {
    const service = await running(
      "[Service]\nExecStart=/bin/sh -c 'trap : TERM; while :; do sleep 1; done'\nTimeoutStopSec=1\n",
    );
    await service.prepareStop();
    await service.stop();
    expect(await property(unit, "Result")).toBe("timeout");
    expect((await service.state()).active).toBe(false);
    await service.start([]);
  });

  test("a unit whose processes outlive its stop is an error that names them", async () => {
    const service = await running(
      "[Service]\nExecStart=/bin/sh -c 'trap : TERM; while :; do sleep 1; done'\nTimeoutStopSec=1\nSendSIGKILL=no\n",
    );
    const { mainPid } = await service.state();
    await expect(service.stop()).rejects.toEqual(
      expect.objectContaining({
        kind: "service",
        message: expect.stringMatching(`left processes behind: .*${mainPid}`),
        hint: `Run journalctl --user --unit ${unit} to see its log.`,
      }),
    );
    if (mainPid !== undefined) process.kill(mainPid, "SIGKILL");
  });

  test("a stop in progress is waited for", async () => {
    const service = await running(
      "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 1\n",
    );
    await systemctl("stop", "--no-block", unit);
    await until(async () => (await property(unit, "ActiveState")) === "deactivating");
    expect((await service.state()).active).toBe(false);
    expect(await property(unit, "ActiveState")).toBe("inactive");
  });

  test("a unit that waits to be restarted after a crash counts as running, and stops", async () => {
    const service = await running(
      "[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=1h\n",
    );
    await until(async () => (await property(unit, "SubState")) === "auto-restart");
    expect((await service.state()).active).toBe(true);
    await service.stop();
    expect((await service.state()).active).toBe(false);
  });

  test("a unit that cannot be started again is an error with systemctl's message", async () => {
    const gate = join(folder, "gate");
    writeFileSync(gate, "");
    const service = await running(
      holding(store, `Type=exec\nExecStartPre=/usr/bin/test -e ${gate}\n`),
    );
    await service.stop();
    rmSync(gate);
    await expect(service.start([])).rejects.toEqual(
      expect.objectContaining({
        kind: "service",
        message: expect.stringMatching(
          `${unit} could not be started: Job for ${unit}.service failed`,
        ),
        hint: `Run journalctl --user --unit ${unit} to see its log.`,
      }),
    );
    writeFileSync(gate, "");
    await service.start([]);
  });

  test("a unit that dies right after its start is an error, although systemctl succeeded", async () => {
    const service = await running(
      `[Service]\nExecStart=/bin/sh -c 'test -e ${store} && exec sleep infinity; sleep 0.05; exit 3'\n`,
    );
    await service.stop();
    rmSync(store);
    await expect(service.start([])).rejects.toEqual(
      refused(
        /did not stay up: it is failed \(failed\), result exit-code, exit status 3/,
        "service",
      ),
    );
  });

  test("a unit that crashes and is restarted by the manager did not stay up", async () => {
    const service = await running(
      `[Service]\nExecStart=/bin/sh -c 'test -e ${store} && exec sleep infinity; sleep 0.2'\nRestart=always\nRestartSec=0\nStartLimitBurst=100\n`,
    );
    await service.stop();
    rmSync(store);
    await expect(service.start([])).rejects.toEqual(refused(/did not stay up/, "service"));
  });

  test("a unit whose start limit is used up by frequent backups is started nevertheless", async () => {
    const service = await running(
      `[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=1\n${holding(store)}`,
    );
    await service.stop();
    await service.start([]);
    expect((await service.state()).active).toBe(true);
  });

  test("failed starts do not keep a unit down once it can start again", async () => {
    const ok = `${store}.ok`;
    writeFileSync(ok, "");
    const service = await running(
      `[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n${holding(store, `ExecStartPre=/usr/bin/test -e ${ok}\n`)}`,
    );
    await service.stop();
    rmSync(ok);
    for (let attempt = 0; attempt < 3; attempt++) {
      await expect(service.start([])).rejects.toEqual(refused(/could not be started/, "service"));
    }
    writeFileSync(ok, "");
    await service.start([]);
    expect((await service.state()).active).toBe(true);
  });
});

describe("dependents", () => {
  test("units that a stop takes down, directly or indirectly, are found and started again", async () => {
    const [bound, part, further, idle] = [1, 2, 3, 4].map((n) => `${unit}-${n}.service`) as [
      string,
      string,
      string,
      string,
    ];
    const sleep = "[Service]\nExecStart=/bin/sleep infinity\n";
    const service = await running(holding(store), {
      [bound]: `[Unit]\nBindsTo=${unit}.service\nAfter=${unit}.service\n${sleep}`,
      [part]: `[Unit]\nPartOf=${unit}.service\n${sleep}`,
      [further]: `[Unit]\nRequires=${bound}\nAfter=${bound}\n${sleep}`,
    });
    written.push(idle);
    await writeUnits({ [idle]: `[Unit]\nPartOf=${unit}.service\n${sleep}` });

    const dependents = await service.prepareStop();
    expect([...dependents].sort()).toEqual([bound, part, further].sort());
    await service.stop();
    for (const name of dependents) {
      await until(async () => (await property(name, "ActiveState")) === "inactive");
    }
    await service.start(dependents);
    for (const name of dependents) expect(await property(name, "ActiveState")).toBe("active");
    expect(await property(idle, "ActiveState")).toBe("inactive");

    await service.stop();
    await systemctl("start", unit);
    await service.startDependents(dependents);
    for (const name of dependents) {
      await until(async () => (await property(name, "ActiveState")) === "active");
    }
  });

  test("a dependent that ends normally within the watch is none that did not stay up", async () => {
    const part = `${unit}-part.service`;
    const service = await running(holding(store), {
      [part]: `[Unit]\nPartOf=${unit}.service\n[Service]\nExecStart=/bin/sleep infinity\n`,
    });
    const dependents = await service.prepareStop();
    await service.stop();
    await writeUnits({
      [part]: `[Unit]\nPartOf=${unit}.service\n[Service]\nExecStart=/bin/true\n`,
    });
    await service.start(dependents);
    expect(await property(part, "ActiveState")).toBe("inactive");
  });

  test("a dependent that does not start again is an error that names it", async () => {
    const bound = `${unit}-bound.service`;
    const service = await running(holding(store), {
      [bound]: `[Unit]\nBindsTo=${unit}.service\nAfter=${unit}.service\n[Service]\nExecStart=/bin/sh -c 'test -e ${store} && exec sleep infinity'\n`,
    });
    const dependents = await service.prepareStop();
    await service.stop();
    writeFileSync(`${store}.kept`, "");
    rmSync(store);
    await writeUnits({ [`${unit}.service`]: holding(`${store}.kept`) });
    await expect(service.start(dependents)).rejects.toEqual(
      refused(`${bound} did not stay up with it`, "service"),
    );
  });

  test("a socket cannot wake the unit while it is stopped, and listens again afterwards", async () => {
    const socket = `${unit}.socket`;
    const path = join(folder, "socket");
    const service = await present(holding(store), { [socket]: `[Socket]\nListenStream=${path}\n` });
    await systemctl("start", socket);
    await knock(path);
    await until(async () => (await service.state()).active);

    const dependents = await service.prepareStop();
    expect(dependents).toEqual([socket]);
    await service.stop();
    await expect(knock(path)).rejects.toThrow();
    expect((await service.state()).active).toBe(false);

    await service.start(dependents);
    expect(await property(socket, "ActiveState")).toBe("active");
    await knock(path);
  });

  test("a timer that would start the unit does not go off while it is stopped", async () => {
    const timer = `${unit}.timer`;
    const service = await running(holding(store), {
      [timer]: "[Timer]\nOnUnitInactiveSec=1ms\nAccuracySec=1ms\n",
    });
    const dependents = await service.prepareStop();
    expect(dependents).toEqual([timer]);
    await service.stop();
    expect(await property(timer, "ActiveState")).toBe("inactive");
    expect((await service.state()).active).toBe(false);
    await service.start(dependents);
    expect(await property(timer, "ActiveState")).toBe("active");
  });
});

describe("refused before anything is stopped", () => {
  test("a unit that does not exist is not found", async () => {
    const service = await selectService({ service: "systemd-user", unit, storePath: store });
    await expect(service.check(store)).rejects.toEqual(
      expect.objectContaining({
        kind: "notFound",
        message: `no unit ${unit} in the user manager`,
        hint: expect.stringContaining("--unit"),
      }),
    );
  });

  test("a masked unit", async () => {
    const folder = join(process.env.HOME ?? "", ".config/systemd/user");
    written.push(`${unit}.service`);
    mkdirSync(folder, { recursive: true });
    symlinkSync("/dev/null", join(folder, `${unit}.service`));
    await systemctl("daemon-reload");
    const service = await selectService({ service: "systemd-user", unit, storePath: store });
    await expect(service.check(store)).rejects.toEqual(refused(/is masked/));
  });

  test("a running unit that was masked since its start", async () => {
    const runtime = join(process.env.XDG_RUNTIME_DIR ?? "", "systemd/user");
    mkdirSync(runtime, { recursive: true });
    writeFileSync(join(runtime, `${unit}.service`), holding(store));
    await systemctl("daemon-reload");
    await systemctl("start", unit);
    written.push(`${unit}.service`);
    await systemctl("mask", unit);
    const service = await selectService({ service: "auto", unit, storePath: store });
    await expect(service.check(store)).rejects.toEqual(refused(/is masked/));
    rmSync(join(runtime, `${unit}.service`));
  });

  test("a running unit that was masked until the next boot: the hint removes the mask", async () => {
    const data = process.env.XDG_DATA_HOME || join(process.env.HOME ?? "", ".local/share");
    const file = join(data, "systemd/user", `${unit}.service`);
    mkdirSync(dirname(file), { recursive: true });
    onTestFinished(() => rmSync(file));
    writeFileSync(file, holding(store));
    written.push(`${unit}.service`);
    await systemctl("daemon-reload");
    await systemctl("start", unit);
    await systemctl("mask", "--runtime", unit);
    const service = await selectService({ service: "auto", unit, storePath: store });
    await expect(service.check(store)).rejects.toMatchObject({
      message: expect.stringMatching(/is masked/),
      hint: expect.stringContaining(`systemctl --user unmask --runtime ${unit},`),
    });
    await systemctl("unmask", "--runtime", unit);
    expect(await service.check(store)).toEqual([]);
  });

  test("a unit that may not be stopped or started manually", async () => {
    for (const property of ["RefuseManualStop", "RefuseManualStart"]) {
      const service = await present(`[Unit]\n${property}=yes\n${holding(store)}`);
      await expect(service.check(store)).rejects.toEqual(refused(`${property}=yes`));
    }
  });

  test("a unit whose file the manager cannot load", async () => {
    const service = await present("[Service]\nType=simple\n");
    await expect(service.check(store)).rejects.toEqual(refused(/could not load .* \(bad-setting/));
  });

  test("a unit that runs and whose file is gone", async () => {
    const service = await running(holding(store));
    const file = await property(unit, "FragmentPath");
    rmSync(file);
    await expect(service.check(store)).rejects.toEqual(refused(/does not exist any more/));
    // Another program's reload makes the manager look for the file.
    await systemctl("daemon-reload");
    await expect(service.check(store)).rejects.toEqual(refused(/does not exist any more/));
  });

  test("a unit made by systemd-run, which could not be started again", async () => {
    written.push(`${unit}.service`);
    await exec("systemd-run", ["--user", "--quiet", `--unit=${unit}`, "sleep", "infinity"]);
    const service = await selectService({ service: "systemd-user", unit, storePath: store });
    await expect(service.check(store)).rejects.toEqual(refused(/has no unit file/));
  });

  test("a unit that another unit upholds and would start at once", async () => {
    const keeper = `${unit}-keeper.service`;
    const service = await running(holding(store), {
      [keeper]: `[Unit]\nUpholds=${unit}.service\n[Service]\nExecStart=/bin/sleep infinity\n`,
    });
    await expect(service.check(store)).rejects.toMatchObject({
      kind: "refused",
      hint: `Run systemctl --user stop ${keeper} first, and start ${keeper} again afterwards.`,
    });
    await systemctl("stop", keeper);
    expect(await service.check(store)).toEqual([]);
  });

  test("a name that is not a service's is a usage error", async () => {
    for (const name of ["--now", "hub.socket", "hub*", "a b", ""]) {
      await expect(
        selectService({ service: "systemd-user", unit: name, storePath: store }),
      ).rejects.toEqual(refused("is not the name of a systemd service", "usage"));
    }
  });

  test("a running unit that has another store open", async () => {
    const other = join(folder, "elsewhere", "clients.db");
    mkdirSync(join(folder, "elsewhere"));
    writeFileSync(other, "");
    const service = await running(holding(other));
    await until(async () => (await findHolders(other)).holders.length > 0);
    await expect(service.check(store)).rejects.toEqual(
      refused(`${unit} uses ${other}, not ${store}`),
    );
  });

  test("a running unit with another XDG_DATA_HOME", async () => {
    const service = await running(
      `[Service]\nEnvironment=XDG_DATA_HOME=${folder}/data\nExecStart=/bin/sleep infinity\n`,
    );
    await expect(service.check(store)).rejects.toEqual(
      refused(`uses ${folder}/data/hivemind-core/clients.db`),
    );
  });

  test("a store that belongs to another user than the unit runs as, unless the unit has it open", async () => {
    await exec("chown", ["65534", store]);
    const idle = await running("[Service]\nExecStart=/bin/sleep infinity\n");
    const error: StoreError = await idle.check(store).then(
      () => expect.fail("the check succeeded"),
      (thrown) => thrown,
    );
    expect(error).toEqual(refused(`runs as user 0, but ${store} belongs to user 65534`));
    expect(error.hint).toContain("Run this as user 65534");
    await systemctl("stop", unit);
    const holder = await running(holding(store));
    expect(await holder.check(store)).toEqual([]);
  });
});

describe("notices", () => {
  test("a running unit that does not have the store open at the moment", async () => {
    const service = await running("[Service]\nExecStart=/bin/sleep infinity\n");
    expect(await service.check(store)).toEqual([
      `${unit} runs, but does not have ${store} open at the moment`,
    ]);
  });

  test("an XDG_DATA_HOME whose store is a link to this store is accepted", async () => {
    mkdirSync(join(folder, "data/hivemind-core"), { recursive: true });
    symlinkSync(store, join(folder, "data/hivemind-core/clients.db"));
    const service = await running(
      `[Service]\nEnvironment=XDG_DATA_HOME=${folder}/data\nExecStart=/bin/sleep infinity\n`,
    );
    expect(await service.check(store)).toEqual([expect.stringContaining("at the moment")]);
  });

  test("a file that changed since the manager read it", async () => {
    const service = await running(holding(store));
    const file = await property(unit, "FragmentPath");
    let notices: string[] = [];
    // The tests of other files reload the same manager.
    await until(async () => {
      writeFileSync(file, holding(store, "TimeoutStopSec=3\n"));
      notices = await service.check(store);
      return notices.length > 0;
    });
    expect(notices).toEqual([expect.stringContaining("daemon-reload")]);
  });
});

test("the time limit of a stop follows the unit's own limit, its stages and its dependents", async () => {
  const bound = `${unit}-bound.service`;
  const plain = await present(holding(store, "TimeoutStopSec=5\n"));
  const staged = await present(holding(store, "TimeoutStopSec=2min 5s\nExecStop=/bin/true\n"));
  const endless = await present(holding(store, "TimeoutStopSec=infinity\n"));
  const attended = await running(holding(store, "TimeoutStopSec=5\n"), {
    [bound]: `[Unit]\nBindsTo=${unit}.service\nAfter=${unit}.service\n[Service]\nExecStart=/bin/sleep infinity\nTimeoutStopSec=7\n`,
  });
  const again = await selectService({ service: "systemd-user", unit, storePath: store });
  expect(staged.stopTimeoutMs - plain.stopTimeoutMs).toBe(245_000);
  expect(endless.stopTimeoutMs).toBeLessThan(Number.POSITIVE_INFINITY);
  expect(again.stopTimeoutMs - attended.stopTimeoutMs).toBe(7_000);
});

function knock(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve();
    });
    socket.once("error", reject);
  });
}
