import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect, onTestFinished, test, vi } from "vitest";
import { StoreError } from "../../src/errors.js";
import { Downtime } from "../../src/operation/downtime.js";
import { downStep, Journal } from "../../src/operation/journal.js";
import { findPendingRestart, resolveService } from "../../src/operation/service.js";
import { findHolders } from "../../src/process/holders.js";
import { ManagedService } from "../../src/service/managed.js";
import { selectService } from "../../src/service/select.js";
import type { Service } from "../../src/service/service.js";
import {
  property,
  removeUnits,
  systemctl,
  temporaryFolder,
  uniqueName,
  writeUnits,
} from "../service/units.js";

test.skipIf(process.geteuid?.() !== 0)(
  "a hub with commands of its own is started again by an ordinary user too, who cannot look into all processes",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "hivemind-downtime-"));
    onTestFinished(() => rm(folder, { recursive: true }));
    const store = join(folder, "clients.db");
    const started = join(folder, "started");
    writeFileSync(store, "");
    chownSync(folder, 65534, 65534);
    process.seteuid?.(65534);
    try {
      expect(await findHolders(store)).toEqual({ holders: [], isComplete: false });
      const stopped = {
        service: "command",
        unit: "hivemind-core",
        stop_command: "true",
        start_command: `touch '${started}'`,
      } as const;
      const downtime = await Downtime.fromJournal({ ...stopped, dependents: [] }, store);
      expect(downtime.name).toBe("the service");
      expect(await downtime.end()).toMatchObject({ isStarted: true });
    } finally {
      process.seteuid?.(0);
    }
    expect(existsSync(started)).toBe(true);
  },
);

/**
 * A hub with commands of its own, which runs, and the file that has a line for each of its starts.
 */
async function hub(main = "exec sleep infinity") {
  const folder = mkdtempSync(join(tmpdir(), "hivemind-downtime-"));
  const storePath = join(folder, "clients.db");
  const pid = join(folder, "pid");
  const starts = join(folder, "starts");
  writeFileSync(storePath, "");
  const choice = {
    ...({ service: "command", unit: "none", storePath } as const),
    startCommand: `setsid /bin/sh -c 'exec 3<${storePath}; echo $$ >${pid}; echo $$ >>${starts}; ${main}' >/dev/null 2>&1 & until test -s ${pid}; do sleep 0.01; done`,
    stopCommand: `kill $(cat ${pid}); rm ${pid}`,
  };
  const service = await selectService(choice);
  await service.start([]);
  onTestFinished(async () => {
    execFileSync("/bin/sh", ["-c", `kill $(cat ${starts}) 2>/dev/null || true`]);
    await rm(folder, { recursive: true });
  });
  const startsOf = async () => (await readFile(starts, "utf8")).trim().split("\n").length;
  const downtime = await Downtime.prepare({ service, choice, wasActive: true });
  if (!downtime) throw new Error("the hub runs");
  return { downtime, service, startsOf, choice };
}

test("a hub with commands of its own, which its timer started meanwhile, is not started twice", async () => {
  const { downtime, service, startsOf } = await hub();
  const soonMs = 3_000;
  await downtime.arm(soonMs - service.stopTimeoutMs, ["/bin/false"]);
  await downtime.stop();
  await vi.waitFor(async () => expect(await startsOf()).toBe(2), { timeout: 20_000 });
  expect(await downtime.end()).toMatchObject({ wasUp: true, timerFired: true });
  expect(await startsOf()).toBe(2);
});

test("nor does its timer start it, once it was started here", async () => {
  const { downtime, service, startsOf } = await hub();
  const soonMs = 4_000;
  await downtime.arm(soonMs - service.stopTimeoutMs, ["/bin/false"]);
  await downtime.stop();
  const { isStarted, timerFired, downtimeMs } = await downtime.end();
  expect([isStarted, timerFired]).toEqual([true, false]);
  expect(downtimeMs).toBeGreaterThan(0);
  await delay(soonMs + 500);
  expect(await startsOf()).toBe(2);
});

test("a hub with commands of its own, which is still ending when its stop command was killed, is started again", async () => {
  const { downtime, startsOf, choice } = await hub(
    'trap "trap : TERM; sleep 6; exit" TERM; while :; do sleep 0.1; done',
  );
  execFileSync("/bin/sh", ["-c", choice.stopCommand]);
  const next = await Downtime.fromJournal(downtime.stopped, choice.storePath);
  expect(await next.end()).toMatchObject({ isStarted: true });
  expect(await startsOf()).toBe(2);
});

