import { readdir } from "node:fs/promises";
import { expect, test } from "vitest";
import { acquireLock } from "../../src/operation/lock.js";
import { Machine } from "./machine.js";

test("bundle export waits for no other operation on the store, and meddles with none: 11", async () => {
  const machine = await Machine.make();
  await machine.init();
  const write = ["bundle", "export", "--bundle-to", machine.path("bundles")];
  const lock = await acquireLock(machine.store);
  expect((await machine.json(...write)).code).toBe(11);
  await lock.release();
  const { code, document } = await machine.json(...write);
  expect(code).toBe(0);
  expect(document.bundle).toEqual({
    path: expect.stringContaining(machine.path("bundles")),
    key_id: expect.stringMatching(/^[0-9a-f]{16}$/),
    recipients: [expect.stringMatching(/^age1/)],
    reused: false,
  });
  expect(await readdir(machine.path("bundles"))).toHaveLength(2);
});
