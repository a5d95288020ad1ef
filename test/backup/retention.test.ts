import fc from "fast-check";
import { expect, test } from "vitest";
import { applyRetention, type KeepPolicy, type KeepRule } from "../../src/backup/retention.js";

interface Backup {
  createdAt: string;
}

const backup = (createdAt: string): Backup => ({ createdAt });
const times = (backups: readonly Backup[]) => backups.map(({ createdAt }) => createdAt);

/** Seconds over some years, dense enough that days, weeks and months have several backups each. */
const someBackups = fc
  .uniqueArray(fc.integer({ min: 0, max: 800 }), { maxLength: 60 })
  .map((quarters) =>
    quarters.map((quarter) =>
      backup(new Date(Date.UTC(2024, 10, 20) + quarter * 6 * 3_600_000).toISOString()),
    ),
  );
const number = fc.option(fc.integer({ min: 0, max: 8 }), { nil: undefined });
const somePolicy: fc.Arbitrary<KeepPolicy> = fc.record({
  last: number,
  daily: number,
  weekly: number,
  monthly: number,
});

function keptTimes(backups: readonly Backup[], policy: KeepPolicy): string[] {
  return times(applyRetention(backups, policy).kept.map((kept) => kept.backup));
}

test("days, ISO weeks and months keep the newest backup of each", () => {
  const backups = [
    "2025-01-01T12:00:00Z", // Wednesday of the week that began in the old year
    "2024-12-31T23:59:59Z",
    "2024-12-30T00:00:00Z", // Monday of that week
    "2024-12-29T23:59:59Z", // Sunday of the week before
    "2024-12-01T00:00:00Z",
    "2024-11-30T23:59:59Z",
  ].map(backup);
  expect(keptTimes(backups, { daily: 2 })).toEqual([
    "2025-01-01T12:00:00Z",
    "2024-12-31T23:59:59Z",
  ]);
  expect(keptTimes(backups, { weekly: 2 })).toEqual([
    "2025-01-01T12:00:00Z",
    "2024-12-29T23:59:59Z",
  ]);
  expect(keptTimes(backups, { monthly: 5 })).toEqual([
    "2025-01-01T12:00:00Z",
    "2024-12-31T23:59:59Z",
    "2024-11-30T23:59:59Z",
  ]);
  expect(applyRetention(backups, { last: 1, monthly: 1 }).kept).toEqual([
    { backup: backups[0], rules: ["last", "monthly"] },
  ]);
});

test("a period begins at midnight of the local time zone, or of UTC", () => {
  const { TZ } = process.env;
  process.env.TZ = "Pacific/Auckland";
  try {
    // A Sunday and a Monday in UTC, and the last day of May; in Auckland all are Monday, 1 June.
    const backups = ["2026-06-01T11:00:00Z", "2026-05-31T23:00:00Z"].map(backup);
    for (const rule of ["daily", "weekly", "monthly"] as const) {
      expect(applyRetention(backups, { [rule]: 9 }).kept).toHaveLength(1);
      expect(applyRetention(backups, { [rule]: 9 }, true).kept).toHaveLength(2);
    }
  } finally {
    if (TZ === undefined) delete process.env.TZ;
    else process.env.TZ = TZ;
  }
});

test("a day without a backup does not use up a daily rule", () => {
  const backups = ["2026-05-20T00:00:00Z", "2026-05-03T00:00:00Z", "2026-01-01T00:00:00Z"].map(
    backup,
  );
  expect(keptTimes(backups, { daily: 3 })).toEqual(times(backups));
});

test("every backup is either kept or removable, whatever their order", () => {
  fc.assert(
    fc.property(someBackups, somePolicy, fc.integer(), (backups, policy, seed) => {
      const { kept, removable } = applyRetention(backups, policy);
      const both = [...times(kept.map((each) => each.backup)), ...times(removable)];
      expect(both.sort()).toEqual(times(backups).sort());
      const shuffled = [...backups].sort((a, b) =>
        hash(a.createdAt, seed) < hash(b.createdAt, seed) ? -1 : 1,
      );
      expect(applyRetention(shuffled, policy)).toEqual({ kept, removable });
    }),
  );
});

function hash(text: string, seed: number): number {
  return [...text].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) | 0, seed);
}

test("the newest backup stays under every policy that keeps anything", () => {
  fc.assert(
    fc.property(someBackups, somePolicy, (backups, policy) => {
      const { kept, removable } = applyRetention(backups, policy);
      const keeps = Object.values(policy).some((count) => (count ?? 0) > 0);
      if (!keeps) expect(kept).toEqual([]);
      else if (backups.length > 0) {
        const newest = times(backups).sort().at(-1);
        expect(kept[0]?.backup.createdAt).toBe(newest);
      }
      for (const { rules } of kept) expect(rules.length).toBeGreaterThan(0);
      expect(times(removable)).toEqual(times(removable).sort().reverse());
    }),
  );
});

test("a rule keeps as many as it says, or as many as there are periods", () => {
  const period: Record<Exclude<KeepRule, "weekly">, (at: string) => string> = {
    last: (at) => at,
    daily: (at) => at.slice(0, 10),
    monthly: (at) => at.slice(0, 7),
  };
  fc.assert(
    fc.property(someBackups, somePolicy, (backups, policy) => {
      const { kept } = applyRetention(backups, policy);
      for (const rule of ["last", "daily", "monthly"] as const) {
        const keptByRule = kept.filter(({ rules }) => rules.includes(rule));
        const there = new Set(times(backups).map(period[rule])).size;
        expect(keptByRule).toHaveLength(Math.min(policy[rule] ?? 0, there));
      }
    }),
  );
});

test("a larger number never removes more, and a second run removes nothing", () => {
  fc.assert(
    fc.property(
      someBackups,
      somePolicy,
      fc.constantFrom<KeepRule>("last", "daily", "weekly", "monthly"),
      (backups, policy, rule) => {
        const kept = keptTimes(backups, policy);
        const larger = keptTimes(backups, { ...policy, [rule]: (policy[rule] ?? 0) + 1 });
        expect(larger).toEqual(expect.arrayContaining(kept));
        expect(keptTimes(kept.map(backup), policy)).toEqual(kept);
      },
    ),
  );
});