test("a unit that still waits for its dependents when the process that stopped it was killed is started again", async () => {
  const unit = uniqueName();
  const units = [`${unit}.service`, `${unit}-slow.service`] as const;
  onTestFinished(() => removeUnits(...units));
  await writeUnits({
    [units[0]]: "[Service]\nExecStart=sleep infinity\n",
    [units[1]]: `[Unit]\nBindsTo=${units[0]}\nAfter=${units[0]}\n[Service]\nExecStart=sleep infinity\nExecStop=sleep 1\n`,
  });
  await systemctl("start", ...units);
  const storePath = "/nonexistent/clients.db";
  const choice = { service: "systemd-user", unit, storePath } as const;
  const service = await selectService(choice);
  const downtime = await Downtime.prepare({ service, choice, wasActive: true });
  const { stopped } = downtime ?? {};
  if (!stopped) throw new Error("the unit runs");
  await systemctl("stop", "--no-block", unit);
  const next = await Downtime.fromJournal(stopped, storePath);
  expect(await next.end()).toMatchObject({ isStarted: true });
  for (const each of units) expect(await property(each, "ActiveState")).toBe("active");
  expect(await property(unit, "InvocationID")).not.toBe(stopped.invocation);
});

test("the ports of other programs are not waited for", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { downtime } = await hub();
  server.close();
  await downtime.stop();
  expect(await downtime.end()).toMatchObject({ isStarted: true, ports: [] });
});

