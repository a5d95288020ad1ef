// Loaded before a program (NODE_OPTIONS=--import=…). Runs the shell command in
// HIVEMIND_TEST_AT_RENAME once, just before the program renames a file whose name ends with
// HIVEMIND_TEST_RENAMED.
import { execSync } from "node:child_process";
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";

const { rename } = fs.promises;
let command = process.env.HIVEMIND_TEST_AT_RENAME;

fs.promises.rename = async (from, to) => {
  if (command && from.endsWith(process.env.HIVEMIND_TEST_RENAMED)) {
    execSync(command, { stdio: "inherit" });
    command = undefined;
  }
  return rename(from, to);
};

syncBuiltinESMExports();
