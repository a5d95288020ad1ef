import { access } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { getEntry, setEntry } from "../../src/keys/keyring.js";
import { Machine } from "../cli/machine.js";
import { OwnBus } from "./own-keyring.js";

let bus: OwnBus;

beforeAll(async () => {
  bus = await OwnBus.start();
  bus.enter();
  await bus.startKeyring();
});

afterAll(async () => {
  await bus[Symbol.asyncDispose]();
});

test("init without a collection fails before it makes a recovery key or a store", async () => {
  const machine = await Machine.make();
  const key = machine.path("key.txt");
  const { code, stdout, stderr } = await machine.run(["init", "--recovery-key-file", key]);
  expect([code, stderr]).toEqual([13, expect.stringContaining("has no default collection")]);
  expect(stdout + stderr).not.toMatch(/recovery key/i);
  await expect(access(key)).rejects.toMatchObject({ code: "ENOENT" });
  await expect(access(machine.store)).rejects.toMatchObject({ code: "ENOENT" });
});

test("a daemon without any keyring keeps nothing and says how to make one; the line in the hint makes it", async () => {
  const store = "/srv/clients.db";
  expect(await getEntry(store, "current")).toBeUndefined();
  const error = await setEntry(store, "current", "mine").catch((reason: unknown) => reason);
  expect(error).toMatchObject({
    kind: "passphraseUnavailable",
    message: expect.stringMatching(
      /^gnome-keyring has no default collection to store a passphrase in/,
    ),
  });
  const hint = (error as { hint: string }).hint;
  await bus.shell(/^read .*unset P$/m.exec(hint)?.[0] ?? "no line", "a new password\n");
  await bus.keyringIs("ready");
  const keep = `secret-tool store --label=x service hivemind-sqlcipher account ${store}`;
  await bus.shell(keep, "mine");
  expect(await bus.shell(keep.replace("store --label=x", "lookup"))).toBe("mine");
});
