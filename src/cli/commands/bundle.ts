import type { Command } from "commander";
import { addCommandGroup } from "../command.js";
import { addExport } from "./bundle-export.js";
import { addImport } from "./bundle-import.js";
import { addPrint } from "./bundle-print.js";
import { addShow } from "./bundle-show.js";

export function addCommand(program: Command): void {
  const group = addCommandGroup(program, "bundle", "Manage the passphrase bundles of the store");
  addExport(group);
  addImport(group);
  addShow(group);
  addPrint(group);
}
