import { StoreError } from "../errors.js";

/**
 * `error`: data can be lost or is exposed now. `warning`: this needs one further failure. `note`:
 * nothing is wrong.
 */
export type Severity = "error" | "warning" | "note";

export interface Check {
  readonly name: string;
  /** False for a finding. */
  readonly ok: boolean;
  readonly severity: Severity;
  readonly detail: string;
  /**
   * The fix: a command line, or a sentence that may end with `: ` and a command line. Null if
   * nothing is wrong.
   */
  readonly fix: string | null;
}

/** Returns functions that create the checks of a name: a good check, or a finding with its fix. */
export function checksNamed(name: string) {
  const findingOf =
    (severity: Severity) =>
    (detail: string, fix: string): Check => ({ name, ok: false, severity, detail, fix });
  return {
    good: (detail: string): Check => ({ name, ok: true, severity: "note", detail, fix: null }),
    warning: findingOf("warning"),
    error: findingOf("error"),
  };
}

/** Runs a group of checks. An error becomes a finding under the group's name. */
export async function attempt(
  name: string,
  group: () => Promise<Check | Check[]>,
): Promise<Check[]> {
  try {
    return [await group()].flat();
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const fix = error.hint ?? "Remove the cause, then run doctor again.";
    return [checksNamed(name).warning(`could not be checked: ${error.message}`, fix)];
  }
}
