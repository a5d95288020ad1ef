/** What becomes of the service: it runs again, on a store that it can open, whatever went wrong. */
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { assertReadsSource, findPasswordDelivery } from "../../src/hub/password-delivery.js";
import type { PassphraseSource } from "../../src/keys/source.js";
import { findHolders } from "../../src/process/holders.js";
import { selectService } from "../../src/service/select.js";
import { identify } from "../../src/store/cipher.js";
import type { RotateResult } from "../../src/swap/rotate.js";
import { root } from "../built.js";
import {
  exec,
  property,
  removeUnits,
  systemctl,
  uniqueName,
  until,
  writeUnits,
} from "../service/units.js";
import { fixturePassphrases, temporaryFolder } from "../store/temporary.js";
import { passphraseFile, resultOf, World } from "./world.js";

const fixture = "sqlcipher4-schema2.db";
const oldPassphrase = fixturePassphrases[fixture];

test.each([
  ["does not start", []],
  ["dies after it has started", ["late"]],
])(
  "a unit that %s on the new store gets the old one back, and everything with it",
  async (_what, late) => {
    const world = await World.of(fixture);
    await world.startUnit("", await passphraseFile(world, oldPassphrase), ...late);
    const before = await world.rows();
    const ran = await world.run("rotate");
    expect(ran.code).toBe(15);
    expect(ran.error?.message).toMatch(/the replaced store was put back/);
    expect(await world.isActive).toBe(true);
    expect(await world.rows()).toEqual(before);
    expect(await world.slots()).toEqual({ current: oldPassphrase });
    // Of the old passphrase alone: that one is in use, and its bundle stays.
    expect(await world.bundles()).toEqual([(await identify(world.path)).keyId]);
    expect((await world.leftovers()).filter((name) => !/-(wal|shm)$/.test(name))).toEqual([]);
    expect(await systemctl("list-units", "--all", "--type=timer")).not.toContain(world.unit);
  },
);

test("a hub with commands of its own that does not start on the new store gets the old one back, though there is nothing that its stop command could stop", async () => {
  const world = await World.of(fixture);
  const before = await world.rows();
  const [salt, pid] = [join(world.folder, "salt"), join(world.folder, "pid")];
  await writeFile(salt, (await readFile(world.path)).subarray(0, 16));
  const startCommand = `head -c 16 '${world.path}' | cmp -s - '${salt}' || exit 1
    setsid sh -c 'exec 3<"$0"; echo $$ >"$1"; exec sleep infinity' '${world.path}' '${pid}' >/dev/null 2>&1 &
    while ! test -s '${pid}'; do sleep 0.01; done`;
  const stopCommand = `kill "$(cat '${pid}')" && rm '${pid}'`;
  await exec("sh", ["-c", startCommand]);
  onTestFinished(() => exec("sh", ["-c", stopCommand]).then(() => undefined));
  const service = { service: "command", unit: "none", stopCommand, startCommand };

  const ran = await world.run("rotate", { service: { ...service, storePath: world.path } });
  expect([ran.code, ran.error?.message]).toEqual([
    15,
    expect.stringContaining("the replaced store was put back"),
  ]);
  // The start command brought it up on that one, and a second hub there is none.
  expect((await findHolders(world.path)).holders).toHaveLength(1);
  expect(await world.rows()).toEqual(before);
  expect(await world.slots()).toEqual({ current: oldPassphrase });
  expect(await world.leftovers()).toEqual([]);
});

test("killed before such a unit was started, the next command puts the old store back", async () => {
  const world = await World.of(fixture);
  await world.startUnit("", await passphraseFile(world, oldPassphrase));
  const before = await world.rows();
  const killed = await world.run(
    "rotate",
    {},
    {
      NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
      HIVEMIND_TEST_STEP: "rotate.renamed",
    },
  );
  expect(killed.signal).toBe("SIGKILL");
  const settled = await world.settle();
  expect(settled.code).toBe(15);
  expect(settled.error?.message).toMatch(/the replaced store was put back/);
  expect(await world.isActive).toBe(true);
  expect(await world.rows()).toEqual(before);
  expect(await world.slots()).toEqual({ current: oldPassphrase });
});

