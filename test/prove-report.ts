/** What a suite tried and how much of it failed, for the table that scripts/prove prints. */
import { appendFileSync } from "node:fs";

/**
 * Adds one line to the file that PROVE_REPORT names; without one, does nothing. Called before the suite's own
 * expectation, so that a failure is in the table as well.
 */
export function report(what: string, tried: number, failed: number): void {
  const path = process.env.PROVE_REPORT;
  if (path !== undefined) appendFileSync(path, `${JSON.stringify({ what, tried, failed })}\n`);
}

/** Whether the larger form of a suite is wanted (scripts/prove), or the short one (scripts/test). */
export const proving = process.env.PROVE === "1";
