// Loaded before a program (NODE_OPTIONS=--import=…), it runs a shell command when the program reaches a step, once for
// each: HIVEMIND_TEST_AT_STEP is a JSON object of steps and commands. The command "kill" kills the program there.
import { execSync } from "node:child_process";
import { subscribe } from "node:diagnostics_channel";

const commands = JSON.parse(process.env.HIVEMIND_TEST_AT_STEP ?? "{}");

subscribe("hivemind-sqlcipher:step", (step) => {
  const command = commands[step];
  delete commands[step];
  if (command === "kill") process.kill(process.pid, "SIGKILL");
  else if (command !== undefined) execSync(command, { stdio: "inherit" });
});