test("a unit that will not stop is an error; once it has, the next command starts it and undoes the rest", async () => {
  const world = await World.of(fixture);
  await world.startUnit("TimeoutStopSec=1\nSendSIGKILL=no\nKillSignal=SIGCONT");
  const pid = Number(await property(world.unit, "MainPID"));
  const before = await world.rows();
  const ran = await world.run("rotate");
  expect(ran.code).toBe(15);
  expect(ran.error?.message).toMatch(/left processes behind/);
  process.kill(pid, "SIGKILL");
  const settled = await world.settle();
  expect(settled.error).toBeUndefined();
  expect(await world.isActive).toBe(true);
  expect(await world.rows()).toEqual(before);
  expect(await world.slots()).toEqual({ current: oldPassphrase });
  await systemctl("kill", "--signal=KILL", world.unit);
});

test("killed while the unit is stopped, its timer settles what was begun and starts it", async () => {
  const world = await World.of(fixture);
  await world.startUnit();
  const before = await world.rows();
  await world.run(
    "rotate",
    {},
    {
      NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
      HIVEMIND_TEST_STEP: "rotate.filled",
    },
  );
  expect(await world.isActive).toBe(false);
  const journal = await readFile(`${world.path}.journal.json`, "utf8");
  const timer = /hivemind-sqlcipher-restart-\w+/.exec(journal)?.[0] ?? "";
  expect(await property(`${timer}.timer`, "ActiveState")).toBe("active");
  // The time is not waited for: what the timer will start is started now.
  await systemctl("start", "--wait", `${timer}.service`);
  await until(() => world.isActive);
  expect(await world.rows()).toEqual(before);
  expect((await world.leftovers()).filter((name) => !/-(wal|shm)$/.test(name))).toEqual([]);
});

test.each([
  ["arm the restart timer", "systemd-run", "echo 'Access denied' >&2; exit 1"],
  [
    "stop the unit",
    "systemctl",
    `case "$*" in *" stop -- $UNIT"|*" start -- $UNIT") echo 'Access denied' >&2; exit 4;; esac`,
  ],
])(
  "where the manager does not let this user %s, the unit keeps running and nothing is left",
  async (_what, program, refusal) => {
    const world = await World.of(fixture);
    await world.startUnit();
    const invocation = await property(world.unit, "InvocationID");
    const programs = join(world.folder, "programs");
    await mkdir(programs);
    const script = `#!/bin/sh\nUNIT=${world.unit}\n${refusal}\nexec /usr/bin/${program} "$@"\n`;
    await writeFile(join(programs, program), script, { mode: 0o755 });
    const env = { PATH: `${programs}:${process.env.PATH}` };
    for (const operation of ["rotate", "backup"]) {
      const { code, error } = await world.run(operation, { to: world.to }, env);
      expect([code, error?.message]).toEqual([15, expect.stringContaining("Access denied")]);
      expect(error?.message).not.toContain("not running");
      expect(await property(world.unit, "InvocationID")).toBe(invocation);
      expect((await world.leftovers()).filter((name) => !/-(wal|shm)$/.test(name))).toEqual([]);
      expect(await world.slots()).toEqual({ current: oldPassphrase });
    }
  },
);

test("a unit that was not running is not started", async () => {
  const world = await World.of(fixture);
  await world.startUnit();
  await systemctl("stop", world.unit);
  const { service } = resultOf(await world.run<RotateResult>("rotate"));
  expect(service).toEqual({
    unit: world.unit,
    wasActive: false,
    active: false,
    stoppedMs: null,
    listeningMs: null,
  });
  expect(await world.isActive).toBe(false);
});

