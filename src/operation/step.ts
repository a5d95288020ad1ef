/**
 * The seam at which tests stop an operation: each step that has been reached is published on a diagnostics
 * channel. Nobody listens outside the tests; whoever does is called before `reached` returns, so a listener that
 * kills the process kills it exactly there.
 */
import { channel } from "node:diagnostics_channel";

/** The channel's name; a message is the step's name, as "backup.stopped". */
export const stepChannelName = "hivemind-sqlcipher:step";

const steps = channel(stepChannelName);

/** Says that `step` of an operation has been reached and what it stands for is done. */
export function emitStep(step: string): void {
  if (steps.hasSubscribers) steps.publish(step);
}
