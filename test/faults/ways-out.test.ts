/**
 * An operation that cannot go on names its way out, and the way works: a sample of journals and
 * missing parts. All of them are run by scripts/prove.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { OwnBus } from "../keys/own-keyring.js";
import { proving, report } from "../prove-report.js";
import { numbers } from "./matrix.js";
import { allCases, kinds, nameOf, Ward } from "./ways-out.js";

/** How many cases of each kind are run. */
const sample = Number(process.env.WAYS_OUT_SAMPLE ?? (proving ? 1_000 : 1));
const random = numbers(Number(process.env.MATRIX_SEED ?? 1));

let folder: string;
let bus: OwnBus;
let ward: Ward;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hivemind-ways-out-"));
  bus = await OwnBus.start();
  await bus.startKeyring("password of the keyring");
  await bus.lock();
  const { DBUS_SESSION_BUS_ADDRESS } = bus.environment;
  ward = new Ward(folder, { DBUS_SESSION_BUS_ADDRESS });
});
afterAll(async () => {
  await bus[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

for (const kind of kinds) {
  test(
    `${kind.name}: with any part missing, other commands work, and the way out is named and works`,
    async () => {
      const all = allCases().filter((tried) => tried.kind === kind);
      const shuffled = all.map((tried) => ({ tried, at: random() })).sort((a, b) => a.at - b.at);
      const cases = shuffled.slice(0, sample).map(({ tried }) => tried);
      const wrong: string[] = [];
      let failed = 0;
      for (const tried of cases) {
        const found = await ward.run(tried);
        if (found.length > 0) failed++;
        wrong.push(...found.map((sentence) => `${nameOf(tried)}: ${sentence}`));
      }
      report(`ways out: ${kind.name}`, cases.length, failed);
      expect(wrong).toEqual([]);
    },
    60_000 + sample * 30_000,
  );
}