test("a hub that would not get the new passphrase is a refusal; one that is started by run is not", async () => {
  const world = await World.of(fixture);
  await world.startUnit();
  const refused = await world.run("rotate", { hub: "auto" });
  expect(refused.code).toBe(17);
  expect(refused.error?.hint).toMatch(/hivemind-sqlcipher run --print-unit dropin/);
  expect(await world.slots()).toEqual({ current: oldPassphrase });
  expect(await world.isActive).toBe(true);

  await systemctl("stop", world.unit);
  const run = (options: string) =>
    `ExecStartPre=/bin/true hivemind-sqlcipher --db x ${options} run -- hivemind-core listen`;
  await world.startUnit(run("--passphrase-source file:/etc/passphrase"));
  const unread = await world.run("rotate", { hub: "auto" });
  expect([unread.code, unread.error]).toEqual([
    17,
    expect.objectContaining({
      message: `${world.unit} reads the passphrase from file:/etc/passphrase, but the source of the new one is keyring`,
      hint: expect.stringContaining(`remove --passphrase-source`),
    }),
  ]);
  expect(await world.slots()).toEqual({ current: oldPassphrase });

  await systemctl("stop", world.unit);
  await world.startUnit(run("--passphrase-source keyring"));
  const { rotated } = resultOf(await world.run<RotateResult>("rotate", { hub: "auto" }));
  expect(rotated.hub).toBe("run");
  expect(await world.isActive).toBe(true);
});

test("a unit that reads the same file by another path is no refusal", async () => {
  const folder = await temporaryFolder();
  const [file, link] = [join(folder, "passphrase"), join(folder, "link")];
  await writeFile(file, "");
  await symlink(file, link);
  const source = (path: string) => ({ kind: "file", path }) as const;
  const check = async (line: string, to: PassphraseSource, from = to) => {
    const unit = `${uniqueName()}.service`;
    onTestFinished(() => removeUnits(unit));
    await writeUnits({ [unit]: `[Service]\nLoadCredential=pw:${file}\nExecStart=${line}\n` });
    const choice = { service: "systemd-user", unit, storePath: join(folder, "x") } as const;
    const known = { service: await selectService(choice), choice, wasActive: false };
    assertReadsSource(known, await findPasswordDelivery(known, "auto"), { from, to });
  };
  const run = (path: string) =>
    `/bin/true hivemind-sqlcipher --passphrase-source file:${path} run -- hub`;
  const shell = `/bin/sh -c '${run("$$HOME/pw")}'`;
  for (const line of [run("%d/pw"), run(`$\{CREDENTIALS_DIRECTORY}/pw`), shell]) {
    await check(line, source(file));
    await expect(check(line, source(file), source(`${link}-old`))).rejects.toThrow(
      /but the source/,
    );
    await expect(check(line, { kind: "keyring" })).rejects.toThrow(/but the source/);
  }
  await check(run(link), source(file), source("/former"));
  await expect(check(run("/etc/pw"), source(file))).rejects.toThrow(/but the source/);
});

const interruptedAt = (step: string) => ({
  NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
  HIVEMIND_TEST_STEP: step,
  HIVEMIND_TEST_SIGNAL: "SIGTERM",
});

test.each(["rotate.bundled", "rotate.stopped", "rotate.filled", "rotate.renamed"])(
  "interrupted after %s, it starts the unit again and leaves nothing behind",
  async (step) => {
    const world = await World.of(fixture);
    await world.startUnit();
    const before = await world.rows();
    const ran = await world.run("rotate", {}, interruptedAt(step));
    expect([ran.code, ran.error?.kind]).toEqual([130, "interrupted"]);
    expect(await world.isActive).toBe(true);
    expect(await world.rows()).toEqual(before);
    expect(await world.slots()).toEqual({ current: oldPassphrase });
    expect((await world.leftovers()).filter((name) => !/-(wal|shm)$/.test(name))).toEqual([]);
  },
);

test("interrupted while the unit starts on the new store, it completes the cleanup", async () => {
  const world = await World.of(fixture);
  const ran = await world.run<RotateResult>(
    "rotate",
    world.withoutService,
    interruptedAt("rotate.starting"),
  );
  expect(resultOf(ran).rotated).toBeDefined();
  expect(Object.keys(await world.slots())).toEqual(["current"]);
  expect(await world.leftovers()).toEqual([]);
});
