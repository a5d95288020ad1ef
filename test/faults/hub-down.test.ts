/**
 * An operation is killed while the hub's unit is stopped, and the unit cannot start any more. Its
 * store is in order: what only opens it goes on, to find out what is wrong, and the unit is started
 * as soon as it can be.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";
import { proving } from "../prove-report.js";
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

const atStep = (commands: Record<string, string>) => ({
  NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
  HIVEMIND_TEST_AT_STEP: JSON.stringify(commands),
});

/** @param first a command that is run before, to its end. */
async function killedAndBroken(
  step: string,
  command: readonly string[],
  first: readonly string[] = ["status"],
): Promise<Broken> {
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
  const more = `ExecStartPre=/usr/bin/test -e ${ok}\n`;
  await writeUnits({ [`${unit}.service`]: holding(machine.store, more) });
  onTestFinished(() => removeUnits(`${unit}.service`));
  await systemctl("start", unit);
  const service = ["--service", "systemd-user", "--unit", unit];
  expect((await machine.run([...first, ...(first === backup ? service : [])])).code).toBe(0);
  const killed = await machine.run([...command, ...service], {
    env: atStep({ [step]: "kill" }),
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

/** scripts/test tries one step of a backup, and one before and one after the rename of a swap. */
const steps = [
  { step: "backup.stopped", command: backup },
  { step: "rotate.filled", command: rotate },
  { step: "rotate.renamed", command: rotate },
  ...(proving
    ? [
        { step: "backup.copied", command: backup },
        { step: "rotate.starting", command: rotate },
      ]
    : []),
];

test.each(steps)("killed at $step", async ({ step, command }) => {
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
});

/**
 * A store with a client that the one backup has not, and the unit down, of which nothing is left
 * but that.
 */
async function withBackup(): Promise<Broken & { restore: readonly string[] }> {
  const broken = await killedAndBroken("rotate.filled", rotate, backup);
  const { machine, service } = broken;
  expect((await machine.run(["add-client", "--name", "kitchen"])).code).toBe(0);
  const names = await readdir(machine.path("backups"));
  const [file = ""] = names.filter((name) => name.endsWith(".db"));
  const restore = ["restore", machine.path("backups", file), "--hub", "none", "--yes"];
  return { ...broken, restore: [...restore, ...service] };
}

async function clientsOf(machine: Machine): Promise<string[]> {
  const { document } = await machine.json("list-clients");
  return (document.clients as { name: string }[]).map(({ name }) => name);
}

test("a restore does not wait for the unit, which may be down because of the store, and starts it, whatever unit is named", async () => {
  const { machine, unit, journal, ok, restore, service } = await withBackup();
  // Options that contradict each other, as --unit and --service none, are refused.
  const other = [...restore.slice(0, -service.length), "--service", "none"];
  const restored = await machine.run([...other, "--json"], {
    env: atStep({ "restore.renamed": `touch '${ok}'` }),
  });
  expect([restored.code, restored.stderr]).toEqual([0, expect.stringContaining("restore")]);
  expect(JSON.parse(restored.stdout).service).toMatchObject({ was_active: false, active: true });
  expect(await isActive(unit)).toBe(true);
  expect(existsSync(journal)).toBe(false);
  expect(await clientsOf(machine)).toEqual(["hall"]);
  expect(await systemctl("list-units", "--all", "--type=timer")).not.toContain(unit);
});

test.each([
  { how: "the unit does not start on the restored store either", step: undefined },
  { how: "it is killed while it copies", step: "restore.copied" },
  { how: "it is killed while it stages", step: "restore.staged" },
  { how: "it is killed when all is in place", step: "restore.renamed" },
])(
  "a restore while the unit is down, and $how: the store is as it was, and the unit is started once it can be",
  async ({ step }) => {
    const { machine, unit, journal, ok, restore } = await withBackup();
    const { code, stderr } = await machine.run([...restore], {
      env: step === undefined ? {} : atStep({ [step]: "kill" }),
    });
    expect([code, stderr]).toEqual([step === undefined ? 15 : null, expect.any(String)]);
    expect(await clientsOf(machine)).toEqual(["hall", "kitchen"]);
    expect(existsSync(journal)).toBe(true);
    expect(await isActive(unit)).toBe(false);

    await writeFile(ok, "");
    expect(await clientsOf(machine)).toEqual(["hall", "kitchen"]);
    expect(await isActive(unit)).toBe(true);
    expect(existsSync(journal)).toBe(false);
  },
);
