/** Ctrl-C and its like, for work that must put things right before it ends. */
import { constants } from "node:os";
import { StoreError } from "../errors.js";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Runs work that watches an AbortSignal, which the first SIGINT, SIGTERM or SIGHUP sets off. Further ones are ignored:
 * what is under way then is the service's start.
 */
export async function abortOnSignal<Result>(
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const controller = new AbortController();
  const abort = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) return;
    process.stderr.write("\ninterrupted: putting things right first\n");
    controller.abort(
      new StoreError("interrupted", `interrupted by ${name} (${constants.signals[name]})`),
    );
  };
  for (const name of signals) process.on(name, abort);
  try {
    return await work(controller.signal);
  } finally {
    for (const name of signals) process.off(name, abort);
  }
}
