/** Checks the programs that units name: an upgrade of Node.js may have removed them. */
import { accessSync, constants, statSync } from "node:fs";
import { basename, isAbsolute } from "node:path";
import type { UnitCommand } from "./properties.js";
import type { UnitName } from "./systemctl.js";
import { readCommands } from "./unit-commands.js";

/** A file that a unit needs to start. */
export interface UnitProgram extends UnitName {
  readonly path: string;
  readonly isPresent: boolean;
}

/**
 * Returns the programs and scripts that start these units, with whether each is present: of
 * `node /opt/main.js run -- /srv/hub listen`, all three.
 *
 * @throws {@link StoreError} service - if a manager does not respond
 */
export async function programsOfUnits(units: readonly UnitName[]): Promise<UnitProgram[]> {
  const found: UnitProgram[] = [];
  for (const unit of units) {
    const paths = (await readCommands(unit)).flatMap(programPaths);
    for (const path of new Set(paths)) {
      const isScript = /\.[cm]?js$/.test(path);
      found.push({ ...unit, path, isPresent: isUsable(path, isScript) });
    }
  }
  return found;
}

/** Returns the absolute paths among the programs of a command. */
function programPaths({ path, args, flags }: UnitCommand): string[] {
  if (flags.includes("ignore-failure")) return [];
  const script = /^(?:node|python[\d.]*)$/.test(basename(path)) ? args[1] : undefined;
  const hub = args[args.indexOf("--") + 1];
  const isWrapped = args.includes("--");
  return [path, script, isWrapped ? hub : undefined].filter(
    (each): each is string => each !== undefined && isAbsolute(each),
  );
}

function isUsable(path: string, isScript: boolean): boolean {
  try {
    if (!isScript) accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
