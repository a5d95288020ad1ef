import { readdir, readlink, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { root } from "../built.js";
import { property } from "../service/units.js";
import { resultOf, World } from "./world.js";

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
          "rotate.committing": `systemctl --user start ${world.unit}`,
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
