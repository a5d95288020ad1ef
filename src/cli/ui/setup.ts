/** Formats the plan and the result of a setup or its undo as lines of text. */
import { homedir } from "node:os";
import { describeSource } from "../../keys/source.js";
import type { Obstacle } from "../../setup/obstacles.js";
import type { Plan, PlanStep } from "../../setup/plan.js";
import type { SetupResult } from "../../setup/request.js";
import type { Outage } from "../../setup/serving.js";
import type { Survey } from "../../setup/survey.js";
import type { UndoResult } from "../../setup/undo.js";
import { counted } from "../../text/count.js";
import type { Context } from "../context.js";
import { describePassphrase, fieldLines } from "./lines.js";

export function planLines({ hubs, storePath, record }: Survey, { steps, notices }: Plan): string[] {
  const [hub] = hubs;
  // What is there before a setup has begun is no step to a user.
  const shown = record === undefined ? steps.filter(({ state }) => state === "needed") : steps;
  if (hub === undefined || steps.length === 0) return [`No plan for ${storePath} yet:`];
  return [
    `Plan for ${hub.name} (${hub.manager}):`,
    ...stepLines(shown),
    "",
    ...notices.map((notice) => `note: ${abbreviateHome(notice)}`),
  ];
}

function stepLines(steps: readonly PlanStep[]): string[] {
  return steps.flatMap(({ changes, undo, state }, index) => {
    const text = `${index + 1}. ${state === "done" ? "done: " : ""}${abbreviateHome(changes)}`;
    return state === "done" ? [`  ${text}`] : [`  ${text}`, `     undo: ${undo}`];
  });
}

/** Returns the steps of an undo, without the way to undo them: setup. */
export function undoStepLines(steps: readonly PlanStep[]): string[] {
  return steps.map(({ changes }, index) => `  ${index + 1}. ${abbreviateHome(changes)}`);
}

/** Shortens paths for a terminal: a plan names a dozen in the home directory. */
function abbreviateHome(text: string): string {
  return text.replaceAll(`${homedir()}/`, "~/");
}

export function obstacleLines({ problem, fix }: Obstacle): string[] {
  return [`obstacle: ${problem}`, ...fix.split("\n").map((line) => `  ${line}`)];
}

/** Returns the paths, and what belongs into a safe: at most 15 lines. */
export function setupLines(
  { source }: Context,
  found: Survey,
  result: SetupResult,
  findings: readonly { name: string }[],
  known: { onlineBackups: boolean; recoveryKeyFile: string | undefined },
  program: string,
): string[] {
  const { outage, backup } = result;
  const { backups, bundles } = found.directories;
  const names = findings.map(({ name }) => name).join(", ");
  return [
    `${result.unit} runs on the encrypted store ${result.store}`,
    ...fieldLines({ passphrase: describePassphrase(describeSource(source)) }),
    ...outageLines(outage),
    `  backups     ${backups}${result.schedule === null ? "" : `, ${describeTimes(found)}${known.onlineBackups ? ", without stopping the hub" : ""}`}`,
    ...(backup === null
      ? []
      : [
          `  verified    ${backup.path}${backup.tested ? ", with its bundle and the recovery key" : ""}`,
        ]),
    `  bundles     ${bundles}`,
    `  undo        ${program} setup --undo`,
    ...(result.plainCopy === null
      ? []
      : [`  plain text  ${result.plainCopy} was kept: it has changed`]),
    "Put into a safe, in different places:",
    `  the recovery key${recoveryKeyLine(result, known.recoveryKeyFile)}`,
    `  a copy of the bundle${backup === null ? "" : ` ${backup.bundle}`}`,
    findings.length === 0
      ? "doctor found no problems."
      : `doctor: ${counted(findings.length, "finding")} (${names}); ${program} doctor has the fixes.`,
  ];
}

function recoveryKeyLine({ recoveryKey }: SetupResult, file: string | undefined): string {
  if (file !== undefined) return `, ${file}: move it off this machine`;
  return recoveryKey === "new" ? " that you have written down" : " in use";
}

/** Returns the times of the timer: an active timer keeps its times. */
function describeTimes({ schedule }: Survey): string {
  const { active, onCalendar } = schedule ?? {};
  return !active || !onCalendar || onCalendar === "*-*-* 00:00:00" ? "daily" : `at ${onCalendar}`;
}

function outageLines(outage: Outage | null): string[] {
  if (outage === null) return [];
  const { stoppedMs: stopped, listeningMs: listening } = outage;
  const again =
    listening === null ? "" : `; listened again after ${(listening / 1000).toFixed(1)} s`;
  return [
    `  outage      stopped for ${stopped} ms${again}; satellites reconnect some seconds later`,
  ];
}

export function undoLines({ unit, database, kept, outage }: UndoResult): string[] {
  return [
    outage === null
      ? `${unit}, which does not run, uses ${database} again`
      : `${unit} runs on ${database} again`,
    ...outageLines(outage),
    ...(kept.backup === null ? [] : [`  backup      ${kept.backup}`]),
    ...(kept.store === null ? [] : [`  encrypted   ${kept.store}`]),
    "The settings, the passphrase, backups and bundles stay.",
  ];
}
