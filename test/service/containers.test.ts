/**
 * Hubs in containers of real engines, which run in a session with a system manager of its own. The
 * hub is a shell that has the store open; all else is as a user has it.
 */
import { execFile } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseContainers } from "../../src/service/engine.js";
import { root } from "../built.js";
import { proving } from "../prove-report.js";
import { temporaryFolder } from "./units.js";

const script = fileURLToPath(new URL("containers-session.mjs", import.meta.url));

interface Ran {
  code: number;
  stderr: string;
  isRunning: boolean;
  isRestarted: boolean;
}

interface UnitRan extends Ran {
  service: unknown;
  isActive: boolean;
  isSplit: boolean;
  rotated: object;
  engine: Ran;
}

interface Seen {
  auto: Ran & { result: { backup: { method: string }; service: object }; settings: string };
  dependents: Ran;
  rotate: Ran;
  delivered: Record<string, object> & { isOnDisk: boolean };
  engine: Ran;
  asked: object;
  compose: object;
  killed: { signal: string; wasRunning: boolean; next: { stdout: string }; isRunning: boolean };
  killedDuringStop: object;
  timer: object;
  schedule: object;
  stranger: Ran & { isUntouched: boolean };
  stopped: Ran;
  closed: object;
  refusals: Record<string, Ran>;
  denied: object;
  quadlet: UnitRan;
  generated: UnitRan;
  stoppedUnit: Ran;
  podman5: UnitRan;
  compose2: object;
  guide: object;
  deaf: Ran & { doctor: object };
  doctor: object;
  copiedOut: object;
  repaired: Record<string, { found: string[]; typed: { code: number }[]; left?: object[] }>;
  healthy: object;
  secret: object;
}

