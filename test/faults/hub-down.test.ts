/**
 * An operation is killed while the hub's unit is stopped, and the unit cannot start any more. Its store is in order: what
 * only opens it goes on, to find out what is wrong, and the unit is started as soon as it can be.
 */
import { execSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import {
  holding,
  property,
  removeUnits,
  systemctl,
  uniqueName,
  writeUnits,
} from "../service/units.js";

interface Broken {
  readonly machine: Machine;
  readonly unit: string;
  readonly journal: string;
  /** The unit starts while this file is there. */
  readonly ok: string;
  readonly service: readonly string[];
}

const isActive = async (unit: string) => (await property(unit, "ActiveState")) === "active";

async function killedAndBroken(step: string, command: readonly string[]): Promise<Broken> {
  const machine = await Machine.make();
  await mkdir(machine.path("backups"));
  const bundles = machine.path("bundles");
  await mkdir(machine.path("config", "hivemind-core"), { recursive: true });
  await writeFile(
    machine.path("config", "hivemind-core", "server.json"),
    '{"database": {"module": "hivemind-sqlite-db-plugin", "hivemind-sqlite-db-plugin": {}}, "network_protocol": {}}',
  );
  await machine.init("--bundle-to", bundles, "--to", machine.path("backups"));
  expect((await machine.run(["add-client", "--name", "hall"])).code).toBe(0);
  const unit = uniqueName();
  const ok = machine.path("ok");
  await writeFile(ok, "");
  // Every command tries to start it, which may be more often than a manager allows.
  const more = `ExecStartPre=/usr/bin/test -e ${ok}\n[Unit]\nStartLimitIntervalSec=0`;
  await writeUnits({ [`${unit}.service`]: holding(machine.store, more) });
  onTestFinished(() => removeUnits(`${unit}.service`));
  await systemctl("start", unit);
  const service = ["--service", "systemd-user", "--unit", unit];
  const killed = await machine.run([...command, ...service], {
    env: {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ [step]: "kill" }),
    },
  });
  expect([killed.code, killed.stderr]).toEqual([null, expect.any(String)]);
  expect(await isActive(unit)).toBe(false);
  const journal = `${machine.store}.journal.json`;
  // The timer would go off in a minute or so.
  const [timer = ""] = /hivemind-sqlcipher-restart-\w+/.exec(await readFile(journal, "utf8")) ?? [];
  await systemctl("stop", `${timer}.timer`);
  await rm(ok);
  return { machine, unit, journal, ok, service };
}

const rotate = ["rotate", "--hub", "none"];
const backup = ["backup"];

test.each([
  { step: "backup.stopped", command: backup },
  { step: "backup.copied", command: backup },
  { step: "rotate.filled", command: rotate },
  { step: "rotate.renamed", command: rotate },
  { step: "rotate.starting", command: rotate },
])(
  "killed at $step",
  async ({ step, command }) => {
    const { machine, unit, journal, ok, service } = await killedAndBroken(step, command);
    const down = new RegExp(
      `after an interrupted ${command[0]}: ${unit}[\\s\\S]*could not be started[\\s\\S]*journalctl[\\s\\S]*${journal}`,
    );
    for (const reading of [
      ["list-clients", "--json"],
      ["export-clients", "--show-secrets"],
      ["add-client", "--name", "kitchen"],
      ["run", "--", "/bin/true"],
      ["bundle", "export"],
    ]) {
      const { code, stdout, stderr } = await machine.run(reading);
      expect(stderr).toMatch(down);
      expect(code).toBe(0);
      if (reading.includes("--json")) {
        expect(JSON.parse(stdout).clients).toMatchObject([{ name: "hall" }]);
      }
    }
    expect((await machine.run(["status"])).code).toBe(0);
    // The timer goes by its success, and an operation needs the journal's place.
    for (const refused of [["settle"], [...backup, ...service]]) {
      const { code, stderr } = await machine.run(refused);
      expect([code, stderr]).toEqual([15, expect.stringMatching(down)]);
    }
    expect(existsSync(journal)).toBe(true);

    await writeFile(ok, "");
    const after = await machine.run(["list-clients", "--json"]);
    expect([after.code, after.stderr]).toEqual([0, expect.stringContaining(`started ${unit}`)]);
    expect(JSON.parse(after.stdout).clients).toMatchObject([{ name: "hall" }, { name: "kitchen" }]);
    expect(await isActive(unit)).toBe(true);
    const left = [
      ...(await readdir(dirname(machine.store))),
      ...(await readdir(machine.path("bundles"))),
    ];
    expect(left.filter((name) => /^\.|journal|partial|replaced/.test(name))).toEqual([]);
    expect((await machine.run([...backup, ...service])).code).toBe(0);
  },
  120_000,
);

test("a restore does not wait for a unit that may be down because of the store: what it says to type lets it go on", async () => {
  const { machine, unit, ok, service } = await killedAndBroken("backup.stopped", backup);
  const refused = await machine.run([...backup, ...service]);
  expect(refused.code).toBe(15);
  const [move = ""] = refused.stderr.split("\n").filter((line) => /^ *mv /.test(line));
  execSync(move);
  expect((await machine.run([...backup, ...service])).code).toBe(0);
  expect((await machine.run(["add-client", "--name", "gone again"])).code).toBe(0);
  const [file = ""] = (await readdir(machine.path("backups"))).filter((name) =>
    name.endsWith(".db"),
  );
  const restored = await machine.run([
    ...["restore", machine.path("backups", file), "--hub", "none", "--yes", ...service],
  ]);
  expect([restored.code, restored.stderr]).toEqual([0, expect.any(String)]);
  await writeFile(ok, "");
  await systemctl("start", unit);
  const { stdout } = await machine.run(["list-clients", "--json"]);
  expect(JSON.parse(stdout).clients).toMatchObject([{ name: "hall" }]);
}, 60_000);
