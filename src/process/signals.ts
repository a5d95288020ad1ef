/** SIGINT, SIGTERM and SIGHUP as an AbortSignal. */
import { constants } from "node:os";
import { StoreError } from "../errors.js";
import { currentInteraction, withInteraction } from "./interaction.js";

/** Returns whether Ctrl-C aborts the running work, or ends the process as it does by default. */
export function isInterruptible(): boolean {
  return currentInteraction().signal !== undefined || process.listenerCount("SIGINT") === 0;
}

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Runs `work` with an AbortSignal, aborted by the first SIGINT, SIGTERM or SIGHUP.
 *
 * Ignores later signals of the system, because the work is then undoing its changes and starting
 * the service again. A nested call passes on the AbortSignal of the outer call.
 */
export async function abortOnSignal<Result>(
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const { signal } = currentInteraction();
  if (signal) return await work(signal);
  const controller = new AbortController();
  const abort = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) return;
    process.stderr.write("\ninterrupted: cleaning up before exit\n");
    controller.abort(
      new StoreError("interrupted", `interrupted by ${name} (${constants.signals[name]})`),
    );
  };
  for (const name of signals) process.on(name, abort);
  try {
    return await withInteraction({ signal: controller.signal }, () => work(controller.signal));
  } finally {
    for (const name of signals) process.off(name, abort);
  }
}