describe.each(["podman", "docker"] as const)("%s", (engine) => {
  let home: string;
  let seen: Seen;

  beforeAll(async () => {
    home = temporaryFolder();
    const args = ["--system", home, process.execPath, script, engine, home];
    const { stdout } = await promisify(execFile)(`${root}scripts/private-session`, args);
    seen = JSON.parse(stdout);
  }, 600_000);

  afterAll(() => rmSync(home, { recursive: true, force: true }));

  test("auto finds the container by the store, and a backup stops and starts it", () => {
    const { code, stderr, result, isRunning, isRestarted, settings } = seen.auto;
    expect([code, isRunning, isRestarted]).toEqual([0, true, true]);
    expect(stderr).toContain(`clients.db is the container hub (${engine})`);
    expect(JSON.parse(settings).backup).toMatchObject({ service: engine, unit: "hub" });
    expect(result.backup.method).toBe("stopped");
    expect(result.service).toEqual({
      ...{ unit: "hub", was_active: true, active: true },
      ...{ stopped_ms: expect.any(Number), listening_ms: null },
    });
  });

  test("a container in the hub's network is restarted to join the new one", () => {
    expect(seen.dependents).toMatchObject({
      ...{ code: 0, isRunning: true, isRestarted: true },
      afterKill: { code: 0, isRestarted: true },
    });
  });

  test("rotate stops and starts it", () => {
    expect(seen.rotate).toMatchObject({ code: 0, isRunning: true, isRestarted: true });
  });

  // Both engines mount the copy alike, and are searched alike: scripts/test tries one of them.
  if (engine === "podman" || proving) {
    test("run --prepare writes a copy with the password for a container that does not exist yet", () => {
      expect(seen.delivered.first).toMatchObject({ code: 0, stderr: "", hasPassword: true });
      expect(seen.delivered.isOnDisk).toBe(false);
      expect(seen.delivered.notice).toContain(
        "the SQLite plugin in the container boxed is not checked for encryption: the Python of its hub was not found",
      );
    });

    test("rotate gives the new password to the copy that a container mounts", () => {
      const { rotated } = seen.delivered as { rotated?: { stdout: string } };
      expect(rotated).toMatchObject({ code: 0, isRunning: true, isChanged: true, isCurrent: true });
      expect(JSON.parse(rotated?.stdout ?? "").rotated.hub).toBe("run");
    });

    test("restore of a backup under another passphrase gives that to the copy", () => {
      expect(seen.delivered.restored).toMatchObject({
        ...{ code: 0, isRunning: true, isChanged: true, isCurrent: true },
      });
    });

    test("a container that does not start on the new file gets the old password again", () => {
      expect(seen.delivered.failed).toMatchObject({
        ...{ code: 15, isRunning: true, isChanged: false, isCurrent: true },
        stderr: expect.stringContaining("the replaced store was put back"),
      });
    });

    test("a sealed passphrase and the copy change together, and return together", () => {
      const { sealed, sealedFailed } = seen.delivered;
      expect(sealed).toMatchObject({ code: 0, isRunning: true, isChanged: true, isCurrent: true });
      expect(sealedFailed).toMatchObject({
        ...{ code: 15, isRunning: true, isChanged: false, isCurrent: true },
      });
    });

    test.each([
      ["undone", false],
      ["finished", true],
      ["undoneWithoutCopy", false],
      ["finishedWithoutCopy", true],
    ])(
      "a kill during rotate: the recovery leaves the password that fits: %s",
      (name, isChanged) => {
        expect(seen.delivered[name]).toMatchObject({
          ...{ killed: "SIGKILL", code: 0, isRunning: true, isCurrent: true, isChanged },
        });
      },
    );

    test("the steps that setup names encrypt the store of a container; a failed start takes all back", () => {
      const { encrypted } = seen.delivered;
      expect(encrypted).toMatchObject({
        before: {
          code: 0,
          hasPassword: false,
          stderr: expect.stringContaining("not encrypted yet"),
        },
        failed: { code: 15, hasPassword: false, isRunning: true },
        done: { code: 0, hasPassword: true, isRunning: true },
        saved: { code: 0 },
      });
    });

    test("the steps that setup names take over a store whose password is in server.json", () => {
      expect(seen.delivered.adopted).toMatchObject({
        ran: Array.from({ length: 6 }, () => ({ code: 0 })),
        ...{ isChanged: true, isOnDisk: false },
      });
    });

    test("a container whose copy is gone is not stopped, because it could not be started", () => {
      expect(seen.delivered.withoutCopy).toMatchObject({
        ...{ code: 17, isRunning: true },
        stderr: expect.stringMatching(/boxed\.json, which does not exist.*\n.*run --prepare/s),
      });
    });

    test("a hub that runs without the store open is stopped, and never taken for no hub", () => {
      expect(seen.closed).toMatchObject({
        restored: {
          code: 0,
          stderr: expect.stringContaining(`is the container closed (${engine})`),
        },
        ...{ isRestarted: true, isRunning: true },
        paused: { code: 17, stderr: expect.stringContaining("closed is paused") },
      });
    });

    test("run refuses to start an engine, whose containers would not get the passphrase", () => {
      expect(seen.engine).toMatchObject({
        ...{ code: 17, stderr: expect.stringContaining("--print-unit compose") },
      });
    });
  }

  test("killed while it is stopped: the next command starts it, and no timer is left", () => {
    expect(seen.killed).toMatchObject({
      ...{ signal: "SIGKILL", wasRunning: false, isRunning: true, timers: "" },
      next: { code: 0, stdout: expect.stringContaining("started hub") },
    });
  });

  test("killed while the stop is in progress: the next command waits for its end and starts it", () => {
    const expected = { code: 0, isRunning: true, isRestarted: true };
    expect(seen.killedDuringStop).toEqual({ signal: "SIGKILL", ...expected });
  });

  test("killed while it is stopped, and no further command: a timer starts it for good", () => {
    const { wasRunning: _, ...timer } = seen.timer as { wasRunning: boolean };
    expect(timer).toEqual({ signal: "SIGKILL", isRecovered: true, isRunning: true });
  });

  test("a backup in a systemd service leaves it running when the service ends", () => {
    expect(seen.schedule).toEqual({ code: 0, isRunning: true, isRestarted: true });
  });

  test("a program in another container is named before anything is stopped", () => {
    expect(seen.stranger).toMatchObject({ code: 11, isUntouched: true });
    expect(seen.stranger.stderr).toMatch(/clients\.db is open in \d+ \(sh\)/);
    expect(seen.stranger.stderr).toContain(`runs in the ${engine} container cli`);
    expect(seen.stranger.stderr).toContain("Nothing was stopped.");
  });

  test("a stopped container is found by its mounts and stays stopped", () => {
    expect(seen.stopped).toMatchObject({ code: 0, isRunning: false });
    expect(seen.stopped.stderr).toContain(`is the container hub (${engine})`);
  });

  test.each([
    ["volatile", 17, "removes the container volatile when it stops (--rm)"],
    ["paused", 17, "the container paused is paused and cannot be stopped"],
    ["swarm", 17, "is a task of the swarm service stack_hub"],
    ["absent", 10, `${engine} has no container absent`],
    ["foreign", 17, "the container foreign does not mount the directory of"],
    ["own", 17, "the container own uses another store, the file /clients.db inside the container"],
    ["invalid", 2, "-x is not the name of a container"],
  ])("refuses a container: %s", (name, code, message) => {
    expect(seen.refusals[name]).toEqual({ code, stderr: expect.stringContaining(message) });
    expect(seen.refusals.isRunning).toBe(true);
  });

  test("a user who may not use the engine learns that", () => {
    expect(seen.denied).toMatchObject({ kind: "service", hint: expect.stringMatching(/^Run /) });
  });

  test("a main process that does not catch the signal to stop is reported before the stop", () => {
    expect(seen.deaf).toMatchObject({ code: 0, isRunning: true });
    expect(seen.deaf.stderr).toContain(
      "the main process of the container deaf ignores the signal to stop: stopping takes 2 s",
    );
  });

  test("the printed unit for a compose file prepares the copy, and rotate changes it", () => {
    expect(seen.compose).toMatchObject({
      ...{ code: 0, hasPassword: true, isChanged: true, notices: "" },
      ...{ isRefused: true, isMountKept: true },
    });
  });

  test("doctor names files on no volume, and a main process that ignores the signal to stop", () => {
    const check = (detail: string, fix: string) =>
      expect.objectContaining({
        ...{ detail: expect.stringContaining(detail), fix: expect.stringContaining(fix) },
      });
    expect(seen.doctor).toEqual([
      check(
        "lost keeps its store /home/hivemind/.local/share/hivemind-core/clients.db on no volume",
        `${engine} cp 'lost:/home/hivemind/.local/share/hivemind-core/.' ~/lost-store`,
      ),
      check("its settings /home/hivemind/.config/hivemind-core/server.json", "~/lost-config"),
      check("the hub's identity /home/hivemind/.config/hivemind on no", "~/lost-identity"),
    ]);
    expect(seen.copiedOut).toEqual({ codes: [0, 0, 0], owner: 1000 });
    expect(seen.healthy).toEqual([expect.objectContaining({ ok: true })]);
    expect(seen.deaf.doctor).toEqual([check("ignores the signal to stop", "--init")]);
  });

  if (proving) {
    test.each<[string, RegExp[]]>([
      ["program", [/copy-.* starts a program that is gone .*: \/opt\/node-1\/bin\/node$/]],
      ["password", [/the container composed gets another password, from /]],
      ["copy", [/the container composed mounts .*, which does not exist/]],
      ["unit", [/which does not exist/, /copy-.* (?:is in a restart loop|has failed)/]],
      ["loop", [/the container failing (?:is in a restart loop|has ended with exit code 3)/]],
      ["none", [/the container unlocked gets no password/]],
    ])(
      "doctor finds why a container's hub does not work, and its fix is typed: %s",
      (name, found) => {
        const repaired = seen.repaired[name];
        expect(repaired?.found).toEqual(found.map((each) => expect.stringMatching(each)));
        expect(repaired?.typed).toEqual(found.map(() => expect.objectContaining({ code: 0 })));
        expect(repaired?.left ?? []).toEqual([]);
      },
    );
  }

  // scripts/prove containers installs newer engines than Debian 12 has.
  if (engine === "docker" && proving) {
    test("compose version 2 mounts the copy, and fails without it", () => {
      expect(seen.compose2).toMatchObject({
        ...{ up: { code: 0 }, saved: { code: 0 }, rotated: { code: 0 } },
        ...{ isChanged: true, hasPassword: true, isDirectory: false },
        withoutCopy: { code: 1, stderr: expect.stringContaining("server.json") },
      });
    });
  }

  // Only Podman has units of containers, and the guide's command blocks are for it.
  if (engine !== "podman") return;

  test("the unit of a container is stopped and started instead", () => {
    for (const name of ["quadlet", "generated"] as const) {
      expect(seen[name]).toMatchObject({
        ...{ code: 0, isActive: true, isRestarted: true },
        service: { unit: name, was_active: true, stopped_ms: expect.any(Number) },
        engine: { code: 17 },
      });
      expect(seen[name].engine.stderr).toContain(`belongs to the unit ${name}.service`);
    }
    expect(seen.quadlet.isSplit).toBe(true);
    expect(seen.stoppedUnit.code).toBe(0);
  });

  test("the hub's packages are asked inside the container, and open the store after a rotation", () => {
    const problem = expect.stringMatching(
      /the hub in the container of podman cannot open .*sqlcipher3 is required/,
    );
    expect(seen.asked).toMatchObject({
      prepared: { code: 0, stderr: "" },
      rotated: { code: 0 },
      opened: 2,
      broken: { code: 17, stderr: problem },
      refused: { code: 17, stderr: problem, isRunning: true },
    });
  });

  test("a passphrase in a secret of the engine is a finding, and its fix leaves none", () => {
    expect(seen.secret).toMatchObject({
      doctor: [{ severity: "error", detail: expect.stringContaining("secrets of podman") }],
      ...(proving && { fixed: { code: 0 }, left: [{ ok: true }] }),
      rotated: { code: 17, stderr: expect.stringMatching(/podman secret rm(.|\n)*run --prepare/) },
    });
  });

  test("rotate: a unit that prepares server.json mounts it again", () => {
    expect(seen.quadlet.rotated).toMatchObject({ code: 0, isDelivered: true });
  });

  if (proving) {
    test("the unit that Podman 5 generates from a quadlet is stopped and started", () => {
      expect(seen.podman5).toMatchObject({
        ...{ code: 0, isSplit: true, isActive: true, isRestarted: true },
        service: { unit: "podman5", was_active: true, stopped_ms: expect.any(Number) },
        rotated: { code: 0, isDelivered: true },
      });
    });
  }

  test("the command blocks of docs/guide/containers.md run", () => {
    expect(seen.guide).toMatchObject({
      ...{ code: 0, hasPassword: true, isOnDisk: false, isRunning: true },
    });
  });
});

