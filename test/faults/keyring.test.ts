/**
 * The keyring is locked, ends, or keeps something else than it is given, in the middle of an
 * operation: the operation fails, or was done already; and when the keyring is back, the next
 * command puts the rest right.
 */
import { rm } from "node:fs/promises";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { root } from "../built.js";
import { OwnBus } from "../keys/own-keyring.js";
import { proving } from "../prove-report.js";
import { fixturePassphrases } from "../store/temporary.js";
import { resultOf, World } from "../swap/world.js";

const password = "open sesame";
let bus: OwnBus;

beforeAll(async () => {
  bus = await OwnBus.start();
  bus.enter();
  await bus.startKeyring(password);
});

afterAll(async () => {
  await bus[Symbol.asyncDispose]();
});

const lock =
  "busctl --user call org.freedesktop.secrets /org/freedesktop/secrets org.freedesktop.Secret.Service Lock ao 1 /org/freedesktop/secrets/collection/login";
const end =
  "kill -KILL $(busctl --user call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus GetConnectionUnixProcessID s org.freedesktop.secrets | cut -d' ' -f2)";

const faults: [string, Record<string, string>][] = [
  ["is locked", { HIVEMIND_TEST_COMMAND: lock }],
  ["ends", { HIVEMIND_TEST_COMMAND: end }],
  ["keeps something else than it is given", { HIVEMIND_TEST_KEEP_WRONG: "1" }],
];

const steps = ["staging", "pending-kept", "staged", "bundled", "synced", "renamed", "promoted"];

interface Looked {
  readonly rows: string[];
  readonly slots: string[];
}

/** In a process of its own: this one would go on speaking to a daemon that is gone. */
const look = async (world: World) => resultOf(await world.drive<Looked>(["look", world.path]));

async function worldOf(fixture: string): Promise<World> {
  const world = await World.make(fixture, false);
  onTestFinished(() => rm(world.folder, { recursive: true, force: true }));
  const current = fixturePassphrases[fixture as keyof typeof fixturePassphrases];
  if (current !== undefined) {
    await world.drive(["keep", world.path, JSON.stringify({ current })]);
  }
  return world;
}

/**
 * All of them with scripts/prove; otherwise each fault where it hurts most, and one of them
 * everywhere.
 */
const all = proving;
const worst = ["bundled", "renamed"];

for (const [operation, fixture] of [
  ["rotate", "sqlcipher4-schema2.db"],
  ["encrypt", "plain-schema1.db"],
] as const) {
  for (const [what, env] of faults) {
    const tried = all || (operation === "rotate" && env === faults[0]?.[1]) ? steps : worst;
    test.each(tried)(`${operation}: the keyring ${what} after "%s"`, async (step) => {
      const world = await worldOf(fixture);
      const before = await look(world);
      const ran = await world.run(operation, world.withoutService, {
        NODE_OPTIONS: `--import=${root}test/faults/kill-at-step.mjs`,
        HIVEMIND_TEST_STEP: `${operation}.${step}`,
        ...env,
      });
      expect([0, 13]).toContain(ran.code);
      await bus.shell("gnome-keyring-daemon --replace --unlock --components=secrets", password);
      await bus.keyringIs("ready");

      // As it was left, and after the next command.
      expect((await look(world)).rows).toEqual(before.rows);
      const next = await world.settle();
      expect(next.error).toBeUndefined();
      expect(await world.leftovers()).toEqual([]);
      const { rows, slots } = await look(world);
      expect(rows).toEqual(before.rows);
      // Where only tidying up needs the keyring, it says that the rest is done.
      const isDone = ran.code === 0 || /^the store is replaced/.test(ran.error?.message ?? "");
      expect(slots).toEqual(isDone ? ["current"] : before.slots);
    });
  }
}
