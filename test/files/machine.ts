/** A machine with a store, backups and bundles, for the tests of links and permissions. */
import { readdirSync } from "node:fs";
import type { Machine } from "../cli/machine.js";

/** Options for a store without a service and a hub. */
export const alone = ["--service", "none", "--hub", "none"];

export const init = (machine: Machine) => [
  ...["init", "--recovery-key-file", machine.path("safe", "recovery-key.txt")],
  ...["--to", machine.path("backups"), "--bundle-to", machine.path("bundles")],
];

/** Returns the last file by name in a directory. */
export function newestIn(machine: Machine, folder: string, ending: string): string {
  const names = readdirSync(machine.path(folder)).filter((name) => name.endsWith(ending));
  return machine.path(folder, names.sort().at(-1) ?? "none");
}
