/** The unit that writes the copy of `server.json` for the container of a compose file. */
import { readGroups } from "../process/cgroup.js";
import { formatFailure, ownManager, show, systemctl, unitError } from "./systemctl.js";

export const copyUnit = "hivemind-sqlcipher-copy.service";

/** Returns whether this process belongs to the unit. */
export function isInCopyUnit(): boolean {
  return readGroups(process.pid).includes(`/${copyUnit}`);
}

/**
 * How long the unit may wait for the keyring. A recovery of the restart timer may take longer.
 */
export const renewLimitMs = 40_000;

/**
 * Writes the copy again. Does nothing if this user has no such unit.
 *
 * @throws {@link StoreError} service - if the unit fails
 */
export async function renewCopy(): Promise<void> {
  const manager = ownManager();
  const [unit = {}] = await show(manager, ["LoadState"], [copyUnit]);
  if (unit.LoadState === "not-found") return;
  const outcome = await systemctl(manager, ["restart", copyUnit], renewLimitMs);
  if (outcome.code === 0) return;
  throw unitError(
    manager,
    `${copyUnit} did not write the copy of server.json${formatFailure(outcome)}`,
    copyUnit,
  );
}