/** What both engines report, with the fields in which they differ. */
function inspected(fields: { State?: object; Config?: object; HostConfig?: object } = {}): string {
  return JSON.stringify([
    {
      ...{ Id: "a".repeat(64), Name: "/hub", Path: "hivemind-core", Args: ["listen"] },
      State: {
        ...{ Status: "running", Pid: 42, ExitCode: 0, StartedAt: "2026-11-29T10:38:15.1415417Z" },
        ...fields.State,
      },
      Mounts: [{ Type: "tmpfs", Source: "", Destination: "/tmp" }],
      Config: { Labels: null, StopSignal: "SIGTERM", ...fields.Config },
      HostConfig: { AutoRemove: false, NetworkMode: "host", PidMode: "", ...fields.HostConfig },
    },
  ]);
}

test("inspect: the name without docker's slash, no labels, and mounts without a source", () => {
  expect(parseContainers("docker", inspected())).toMatchObject([
    {
      ...{ name: "hub", args: ["hivemind-core", "listen"], mounts: [], hasOwnPidNamespace: true },
      ...{ stopSignal: 15, stopTimeoutMs: 10_000, unit: undefined, swarmService: undefined },
      startedAt: Date.parse("2026-11-29T10:38:15.141Z"),
    },
  ]);
});

test.each([
  [2, 2],
  ["SIGINT", 2],
  ["INT", 2],
  ["2", 2],
  ["", 15],
  ["SIGRTMIN+3", 15],
  [null, 15],
])("inspect: the signal to stop %j is %d", (StopSignal, signal) => {
  const [container] = parseContainers("podman", inspected({ Config: { StopSignal } }));
  expect(container?.stopSignal).toBe(signal);
});

test("inspect: the container whose network is used", () => {
  const text = inspected({ HostConfig: { NetworkMode: "container:abc", PidMode: "host" } });
  const [container] = parseContainers("docker", text);
  expect(container).toMatchObject({ sharesNamespacesOf: ["abc"], hasOwnPidNamespace: false });
});

test("inspect: another form is an error", () => {
  for (const text of ["", "{}", "null", '[{"Id":"a"}]', inspected({ State: { Pid: "1" } })]) {
    expect(() => parseContainers("docker", text)).toThrow(
      expect.objectContaining({ kind: "service" }),
    );
  }
});
