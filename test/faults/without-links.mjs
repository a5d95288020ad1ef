// Loaded before a program (NODE_OPTIONS=--import=…). Disables hard links, as on FAT. Kills the
// program after an empty file has claimed a name that ends with HIVEMIND_TEST_KILL_AT, and before
// the staged file gets it.
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";

const { rename } = fs.promises;

fs.promises.link = async (_from, to) => {
  const code = fs.existsSync(to) ? "EEXIST" : "EPERM";
  throw Object.assign(new Error(code), { code });
};

fs.promises.rename = async (from, to) => {
  const ending = process.env.HIVEMIND_TEST_KILL_AT;
  const isClaimed = fs.statSync(to, { throwIfNoEntry: false })?.size === 0;
  if (ending && isClaimed && to.endsWith(ending)) process.kill(process.pid, "SIGKILL");
  return rename(from, to);
};

syncBuiltinESMExports();
