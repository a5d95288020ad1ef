// Loaded before a program (node --import). Kills the program at the step in the environment with
// the signal there. Alternatively runs the shell command in HIVEMIND_TEST_COMMAND at the step,
// makes the keyring store other secrets from there on (HIVEMIND_TEST_KEEP_WRONG), or records every
// step in the file in HIVEMIND_TEST_STEPS.
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

// Load keytar in advance and only if needed, because loading takes time.
const keytar = keepWrong && (await import("keytar")).default;

function giveWrong() {
  const { setPassword } = keytar;
  keytar.setPassword = (service, account, password) =>
    setPassword(service, account, `${password} and more`);
}
