/**
 * A keyring that does not answer while something is settled: what needs none is done all the same.
 */
import { readdir } from "node:fs/promises";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { root } from "../built.js";
import { World } from "./world.js";

test("the plaintext file does not wait for the keyring, and it is said how to do without one that is gone for good", async () => {
  const world = await World.of("plain-schema2.db");
  const killed = await world.run("encrypt", world.withoutService, {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify({ "encrypt.starting": "kill" }),
  });
  expect(killed.signal).toBe("SIGKILL");
  const replaced = async () =>
    (await readdir(dirname(world.path))).filter((name) => name.endsWith(".replaced"));
  expect(await replaced()).toHaveLength(1);
  const nowhere = { DBUS_SESSION_BUS_ADDRESS: `unix:path=${world.folder}/nowhere` };
  const settle = (env: Record<string, string>) => world.drive(["settle", world.path], env);
  // The new passphrase becomes the current one first; once it is, only forgetting is left.
  expect((await settle(nowhere)).error).toMatchObject({
    kind: "passphraseUnavailable",
    hint: expect.stringContaining(`move the journal away: mv '${world.path}.journal.json'`),
  });
  const steps = {
    NODE_OPTIONS: `--import=${root}test/faults/at-step.mjs`,
    HIVEMIND_TEST_AT_STEP: JSON.stringify({ "encrypt.cleaning": "kill" }),
  };
  expect((await settle(steps)).signal).toBe("SIGKILL");
  expect((await settle(nowhere)).error?.kind).toBe("passphraseUnavailable");
  expect(await replaced()).toEqual([]);
  expect((await settle({})).error).toBeUndefined();
  expect(await world.leftovers()).toEqual([]);
});
