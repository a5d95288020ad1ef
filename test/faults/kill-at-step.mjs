// Loaded before a program (node --import), it kills that program at the step that the environment names, with the
// signal that it names: once, and without leaving it a chance.
import { subscribe } from "node:diagnostics_channel";

const { HIVEMIND_TEST_STEP: step, HIVEMIND_TEST_SIGNAL: signal = "SIGKILL" } = process.env;

subscribe("hivemind-sqlcipher:step", (reached) => {
  if (reached === step) process.kill(process.pid, signal);
});
