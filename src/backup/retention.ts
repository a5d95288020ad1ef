/**
 * Applies a retention policy to backups, by the same rules as restic.
 *
 * A rule keeps the newest backup of each of the most recent periods with a backup: `daily: 7` keeps
 * the newest backup of each of the last seven days that have a backup, not those of the last week.
 * A backup stays if any rule keeps it. Days, ISO weeks and months begin at midnight of the local
 * time zone, or of UTC, the time zone of the dates in backups' names.
 */

/** The number of periods for each rule. An absent rule or 0 keeps nothing. */
export interface KeepPolicy {
  readonly last?: number | undefined;
  readonly daily?: number | undefined;
  readonly weekly?: number | undefined;
  readonly monthly?: number | undefined;
}

export type KeepRule = keyof KeepPolicy;

export interface Kept<Backup> {
  readonly backup: Backup;
  readonly rules: readonly KeepRule[];
}

export interface Retention<Backup> {
  readonly kept: Kept<Backup>[];
  readonly removable: Backup[];
}

/** A day, as midnight UTC of the same date. */
type CalendarDay = Date;

/** For each rule, returns the name of a backup's period from its day and its index by age. */
const periods: { readonly [Rule in KeepRule]: (day: CalendarDay, index: number) => string } = {
  last: (_day, index) => String(index),
  daily: (day) => day.toISOString().slice(0, 10),
  weekly: isoWeek,
  monthly: (day) => day.toISOString().slice(0, 7),
};

const rules = Object.keys(periods) as KeepRule[];

export function keepsSomething(policy: KeepPolicy): boolean {
  return rules.some((rule) => (policy[rule] ?? 0) > 0);
}

/**
 * Divides backups into kept and removable ones by a policy, both newest first.
 *
 * @param backups - in any order; `Date.parse` reads `createdAt`
 * @param utc - whether days begin at midnight UTC
 */
export function applyRetention<Backup extends { readonly createdAt: string }>(
  backups: readonly Backup[],
  policy: KeepPolicy,
  utc = false,
): Retention<Backup> {
  const newestFirst = [...backups].sort(
    (a, b) => Date.parse(b.createdAt) - Date.parse(a.createdAt),
  );
  const seen = new Map<KeepRule, Set<string>>(rules.map((rule) => [rule, new Set()]));
  const kept: Kept<Backup>[] = [];
  const removable: Backup[] = [];
  for (const [index, backup] of newestFirst.entries()) {
    const day = calendarDay(new Date(backup.createdAt), utc);
    const keeping = rules.filter((rule) => {
      const periodsSeen = seen.get(rule) ?? new Set();
      const period = periods[rule](day, index);
      if (periodsSeen.has(period) || periodsSeen.size >= (policy[rule] ?? 0)) return false;
      periodsSeen.add(period);
      return true;
    });
    if (keeping.length > 0) kept.push({ backup, rules: keeping });
    else removable.push(backup);
  }
  return { kept, removable };
}

function calendarDay(at: Date, utc: boolean): CalendarDay {
  return utc
    ? new Date(Date.UTC(at.getUTCFullYear(), at.getUTCMonth(), at.getUTCDate()))
    : new Date(Date.UTC(at.getFullYear(), at.getMonth(), at.getDate()));
}

/**
 * Returns the ISO 8601 week, such as `2026-W48`. A week begins on Monday and belongs to the year of
 * its Thursday.
 */
function isoWeek(day: CalendarDay): string {
  const weekday = (day.getUTCDay() + 6) % 7;
  const thursday = new Date(day.getTime() + (3 - weekday) * 86_400_000);
  const year = thursday.getUTCFullYear();
  const week = Math.floor((thursday.getTime() - Date.UTC(year, 0, 1)) / (7 * 86_400_000)) + 1;
  return `${year}-W${String(week).padStart(2, "0")}`;
}
