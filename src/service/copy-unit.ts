/** The unit that writes the copy of `server.json` for the container of a compose file. */
import { join } from "node:path";
import { configHome } from "../config/paths.js";
import { sha256Hex } from "../fs/read.js";
import { readGroups } from "../process/cgroup.js";
import {
  formatFailure,
  ownManager,
  runtimeDirectory,
  show,
  systemctl,
  systemUnits,
  type UnitName,
  unitError,
} from "./systemctl.js";

export interface CopyUnit extends UnitName {
  /** The path of the unit's file. */
  readonly file: string;
  /** The name of the copy's directory, below the directory for files in memory. */
  readonly directory: string;
  /** The path of the copy. */
  readonly copy: string;
}

/**
 * Returns the unit of a store, which need not exist. It is named after a hash of the store's path,
 * so the hubs of a user do not share it.
 */
export function copyUnitOf(storePath: string): CopyUnit {
  const manager = ownManager();
  const units = manager === "systemd" ? systemUnits : join(configHome(), "systemd", "user");
  const store = sha256Hex(storePath).slice(0, 8);
  const name = `hivemind-sqlcipher-copy-${store}.service`;
  const directory = `hivemind-sqlcipher-${store}`;
  const copy = join(runtimeDirectory(), directory, "server.json");
  return { manager, name, file: join(units, name), directory, copy };
}

/** Returns whether this process belongs to the unit of a store. */
export function isInCopyUnit(): boolean {
  return /\/hivemind-sqlcipher-copy-[\da-f]{8}\.service(?:\/|$)/m.test(readGroups(process.pid));
}

/**
 * How long the unit may wait for the keyring. A recovery of the restart timer may take longer.
 */
export const renewLimitMs = 40_000;

/**
 * Writes the copy of a store's hub again. Does nothing if this user has no such unit.
 *
 * @throws {@link StoreError} service - if the unit fails
 */
export async function renewCopy(storePath: string): Promise<void> {
  const { manager, name } = copyUnitOf(storePath);
  const [unit = {}] = await show(manager, ["LoadState"], [name]);
  if (unit.LoadState === "not-found") return;
  const outcome = await systemctl(manager, ["restart", name], renewLimitMs);
  if (outcome.code === 0) return;
  throw unitError(
    manager,
    `${name} did not write the copy of server.json${formatFailure(outcome)}`,
    name,
  );
}
