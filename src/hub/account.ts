/** The account of a hub of the system's manager. */
import type { HubAccount } from "../config/hub-account.js";
import { run } from "../process/run.js";
import { readEnvironment } from "../service/hub-units.js";
import { queryLimitMs, show } from "../service/systemctl.js";

/**
 * Returns the account of the hub of a unit of the system.
 *
 * @returns undefined if there is no such user
 * @throws {@link StoreError} service - if the manager does not respond
 */
export async function accountOfUnit(name: string): Promise<HubAccount | undefined> {
  const [unit = {}] = await show("systemd", ["User"], [name]);
  const { stdout } = await run("getent", ["passwd", unit.User || "root"], {
    timeoutMs: queryLimitMs,
  });
  const [, , uid, gid] = stdout.split(":");
  if (uid === undefined || gid === undefined) return undefined;
  const environment = await readEnvironment({ manager: "systemd", name });
  return { environment, uid: Number(uid), gid: Number(gid) };
}
