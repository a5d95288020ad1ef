import type { Command } from "commander";
import { addCommandGroup } from "../context.js";
import { addExport } from "./bundle-export.js";
import { addImport } from "./bundle-import.js";
import { addPrint } from "./bundle-print.js";
import { addShow } from "./bundle-show.js";

export function addCommand(program: Command): void {
  const bundle = addCommandGroup(
    program,
    "bundle",
    "the passphrase bundle: what opens the backups",
  );
  addExport(bundle);
  addImport(bundle);
  addShow(bundle);
  addPrint(bundle);
}
