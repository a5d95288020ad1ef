// Loaded before a program (node --import), it kills that program at the step that the environment names, with the
// signal that it names: once, and without leaving it a chance. Or it writes down every step, in the file that
// HIVEMIND_TEST_STEPS names.
import { subscribe } from "node:diagnostics_channel";
import { appendFileSync } from "node:fs";

const {
  HIVEMIND_TEST_STEP: step,
  HIVEMIND_TEST_SIGNAL: signal = "SIGKILL",
  HIVEMIND_TEST_STEPS: log,
} = process.env;

subscribe("hivemind-sqlcipher:step", (reached) => {
  if (log) appendFileSync(log, `${reached}\n`);
  if (reached === step) process.kill(process.pid, signal);
});
