import { StoreError } from "../errors.js";

/**
 * `error`: data can be lost or is exposed now. `warning`: this needs one further failure. `note`:
 * nothing is wrong.
 */
export type Severity = "error" | "warning" | "note";

/** The result of one check of `doctor`. */
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

export function good(name: string, detail: string): Check {
  return { name, ok: true, severity: "note", detail, fix: null };
}

export function finding(
  name: string,
  severity: Exclude<Severity, "note">,
  detail: string,
  fix: string,
): Check {
  return { name, ok: false, severity, detail, fix };
}

/** Runs a group of checks. An error becomes a finding under the group's name. */
export async function attempt(name: string, group: () => Promise<Check[]>): Promise<Check[]> {
  try {
    return await group();
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const fix = error.hint ?? "Remove the cause, then run doctor again.";
    return [finding(name, "warning", `could not be checked: ${error.message}`, fix)];
  }
}
