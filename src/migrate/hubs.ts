/** The hubs that use the database of a migration. */
import { StoreError } from "../errors.js";
import { currentAccount, findHubUnitAccount } from "../hub/account.js";
import { findHubProcesses, findHubUnits, formatStopCommand } from "../hub/find-hubs.js";
import { findHubPython, type HubPython } from "../hub/interpreter.js";
import { resolveProbeAccount } from "../hub/probe.js";
import { serverJsonPath } from "../hub/server-json.js";
import type { Account } from "../process/run.js";
import { type HubUnit, prefer } from "../service/hub-units.js";
import { systemctlLine } from "../service/systemctl.js";
import { shellQuote } from "../text/escape.js";

/** A hub's interpreter, and its account. */
export interface TestedHub {
  readonly python: HubPython;
  readonly account: Account;
}

/**
 * Returns the interpreters of the units to start the hub; without a unit, the interpreter of the
 * hub on PATH. Skips units neither active nor enabled, but uses them if there is no other unit.
 */
export async function findHubs(
  units: readonly HubUnit[],
  hubPython: string | undefined,
): Promise<TestedHub[]> {
  const candidates = prefer(units, ({ isActive, isEnabled }) => isActive || isEnabled);
  const starts =
    candidates.length === 0
      ? [{ args: undefined, account: currentAccount() }]
      : await Promise.all(
          candidates.map(async (unit) => ({
            args: unit.command,
            account: await findHubUnitAccount(unit),
          })),
        );
  const hubs = new Map<string, TestedHub>();
  for (const { args, account: unitAccount } of starts) {
    const { environment } = unitAccount;
    const python = await findHubPython({ hubPython, args, environment });
    if (python === undefined) continue;
    const account = await resolveProbeAccount(python, unitAccount);
    // Two units may run the same Python as different users.
    hubs.set(JSON.stringify([python, account.uid]), { python, account });
  }
  return [...hubs.values()];
}

/**
 * Checks that no hub runs, and that no unit is between two starts of a crash loop. A running hub
 * reads the source again on each connection, and would have no clients once the source is removed.
 *
 * @throws {@link StoreError} refused - if a hub runs, or a unit is not stopped
 */
export async function assertNoHubRuns(): Promise<void> {
  const [hub] = await findHubProcesses(serverJsonPath());
  if (hub !== undefined) {
    const name = hub.unit?.name ?? `process ${hub.pid}`;
    throw new StoreError("refused", `${name} is a running hub: its database cannot be removed`, {
      hint: `Stop it first: ${formatStopCommand(hub)}`,
    });
  }
  const units = await findHubUnits(serverJsonPath());
  const unit = units.find(({ isActive }) => isActive);
  if (unit === undefined) return;
  throw new StoreError("refused", `${unit.name} is not stopped: its database cannot be removed`, {
    hint: `Stop it first: ${systemctlLine(unit.manager, `stop ${shellQuote(unit.name)}`)}`,
  });
}
