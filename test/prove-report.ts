/** Records what a suite tried and how much of it failed, for the table of scripts/prove. */
import { appendFileSync } from "node:fs";

/**
 * Adds a line to the file in PROVE_REPORT, if the variable is set. Must be called before the
 * suite's own expectation, so that a failure is in the table as well.
 */
export function report(what: string, tried: number, failed: number): void {
  const path = process.env.PROVE_REPORT;
  if (path !== undefined) appendFileSync(path, `${JSON.stringify({ what, tried, failed })}\n`);
}

/**
 * Whether to run the long form of a suite (scripts/prove) instead of the short form (scripts/test).
 */
export const proving = process.env.PROVE === "1";
