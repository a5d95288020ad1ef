/**
 * The step channel, with which tests stop an operation at a chosen step.
 *
 * A subscriber is called before `emitStep` returns: if it kills the process, it does so exactly
 * there. Nothing subscribes outside the tests.
 */
import { channel } from "node:diagnostics_channel";

/** The channel's name. Its messages are names of steps, such as "backup.stopped". */
export const stepChannelName = "hivemind-sqlcipher:step";

const steps = channel(stepChannelName);

/** Publishes the end of a step of an operation. */
export function emitStep(step: string): void {
  if (steps.hasSubscribers) steps.publish(step);
}
