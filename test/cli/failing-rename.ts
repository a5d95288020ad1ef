import { writeFile } from "node:fs/promises";
import type { Machine } from "./machine.js";

/**
 * Returns variables with which the command cannot create a file name with this ending: link and
 * rename fail as on a mount point.
 */
export async function failingRename(
  machine: Machine,
  end: string,
): Promise<{ NODE_OPTIONS: string }> {
  const path = machine.path("failing-rename.cjs");
  await writeFile(
    path,
    `const promises = require("node:fs/promises");
for (const name of ["link", "rename"]) {
  const original = promises[name];
  promises[name] = async (from, to) => {
    if (to.endsWith(${JSON.stringify(end)})) throw Object.assign(new Error("busy"), { code: "EBUSY" });
    return original(from, to);
  };
}
require("node:module").syncBuiltinESMExports();
`,
  );
  return { NODE_OPTIONS: `--require ${path}` };
}
