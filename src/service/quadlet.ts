/** Podman quadlets: files `NAME.container`, from which a systemd generator makes units. */
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { configHome } from "../config/paths.js";
import { run } from "../process/run.js";
import { type Manager, queryLimitMs, show, type UnitName } from "./systemctl.js";

export interface Quadlet {
  /** The file `NAME.container`. */
  readonly file: string;
  /** The path of this program's drop-in for it. */
  readonly dropIn: string;
}

/** Returns the quadlet of a unit; undefined if the unit is not generated from one. */
export async function findQuadlet({ manager, name }: UnitName): Promise<Quadlet | undefined> {
  const [unit = {}] = await show(manager, ["SourcePath"], [name]);
  const file = unit.SourcePath ?? "";
  if (!file.endsWith(".container")) return undefined;
  // The file may belong to a package, or to root. The drop-in then goes into the directory of the
  // administrator, or for a user unit into that of the user.
  const [ownDirectory, isForeign] =
    manager === "systemd"
      ? ["/etc/containers/systemd", /^\/(?:usr|run)\//.test(file)]
      : [join(configHome(), "containers", "systemd"), /^\/(?:usr|etc|run)\//.test(file)];
  const directory = isForeign ? ownDirectory : dirname(file);
  return { file, dropIn: join(directory, `${basename(file)}.d`, "50-hivemind-sqlcipher.conf") };
}

/** The prefixes of systemd's directories of generators, in order of precedence. */
const generatorPrefixes = ["/run", "/etc", "/usr/local/lib", "/usr/lib", "/lib"];

/**
 * Returns the version of Podman's generator; undefined if none is installed. It can differ from the
 * version of the `podman` on PATH.
 */
export async function quadletVersion(manager: Manager): Promise<string | undefined> {
  const scope = manager === "systemd" ? "system" : "user";
  const generator = generatorPrefixes
    .map((prefix) => `${prefix}/systemd/${scope}-generators/podman-${scope}-generator`)
    .find((path) => existsSync(path));
  if (generator === undefined) return undefined;
  const { code, stdout } = await run(generator, ["-version"], { timeoutMs: queryLimitMs });
  return code === 0 ? stdout.trim() : undefined;
}

/** Returns whether a version of the generator reads drop-ins: since Podman 5.0. */
export function readsDropIns(version: string | undefined): boolean {
  return version !== undefined && Number.parseInt(version, 10) >= 5;
}
