/** A machine with a store, backups and bundles, as the tests of links and of permissions set one up and look into it. */
import { readdirSync } from "node:fs";
import type { Machine } from "../cli/machine.js";

/** For a store that no service and no hub uses. */
export const alone = ["--service", "none", "--hub", "none"];

export const init = (machine: Machine) => [
  ...["init", "--recovery-key-file", machine.path("safe", "recovery-key.txt")],
  ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")],
];

/** The last by name in one of its folders. */
export function newestIn(machine: Machine, folder: string, ending: string): string {
  const names = readdirSync(machine.path(folder)).filter((name) => name.endsWith(ending));
  return machine.path(folder, names.sort().at(-1) ?? "none");
}
