/** Checks the programs in units, because an upgrade of Node.js may have removed them. */
import { accessSync, constants, statSync } from "node:fs";
import { basename, isAbsolute } from "node:path";
import { realPathIfExists } from "../fs/read.js";
import { isNode, parseOwnCommand } from "./hub-units.js";
import type { UnitCommand } from "./properties.js";
import type { UnitName } from "./systemctl.js";
import { readCommands } from "./unit-commands.js";

export interface UnitProgram extends UnitName {
  readonly path: string;
  readonly isPresent: boolean;
  /** Whether the file belongs to the hub, not to hivemind-sqlcipher or its Node.js. */
  readonly isHub: boolean;
}

/**
 * Returns the absolute paths of programs and scripts in the commands of units. `/usr/bin/node
 * /opt/main.js run -- /srv/hub listen` has three.
 *
 * @throws {@link StoreError} service - if a manager does not respond
 */
export async function findUnitPrograms(units: readonly UnitName[]): Promise<UnitProgram[]> {
  const found: UnitProgram[] = [];
  for (const unit of units) {
    const { manager, name } = unit;
    const programs = new Map((await readCommands(unit)).flatMap(programPaths));
    for (const [path, isHub] of programs) {
      const isScript = /\.[cm]?js$/.test(path);
      found.push({ manager, name, path, isPresent: isUsable(path, isScript), isHub });
    }
  }
  return found;
}

/**
 * Describes a unit that starts another installation of this program; undefined if none does. An
 * upgrade may have left the former installation in place, and the unit starts it.
 *
 * @param script - the running program's script, with symbolic links resolved
 */
export function describeOtherInstallation(
  programs: readonly UnitProgram[],
  script: string,
): string | undefined {
  const other = programs.find(({ path, isHub }) => {
    if (isHub || parseOwnCommand([path]) === undefined) return false;
    const target = realPathIfExists(path);
    // A shell script may start any installation.
    return target !== script && /\.[cm]?js$/.test(target);
  });
  return (
    other &&
    `${other.name} starts another installation of hivemind-sqlcipher: ${other.path}, not ${script}`
  );
}

/** Returns the absolute paths of programs in a command, and whether each is the hub's. */
function programPaths({ path, args, flags }: UnitCommand): [string, boolean][] {
  if (flags.includes("ignore-failure")) return [];
  const script = isNode(path) || /^python[\d.]*$/.test(basename(path)) ? args[1] : undefined;
  const separator = args.indexOf("--");
  const isWrapped = separator >= 0;
  const hub = isWrapped ? args[separator + 1] : undefined;
  const isOwn =
    isWrapped || basename(path) === "hivemind-sqlcipher" || /\.[cm]?js$/.test(script ?? path);
  // The programs behind any other launcher, such as podman, may be in a container.
  const own = basename(path) === "env" ? parseOwnCommand(args) : undefined;
  const ownPaths = own ? args.slice(own.launcher.length, args.length - own.args.length) : [];
  const programs: [string | undefined, boolean][] = [
    [path, !isOwn],
    [script, !isOwn],
    ...ownPaths.map((each): [string, boolean] => [each, false]),
    [hub, true],
  ];
  return programs.filter(
    (each): each is [string, boolean] => each[0] !== undefined && isAbsolute(each[0]),
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
