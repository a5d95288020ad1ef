/** Formats the parts of results as lines of text. */
import type { ClientCounts } from "../../client/client.js";
import type { ServiceReport } from "../../operation/service.js";
import type { LastRun } from "../../service/schedule-state.js";

type FieldValue = string | number | null | undefined | readonly string[];

/**
 * Returns a line for each value, after its label. Leaves out values that are missing; a list has a
 * line for each element.
 *
 * @param width - the width of the labels
 */
export function fieldLines(
  fields: Readonly<Record<string, FieldValue>>,
  width = 12,
  indent = "  ",
): string[] {
  return Object.entries(fields).flatMap(([label, value]) =>
    [value ?? []].flat().map((each) => `${indent}${label.padEnd(width)}${each}`),
  );
}

export function formatCounts({ active, revoked }: ClientCounts): string {
  return `${active} active, ${revoked} revoked`;
}

export function describePassphrase(source: string): string {
  return `in ${source === "keyring" ? "the keyring" : source}`;
}

/** Returns how long the service was stopped; null if it was not. */
export function describeDowntime({
  unit,
  stoppedMs,
  listeningMs,
}: Pick<ServiceReport, "unit" | "stoppedMs" | "listeningMs">): string | null {
  if (stoppedMs === null) return null;
  const again = listeningMs === null ? "" : `; it listened again after ${listeningMs} ms`;
  return `${unit ?? "the service"} was stopped for ${stoppedMs} ms${again}`;
}

export function formatLastRun(run: LastRun | null): string {
  if (run === null) return "none yet";
  if (run.result === null) return `${run.at}, before this boot or login; the log has the result`;
  if (run.result === "exit-code") return `${run.at}, failed with exit code ${run.exitCode}`;
  return `${run.at}, ${run.result}`;
}
