import { readdir, readFile, readlink, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { keyringService } from "../../src/keys/keyring.js";
import { Connection } from "../../src/store/connection.js";
import type { UpgradeSchemaResult } from "../../src/swap/upgrade-schema.js";
import { root } from "../built.js";
import { property } from "../service/units.js";
import { passphraseFile, type Ran, resultOf, World } from "./world.js";

/** The files that the unit's process has open in the store's folder. */
async function openInStoreFolder(world: World): Promise<string[]> {
  const fds = `/proc/${await property(world.unit, "MainPID")}/fd`;
  const targets = (await readdir(fds)).map((fd) => readlink(`${fds}/${fd}`).catch(() => ""));
  return (await Promise.all(targets)).filter((target) => target.startsWith(world.path));
}

test("a unit that something starts in the moment before the rename does not stay on the file that is gone", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  await world.startUnit();
  resultOf(
    await world.run(
      "rotate",
      {},
      {
        NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
        HIVEMIND_TEST_AT_STEP: JSON.stringify({
          "rotate.aside": `systemctl --user start ${world.unit}`,
        }),
      },
    ),
  );
  const open = await openInStoreFolder(world);
  expect(open).toContain(world.path);
  expect(open.join()).not.toContain("deleted");
});

test("nor when the old file is put back: what its timer starts between the stop and the rename is started anew", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  const ok = `${world.folder}/ok`;
  await writeFile(ok, "");
  await world.startUnit(`ExecStartPre=/usr/bin/test -e ${ok}`);
  const ran = await world.run(
    "rotate",
    {},
    {
      NODE_OPTIONS: ["at-step", "at-rename"]
        .map((name) => `--import=${root}test/faults/${name}.mjs`)
        .join(" "),
      HIVEMIND_TEST_AT_STEP: JSON.stringify({
        "rotate.starting": `rm '${ok}'`,
        "rotate.reverting": `touch '${ok}'`,
      }),
      HIVEMIND_TEST_RENAMED: ".replaced",
      HIVEMIND_TEST_AT_RENAME: `systemctl --user start ${world.unit}`,
    },
  );
  expect(ran.error?.message).toMatch(/was put back/);
  const open = await openInStoreFolder(world);
  expect(open).toContain(world.path);
  expect(open.join()).not.toContain("deleted");
});

test("a unit that something starts before the commit, which then fails, keeps running", async () => {
  const world = await World.of("sqlcipher4-schema2.db");
  await world.startUnit();
  const invocation = `${world.folder}/invocation`;
  const ran = await world.run(
    "rotate",
    {},
    {
      NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
      HIVEMIND_TEST_AT_STEP: JSON.stringify({
        "rotate.committing": `systemctl --user start ${world.unit} && systemctl --user show --property=InvocationID --value ${world.unit} >'${invocation}'`,
      }),
    },
  );
  expect(ran.error).toMatchObject({
    kind: "service",
    message: expect.stringContaining(`something started ${world.unit} during the work`),
  });
  const started = (await readFile(invocation, "utf8")).trim();
  expect(await property(world.unit, "InvocationID")).toBe(started);
  expect(await world.leftovers()).toEqual([]);
});

/** Rotates, and runs a shell command at a step. */
function rotateWith(command: string, step: string, world: World, more = {}): Promise<Ran> {
  return world.run(
    "rotate",
    { ...world.withoutService, ...more },
    {
      NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
      HIVEMIND_TEST_STEPS: `${world.folder}/steps`,
      HIVEMIND_TEST_STEP: `rotate.${step}`,
      HIVEMIND_TEST_COMMAND: command,
    },
  );
}

