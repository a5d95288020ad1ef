/**
 * A swap whose service did not come up, killed while the old file was being put back, and its timer
 * lost: a power cut. And a swap after whose power cut the keyring lacks its last writes.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { newClient } from "../../src/client/client.js";
import { deleteEntry, type Slot } from "../../src/keys/keyring.js";
import { openWithSource } from "../../src/keys/unlock.js";
import { identify } from "../../src/store/cipher.js";
import { root, testProgram } from "../built.js";
import { property, systemctl } from "../service/units.js";
import { World } from "./world.js";

const atStep = (commands: Record<string, string>) => ({
  NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
  HIVEMIND_TEST_AT_STEP: JSON.stringify(commands),
});

/** A unit that starts only while the file `ok` is there. */
async function withFlag(before: readonly string[] = []): Promise<{ world: World; ok: string }> {
  const world = await World.of("sqlcipher4-schema2.db");
  const ok = join(world.folder, "ok");
  await writeFile(ok, "");
  const more = before.length > 0 ? `ExecStartPre=${before.join(" ")} ${world.path}` : "";
  await world.startUnit(`ExecStartPre=/usr/bin/test -e ${ok}\n${more}`);
  return { world, ok };
}

async function cutOff(before: readonly string[] = []): Promise<World> {
  const { world, ok } = await withFlag(before);
  const steps = { "rotate.starting": `rm '${ok}'`, "rotate.reverting": "kill" };
  const killed = await world.run("rotate", {}, atStep(steps));
  expect(killed.signal).toBe("SIGKILL");
  const journal = await readFile(`${world.path}.journal.json`, "utf8");
  const [timer = ""] = /hivemind-sqlcipher-restart-\w+/.exec(journal) ?? [];
  await systemctl("stop", `${timer}.timer`);
  await systemctl("reset-failed", world.unit).catch(() => undefined);
  await writeFile(ok, "");
  return world;
}

test("if the new file was written to since, it stays", async () => {
  const world = await cutOff();
  await systemctl("start", world.unit);
  const store = await openWithSource(world.path, { kind: "keyring" }, { mode: "readwrite" });
  const id = await store.nextClientId();
  await store.addItem(newClient({ client_id: id, api_key: "added since" }));
  await store.close();
  const started = await property(world.unit, "InvocationID");

  expect((await world.settle()).result).toEqual(["finished the interrupted rotate"]);
  expect((await world.rows()).at(-1)).toContain("added since");
  expect(await property(world.unit, "InvocationID")).toBe(started);
  expect(await world.leftovers()).toEqual([]);
  // The old passphrase's too, for older backups.
  expect(await world.bundles()).toHaveLength(2);
  expect(await world.bundles()).toContain((await identify(world.path)).keyId);
});

test("if something is written to the new file while the service is stopped again, it stays", async () => {
  const { world, ok } = await withFlag();
  const add = `${process.execPath} '${root}dist/cli/main.js' add-client --name late --db '${world.path}'`;
  const steps = {
    "rotate.starting": `rm '${ok}'`,
    "rotate.reverting": `touch '${ok}'; ${add} >&2`,
  };
  const ran = await world.run("rotate", {}, atStep(steps));
  expect(ran.error?.message).toContain("was written to in the meantime, so the new file stays");
  expect(await world.isActive).toBe(true);
  expect((await world.settle()).result).toEqual(["finished the interrupted rotate"]);
  expect((await world.rows()).at(-1)).toContain("late");
  expect(await world.isActive).toBe(true);
  expect(await world.leftovers()).toEqual([]);
});

test("the unit itself may settle as it starts, as run does: it is not stopped by that", async () => {
  const settle = [process.execPath, testProgram("swap/driver"), "settle"];
  const world = await cutOff(settle);
  await systemctl("start", world.unit);
  expect(await world.isActive).toBe(true);
  expect(await world.leftovers()).toEqual([]);
  expect(Object.keys(await world.slots())).toEqual(["current"]);
});

test.each<[string, Slot]>([
  ["renamed", "pending"],
  ["cleaning", "current"],
])(
  "encrypt cut off at %s, and the keyring lost the passphrase: the plain store is put back",
  async (step, lost) => {
    const world = await World.of("plain-schema1.db");
    const before = await world.rows();
    const steps = atStep({ [`encrypt.${step}`]: "kill" });
    expect((await world.run("encrypt", world.withoutService, steps)).signal).toBe("SIGKILL");
    expect(await deleteEntry(world.path, lost)).toBe(true);

    const { error } = await world.settle();
    expect(error).toEqual({
      kind: "wrongPassphrase",
      message: expect.stringMatching(/lost the passphrase of .*; the replaced store was put back$/),
    });
    expect(await world.rows()).toEqual(before);
    expect(await world.slots()).toEqual({});
    expect(await world.leftovers()).toEqual([]);
    expect((await world.settle()).result).toEqual([]);
  },
);
