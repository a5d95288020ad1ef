/**
 * The disk of the bundles or of the backups is taken out while an operation that was killed has
 * something on it. The store and its hub do not wait for it; it is said, and the rest is done when
 * it is back.
 */
import { mkdir, readdir, rename, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { root } from "../built.js";
import { Machine } from "../cli/machine.js";

const alone = ["--service", "none"];

async function killedAt(step: string, command: string[]): Promise<Machine> {
  const machine = await Machine.make();
  await machine.init(
    "--bundle-to",
    machine.path("usb", "bundles"),
    "--to",
    machine.path("backups"),
  );
  await mkdir(machine.path("config", "hivemind-core"), { recursive: true });
  await writeFile(
    machine.path("config", "hivemind-core", "server.json"),
    '{"database": {"module": "hivemind-sqlite-db-plugin", "hivemind-sqlite-db-plugin": {}}, "network_protocol": {}}',
  );
  await machine.run(["backup", ...alone]);
  const killed = await machine.run(command, {
    env: {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({ [step]: "kill" }),
    },
  });
  expect(killed.code).toBe(null);
  return machine;
}

const rotate = ["rotate", ...alone, "--hub", "none"];
const backup = ["backup", ...alone];

test.each([
  { step: "rotate.bundled", command: rotate, disk: "usb/bundles", left: /\.age$/ },
  { step: "backup.warm", command: backup, disk: "backups", left: /\.db\.\w+\.partial$/ },
  { step: "backup.claimed", command: backup, disk: "backups", left: /json\.\w+\.partial$/ },
])("killed at $step, and the disk is out", async ({ step, command, disk, left }) => {
  const machine = await killedAt(step, command);
  const place = machine.path(disk);
  await rename(place, machine.path("out"));
  expect((await readdir(machine.path("out"))).some((name) => left.test(name))).toBe(true);

  const [operation = ""] = command;
  const said = new RegExp(
    `files of an interrupted ${operation} remain[\\s\\S]*(?:is its disk mounted|Mount its disk)`,
  );
  for (const reading of [
    ["list-clients"],
    ["add-client", "--name", "x"],
    ["run", "--", "/bin/true"],
  ]) {
    const { code, stderr } = await machine.run(reading);
    expect(stderr).toMatch(said);
    expect(code).toBe(0);
  }
  // What begins an operation needs the journal's place, or the disk itself.
  const refused = await machine.run(rotate);
  expect(refused.code).toBe(18);
  expect(refused.stderr).toMatch(/is its disk mounted|Mount its disk/);
  if (command === backup) expect(refused.stderr).toMatch(/gone for good: rm \S+journal/);

  await rename(machine.path("out"), place);
  const after = await machine.run(["list-clients"]);
  expect(after.code).toBe(0);
  const names = await readdir(place);
  expect(names.filter((name) => name.endsWith(".partial"))).toEqual([]);
  // Of the rotation that was undone there is none; a backup that was verified is completed, any
  // other removed.
  const endings = command === rotate ? [".age"] : [".db", ".manifest.json"];
  for (const ending of endings) {
    const expected = step === "backup.claimed" ? 2 : 1;
    expect(names.filter((name) => name.endsWith(ending))).toHaveLength(expected);
  }
  expect((await machine.run(rotate)).code).toBe(0);
});