test.each([
  ["as the service is stopped", "stopping", "held"],
  ["after it was exported", "filled", "aside"],
])(
  "a store that somebody opens without a lock %s is let be, before anything more is done",
  async (_, step, next) => {
    const world = await World.of("sqlcipher4-schema2.db");
    const [rows, slots] = [await world.rows(), await world.slots()];
    const pidFile = `${world.folder}/pid`;
    const open = `exec 9<'${world.path}'; sleep 600 & echo $! >'${pidFile}'`;
    const ran = await rotateWith(open, step, world);
    const pid = Number(await readFile(pidFile, "utf8"));
    process.kill(pid);
    expect(ran.error).toMatchObject({
      kind: "inUse",
      message: expect.stringContaining(`is open in ${pid} (sleep)`),
    });
    expect(await readFile(`${world.folder}/steps`, "utf8")).not.toContain(`rotate.${next}\n`);
    expect(await world.rows()).toEqual(rows);
    expect(await world.slots()).toEqual(slots);
    expect(await world.leftovers()).toEqual([]);
  },
);

test.each(["keyring", "file"] as const)(
  "another passphrase that comes in the place of the new one, in the %s, before the store is replaced: nothing is changed",
  async (kind) => {
    const world = await World.of("sqlcipher4-schema2.db");
    const [rows, slots] = [await world.rows(), await world.slots()];
    const old = await passphraseFile(world, slots.current ?? "");
    const next = await passphraseFile(world, "the next one");
    const entry = `service ${keyringService} account '${world.path}#pending'`;
    const ran =
      kind === "keyring"
        ? await rotateWith(
            `printf another | secret-tool store --label=x ${entry}`,
            "bundled",
            world,
          )
        : await rotateWith(`echo another >'${next}'`, "bundled", world, {
            source: { kind: "file", path: old },
            passphraseFile: next,
          });
    expect(ran.error).toMatchObject({
      kind: "passphraseUnavailable",
      message: expect.stringContaining("no longer has the new passphrase"),
    });
    expect(await world.rows()).toEqual(rows);
    expect(await world.slots()).toEqual(slots);
    expect(await world.leftovers()).toEqual([]);
  },
);

test("upgrade-schema asks about every value that is lost, and refuses one that appears after the question", async () => {
  const world = await World.of("plain-schema1.db");
  const connection = await Connection.open(world.path, { mode: "readwrite" });
  await connection.run(
    "UPDATE clients SET intent_blacklist = ?, skill_blacklist = ?, message_blacklist = ? WHERE client_id = 3",
    ['{"skill-a":1}', '"ab"', '{"m":1}'],
  );
  await connection.run(
    "UPDATE clients SET intent_blacklist = ?, metadata = ? WHERE client_id = 1",
    ['["a"]', '{"intent_blacklist":[ "a" ],"message_blacklist":[]}'],
  );
  await connection.close();
  await world.startUnit();
  const declined = await world.run("upgrade-schema", { yes: false });
  expect(declined.code).toBe(17);
  const agreed = async (command: string) =>
    world.run<UpgradeSchemaResult>(
      "upgrade-schema",
      {},
      {
        NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
        HIVEMIND_TEST_AT_STEP: JSON.stringify({ "upgrade-schema.stopping": command }),
      },
    );
  const added = `sqlite3.connect("${world.path}", isolation_level=None).execute("UPDATE clients SET message_blacklist = '[1]' WHERE client_id = 1")`;
  const refused = await agreed(`python3 -c 'import sqlite3; ${added.replaceAll("'", `'"'"'`)}'`);
  expect(refused.questions.join()).toContain(
    [
      "3: its message blacklist",
      "  3: its intent blacklist (column intent_blacklist): not a list",
      "  3: its skill blacklist (column skill_blacklist): not a list",
      "  4: its metadata: not an object",
    ].join("\n"),
  );
  expect(refused.questions.join()).not.toContain("  1:");
  expect(refused.error).toMatchObject({
    kind: "refused",
    message: expect.stringContaining(
      "lost without a confirmation: client 1: its message blacklist",
    ),
  });
  expect(await world.isActive).toBe(true);
  expect((await world.rows()).join()).toContain('"skill_blacklist":"\\"ab\\""');
  const { upgraded } = resultOf(await agreed("true"));
  expect(upgraded).toMatchObject({ from: 1, to: 2 });
  expect(upgraded.dropped).toContainEqual(
    expect.objectContaining({ clientId: "1", what: "its message blacklist" }),
  );
});
