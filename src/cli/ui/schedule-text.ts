import type { LastRun, Schedule } from "../../service/schedule.js";

export function scheduleLines(schedule: Schedule): string[] {
  return [
    `timer         ${schedule.unit}, ${schedule.enabled ? "enabled" : "not enabled"}, ${schedule.active ? "running" : "not running"}`,
    `when          ${schedule.on_calendar ?? "see its file"}`,
    `next run      ${schedule.next_run ?? "none"}`,
    `last run      ${formatLastRun(schedule.last_run)}`,
    ...schedule.drop_ins.map((path) => `drop-in       ${path}`),
    `log           journalctl --user --unit ${schedule.service}`,
  ];
}

/** How the last scheduled backup went, in words. */
export function formatLastRun(run: LastRun | null): string {
  if (run === null) return "none yet";
  if (run.result === null) return `${run.at}, before this session: how it went is in its log`;
  if (run.result === "exit-code") return `${run.at}, failed with exit code ${run.exit_code}`;
  return `${run.at}, ${run.result}`;
}

export function formatLinger(): string {
  return "the timer runs only while you are logged in; to have it run from boot on: loginctl enable-linger";
}
