// Loaded before a program (node --import), it kills that program at the step that the environment names, with the
// signal that it names, without leaving it a chance. Or it runs a shell command there, HIVEMIND_TEST_COMMAND, and lets
// the program go on; or makes the keyring keep something else than it is given from there on (HIVEMIND_TEST_KEEP_WRONG);
// or writes down every step, in the file that HIVEMIND_TEST_STEPS names.
import { execSync } from "node:child_process";
import { subscribe } from "node:diagnostics_channel";
import { appendFileSync } from "node:fs";

const {
  HIVEMIND_TEST_STEP: step,
  HIVEMIND_TEST_SIGNAL: signal = "SIGKILL",
  HIVEMIND_TEST_COMMAND: command,
  HIVEMIND_TEST_KEEP_WRONG: keepWrong,
  HIVEMIND_TEST_STEPS: log,
} = process.env;

subscribe("hivemind-sqlcipher:step", (reached) => {
  if (log) appendFileSync(log, `${reached}\n`);
  if (reached !== step) return;
  if (command) execSync(command, { shell: "/bin/bash", stdio: "ignore" });
  else if (keepWrong) giveWrong();
  else process.kill(process.pid, signal);
});

// Loaded beforehand, and only where it is wanted: it takes a while.
const keytar = keepWrong && (await import("keytar")).default;

function giveWrong() {
  const { setPassword } = keytar;
  keytar.setPassword = (service, account, password) =>
    setPassword(service, account, `${password} and more`);
}
