/** The times of timers, as systemd parses and prints them. See systemd.time(7). */
import { StoreError } from "../errors.js";
import { type Outcome, run } from "../process/run.js";
import { queryLimitMs } from "./systemctl.js";

/**
 * Checks the value of OnCalendar=. systemd itself accepts a timer with all times past.
 *
 * @throws {@link StoreError} usage - if systemd does not accept the text, or all times are past
 */
export async function assertElapses(onCalendar: string): Promise<void> {
  const example = "--on-calendar daily, or 'Mon *-*-* 03:30'";
  const analysis = await analyze("calendar", onCalendar, example);
  if (!/Next elapse: never/.test(analysis)) return;
  const message = `no time from now on matches ${onCalendar}: the timer would never elapse`;
  throw new StoreError("usage", message, {
    hint: "Give a time that recurs, as in --on-calendar daily; see systemd.time(7).",
  });
}

/**
 * Checks a length of time.
 *
 * @throws {@link StoreError} usage - if systemd does not accept the text
 */
export async function assertTimeSpan(text: string): Promise<void> {
  await analyze("timespan", text, "--random-delay 15min");
}

/** Returns the next time from now on, without the random delay; null if there is none. */
export async function findNextElapse(onCalendar: string): Promise<string | null> {
  const { stdout } = await callAnalyze("calendar", onCalendar);
  // The line in UTC is printed only if the local time is another.
  const [, time] = /\(in UTC\): (.*)/.exec(stdout) ?? /Next elapse: (.*)/.exec(stdout) ?? [];
  return parseTime(time);
}

/**
 * Returns systemd's analysis of the text. Throws `usage` with systemd's message if the text is
 * invalid.
 */
async function analyze(
  kind: "calendar" | "timespan",
  text: string,
  example: string,
): Promise<string> {
  const { code, stdout, stderr } = await callAnalyze(kind, text);
  if (code === 0) return stdout;
  const reason = stderr.split("\n")[0] || `invalid ${kind} "${text}"`;
  const what = kind === "calendar" ? "calendar expression" : "time span";
  throw new StoreError("usage", `systemd does not accept this ${what}: ${reason}`, {
    hint: `Write it as in ${example}; see systemd.time(7).`,
  });
}

function callAnalyze(kind: "calendar" | "timespan", text: string): Promise<Outcome> {
  return run("systemd-analyze", [kind, "--", text], {
    timeoutMs: queryLimitMs,
    // The times of a timer are local times.
    outputVariables: { LC_ALL: "C", SYSTEMD_COLORS: "0" },
  });
}

/** Parses a time such as "Tue 2026-11-24 18:50:00 UTC". Returns null if there is none. */
export function parseTime(text: string | undefined): string | null {
  const [, day, time] = /(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)/.exec(text ?? "") ?? [];
  return day === undefined ? null : `${day}T${time}Z`;
}
