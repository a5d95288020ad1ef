import type { LastRun, Schedule } from "../../service/schedule.js";

/** @param logCommand - shows the log of the scheduled job */
export function scheduleLines(schedule: Schedule, logCommand: string): string[] {
  return [
    `timer         ${schedule.unit}, ${schedule.enabled ? "enabled" : "not enabled"}, ${schedule.active ? "active" : "not active"}`,
    `when          ${schedule.onCalendar ?? "see its unit file"}`,
    `next run      ${schedule.nextRun ?? "none"}`,
    `last run      ${formatLastRun(schedule.lastRun)}`,
    ...schedule.dropIns.map((path) => `drop-in       ${path}`),
    `log           ${logCommand}`,
  ];
}

/** Returns how the last scheduled backup ended. */
export function formatLastRun(run: LastRun | null): string {
  if (run === null) return "none yet";
  if (run.result === null) return `${run.at}, before this boot or login; the log has the result`;
  if (run.result === "exit-code") return `${run.at}, failed with exit code ${run.exitCode}`;
  return `${run.at}, ${run.result}`;
}

/** @param command - starts the user manager at boot */
export function lingerWarning(command: string): string {
  return `the timer runs only while you are logged in; to start it at boot: ${command}`;
}
