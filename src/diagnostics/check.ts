/** What `doctor` says of one thing. */
import { StoreError } from "../errors.js";

/** `error`: data can be lost or is exposed as things are. `warning`: that is one mishap away. */
export type Severity = "error" | "warning" | "note";

export interface Check {
  readonly name: string;
  /** False makes it a finding. */
  readonly ok: boolean;
  readonly severity: Severity;
  readonly detail: string;
  /** What to type or to do; null where nothing needs to be done. */
  readonly mend: string | null;
}

/** Nothing needs to be done. */
export function good(name: string, detail: string): Check {
  return { name, ok: true, severity: "note", detail, mend: null };
}

export function finding(
  name: string,
  severity: Exclude<Severity, "note">,
  detail: string,
  mend: string,
): Check {
  return { name, ok: false, severity, detail, mend };
}

/** A group of checks; what it could not look at is a finding too, under the group's name. */
export async function attempt(name: string, group: () => Promise<Check[]>): Promise<Check[]> {
  try {
    return await group();
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    const mend = error.hint ?? "make that possible, then run doctor again";
    return [finding(name, "warning", `could not be looked at: ${error.message}`, mend)];
  }
}
