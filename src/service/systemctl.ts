/** systemd's managers, the user's and the system's, spoken to by `systemctl`. */
import { StoreError } from "../errors.js";
import { type Outcome, run } from "../process/run.js";
import { type Properties, parseProperties } from "./properties.js";

export type Manager = "systemd-user" | "systemd";

/** A question is answered in milliseconds; a manager that is reloading a large system takes seconds. */
export const queryLimitMs = 30_000;

export function systemctl(
  manager: Manager,
  args: readonly string[],
  timeoutMs = queryLimitMs,
): Promise<Outcome> {
  return run("systemctl", [...scopeOf(manager), "--no-pager", "--no-ask-password", ...args], {
    timeoutMs,
  });
}

/**
 * Properties of units, a record for each unit in the order asked for; a unit need not exist.
 *
 * @throws StoreError `service` if the manager does not answer.
 */
export async function show(
  manager: Manager,
  properties: readonly string[],
  units: readonly string[],
): Promise<Properties[]> {
  const args = ["show", `--property=${properties.join(",")}`, "--", ...units];
  const outcome = await systemctl(manager, args);
  if (outcome.code !== 0) throw managerError(manager, outcome);
  return parseProperties(outcome.stdout);
}

/** Says that a manager cannot be asked, and what to do about it. */
export function managerError(manager: Manager, { stderr }: Outcome): StoreError {
  const words = stderr ? `: ${stderr}` : "";
  return new StoreError("service", `systemd does not answer ${inManager(manager)}${words}`, {
    hint:
      manager === "systemd-user"
        ? "run this in a login session of the user that the hub runs as (loginctl enable-linger USER gives one that lasts)"
        : "use --service none, or --stop-command and --start-command",
  });
}

/** The option that names a manager, to `systemctl`, `systemd-run` and `journalctl` alike. */
export function scopeOf(manager: Manager): string[] {
  return manager === "systemd-user" ? ["--user"] : [];
}

export function inManager(manager: Manager): string {
  return manager === "systemd-user" ? "in the user's manager" : "in the system's manager";
}