test("a journal that names a service of an earlier version, launchd, is refused by name", async () => {
  const folder = mkdtempSync(join(tmpdir(), "hivemind-downtime-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const storePath = join(folder, "clients.db");
  const stopped = { service: "launchd", unit: "org.hivemind.core", dependents: [] };
  await Journal.begin(storePath, "backup", downStep, { stopped });
  await expect(findPendingRestart(storePath)).rejects.toMatchObject({
    kind: "corrupted",
    message: expect.stringMatching(/clients\.db\.journal\.json .* stopped\.service: .*"systemd"/),
  });
});

test("a service stopped since it was resolved stays down; one started or about to start is stopped", async () => {
  const folder = temporaryFolder();
  const unit = uniqueName();
  const files = [`${unit}-first.service`, `${unit}.service`];
  onTestFinished(async () => {
    await removeUnits(...files);
    await rm(folder, { recursive: true });
  });
  const sleep = "ExecStart=/bin/sleep infinity\n";
  await writeUnits({
    [`${unit}.service`]: `[Unit]\nAfter=${unit}-first.service\n[Service]\n${sleep}`,
    [`${unit}-first.service`]: `[Service]\nType=oneshot\n${sleep}`,
  });
  const storePath = join(folder, "clients.db");
  const choice = { service: "systemd-user", unit, storePath } as const;
  const reporter = { notice: () => {}, detail: () => {}, confirm: async () => {} };
  const resolve = () => resolveService(choice, reporter);

  const stopped = await resolve();
  expect(stopped.wasActive).toBe(false);
  await systemctl("start", unit);
  expect(await Downtime.prepare(stopped)).toBeDefined();

  const running = await resolve();
  expect(running.wasActive).toBe(true);
  await systemctl("stop", unit);
  expect(await Downtime.prepare(running)).toBeUndefined();

  // The job of the first unit is queued first; otherwise the second unit starts at once.
  await systemctl("start", "--no-block", ...files);
  expect((await running.service.state()).active).toBe(false);
  expect(await Downtime.prepare(stopped)).toBeDefined();
});

/** A system unit, which the manager does not let this user manage. */
function deniedService(): Service {
  const denied = async () => {
    throw new StoreError("service", "Access denied");
  };
  return Object.assign(Object.create(ManagedService.prototype), {
    ...({
      kind: "systemd",
      name: "hub.service",
      stopTimeoutMs: 1000,
      isDiscovered: false,
    } as const),
    state: async () => ({ active: true, invocation: "0123", mainPid: 1 }),
    check: async () => [],
    owns: async () => true,
    prepareStop: async () => [],
    stop: denied,
    start: denied,
    armRestart: denied,
    disarmRestart: denied,
  }) as Service;
}

async function downtimeOf(service: Service): Promise<Downtime> {
  const choice = { service: "systemd", unit: "hub", storePath: "/nonexistent/clients.db" } as const;
  const downtime = await Downtime.prepare({ service, choice, wasActive: true });
  if (!downtime) throw new Error("the service runs");
  return downtime;
}

test("a service whose stop was refused needs no start", async () => {
  const service = deniedService();
  const downtime = await downtimeOf(service);
  expect(downtime.isPending).toBe(false);
  await expect(downtime.stop()).rejects.toMatchObject({ message: "Access denied" });
  expect(downtime.isPending).toBe(false);
  expect(await downtime.end()).toMatchObject({ isStarted: false });
});

test("a service whose stop is queued, or whose dependents may be stopped, needs a start", async () => {
  const queued = { state: async () => ({ active: true, invocation: "0123", hasJob: true }) };
  for (const change of [queued, { prepareStop: async () => ["satellite.service"] }]) {
    const service = Object.assign(deniedService(), change);
    const downtime = await downtimeOf(service);
    await expect(downtime.stop()).rejects.toMatchObject({ message: "Access denied" });
    expect(downtime.isPending).toBe(true);
    await expect(downtime.end()).rejects.toMatchObject({ kind: "service" });
  }
});

test("the timer of an earlier stop is cancelled when the new timer is armed", async () => {
  const disarmRestart = vi.fn(async () => undefined);
  const armRestart = async ({ name = null }: { name?: string | null }) => ({
    name,
    disarm: async () => ({ fired: false }),
  });
  const service = Object.assign(deniedService(), { armRestart, disarmRestart });
  const choice = { service: "systemd", unit: "hub", storePath: "/nonexistent/clients.db" } as const;
  const stopped = { service: "systemd", unit: "hub", timer: "earlier" } as const;
  const pendingRestart = { journal: {} as Journal, stopped: { ...stopped, dependents: [] } };
  const downtime = await Downtime.prepare({ service, choice, wasActive: false, pendingRestart });
  await downtime?.arm(1000, ["true"]);
  expect(disarmRestart.mock.calls).toEqual([["earlier"]]);
  expect(downtime?.stopped.timer).not.toBe("earlier");
});

test("of a service that something else has started, the dependents are started before the timer is cancelled", async () => {
  const calls: string[] = [];
  const service = Object.assign(deniedService(), {
    startDependents: async (names: readonly string[]) => void calls.push(...names),
    disarmRestart: async (name: string) => void calls.push(name),
  });
  const choice = { service: "systemd", unit: "hub", storePath: "/nonexistent/clients.db" } as const;
  const stopped = { service: "systemd", unit: "hub", timer: "earlier" } as const;
  const dependents = ["satellite.service"];
  const pendingRestart = { journal: {} as Journal, stopped: { ...stopped, dependents } };
  const downtime = await Downtime.prepare({ service, choice, wasActive: false, pendingRestart });
  expect(await downtime?.end()).toMatchObject({ isStarted: false });
  expect(calls).toEqual(["satellite.service", "earlier"]);
});

test("a service that went down although its stop failed is started", async () => {
  let isActive = true;
  const start = vi.fn(async () => ({ upAt: 0, wasUp: false }));
  const service = Object.assign(deniedService(), {
    start,
    state: async () => ({ active: isActive, invocation: "0123" }),
    stop: async () => {
      isActive = false;
      throw new StoreError("service", "left processes behind");
    },
  });
  const downtime = await downtimeOf(service);
  await expect(downtime.stop()).rejects.toThrow();
  expect(await downtime.end()).toMatchObject({ isStarted: true });
  expect(start).toHaveBeenCalledOnce();
});

test.skipIf(process.geteuid?.() !== 0)(
  "that other users' processes are unknown is reported only where one of them may open the store",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "hivemind-downtime-"));
    onTestFinished(() => rm(folder, { recursive: true }));
    const storePath = join(folder, "clients.db");
    writeFileSync(storePath, "", { mode: 0o600 });
    chownSync(folder, 65534, 65534);
    chownSync(storePath, 65534, 65534);
    const notices = async (mode: number) => {
      chmodSync(storePath, mode);
      const notice = vi.fn();
      process.seteuid?.(65534);
      try {
        const reporter = { notice, detail: () => undefined, confirm: async () => undefined };
        await resolveService({ service: "none", storePath }, reporter);
      } finally {
        process.seteuid?.(0);
      }
      return notice.mock.calls.flat();
    };
    expect(await notices(0o600)).toEqual([]);
    expect(await notices(0o660)).toEqual([expect.stringContaining("cannot be inspected")]);
  },
);
