// Loaded before a program (NODE_OPTIONS=--import=…). Runs a shell command when the program first
// reaches a step. HIVEMIND_TEST_AT_STEP is a JSON object from steps to commands. The command "kill"
// kills the program.
import { execSync } from "node:child_process";
import { subscribe } from "node:diagnostics_channel";

const commands = JSON.parse(process.env.HIVEMIND_TEST_AT_STEP ?? "{}");

subscribe("hivemind-sqlcipher:step", (step) => {
  const command = commands[step];
  delete commands[step];
  if (command === "kill") process.kill(process.pid, "SIGKILL");
  else if (command !== undefined) execSync(command, { stdio: "inherit" });
});
