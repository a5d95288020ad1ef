/** Reads from a service how it starts its hub. */
import type { ResolvedService } from "../operation/service.js";
import type { Account } from "../process/run.js";
import { inspectContainer, isEngine } from "../service/engine.js";
import { expandScripts } from "../service/hub-units.js";
import { defaultUnit } from "../service/service.js";
import { isManager } from "../service/systemctl.js";
import { readCommands } from "../service/unit-commands.js";
import { currentAccount, findUnitAccount } from "./account.js";
import {
  findContainerOfUnit,
  findContainerPython,
  type InspectedHub,
  readContainerHub,
} from "./container-hub.js";
import { findHubPython, type HubPython } from "./interpreter.js";

/**
 * How a service starts its hub. Without a container, `environment` determines where the hub's
 * `server.json` and data directory are.
 */
export interface ServiceHub extends Account {
  /**
   * The arguments of `ExecStartPre=` and `ExecStart=`. A wrapper script's path is followed by the
   * words in the script. Empty unless the service is a unit.
   */
  readonly args: readonly string[];
  /** The part of `args` from `ExecStart=`. */
  readonly command: readonly string[];
  /** The container of the service; for a unit, only while it runs. */
  readonly container?: InspectedHub;
}

/**
 * Reads the commands, account and container of a service. A service without commands of a unit gets
 * the account of the hub that this process works for.
 *
 * @throws {@link StoreError} service - if the service manager or the engine does not respond
 * @throws {@link StoreError} refused - if the user in the unit's `User=` does not exist
 */
export async function readServiceHub({
  service,
  choice,
}: Pick<ResolvedService, "service" | "choice">): Promise<ServiceHub> {
  if (isEngine(service.kind)) {
    const container = await inspectContainer(service.kind, service.name ?? choice.unit ?? "");
    return {
      args: [],
      command: [],
      environment: process.env,
      ...(container && { container: await readContainerHub(container) }),
    };
  }
  if (!isManager(service.kind)) {
    return { args: [], command: [], ...currentAccount() };
  }
  const unit = { manager: service.kind, name: service.name ?? choice.unit ?? defaultUnit };
  const commands = await readCommands(unit);
  const starts = commands.filter(({ property }) => property === "ExecStart");
  const container = await findContainerOfUnit(unit);
  return {
    args: expandScripts(commands),
    command: expandScripts(starts),
    ...(commands.length === 0 ? currentAccount() : await findUnitAccount(unit)),
    ...(container && { container: await readContainerHub(container) }),
  };
}

/**
 * Finds the Python of a service's hub. Searches only the container if the service has one.
 * Otherwise follows the unit's `ExecStart=`, or the `hivemind-core` on PATH if there is none.
 *
 * @param hubPython - the hub's Python, if the user named it; takes precedence
 * @returns undefined if it is not found, or if the hub in the container does not run
 * @throws {@link StoreError} usage - if `hubPython` cannot be executed
 */
export function findServicePython(
  { command, environment, container }: Omit<ServiceHub, "args">,
  hubPython?: string,
): Promise<HubPython | undefined> {
  if (container !== undefined && hubPython === undefined) {
    return Promise.resolve(findContainerPython(container.container));
  }
  const args = command.length > 0 ? command : undefined;
  return findHubPython({ hubPython, args, environment });
}
