/** Reads from a service how it starts its hub. */
import type { ResolvedService } from "../operation/service.js";
import type { Account } from "../process/run.js";
import { inspectContainer, isEngine } from "../service/engine.js";
import { expandScripts } from "../service/hub-units.js";
import { defaultUnit } from "../service/service.js";
import { readCommands } from "../service/unit-commands.js";
import { currentAccount, findUnitAccount } from "./account.js";
import {
  type ContainerHub,
  findContainerOfUnit,
  findContainerPython,
  readContainerHub,
} from "./container-hub.js";
import { findHubPython, type HubPython } from "./interpreter.js";

/**
 * How a service starts its hub. The environment decides on the hub's `server.json` and its data
 * directory.
 */
export interface ServiceHub extends Account {
  /** The arguments of its commands, with `ExecStartPre=` and the words of wrapper scripts. */
  readonly args: readonly string[];
  /** The part of `args` from `ExecStart=`. */
  readonly command: readonly string[];
  /** The container in which the hub runs. */
  readonly container?: ContainerHub;
}

/**
 * Reads a unit's commands and environment. A service that is not a unit has no commands, and is
 * assumed to have the environment of this process.
 *
 * @throws {@link StoreError} service - if the service manager or the engine does not respond
 */
export async function readServiceHub({
  service,
  choice,
}: Pick<ResolvedService, "service" | "choice">): Promise<ServiceHub> {
  if (isEngine(service.kind)) {
    const container = await inspectContainer(service.kind, service.name ?? choice.unit ?? "");
    return {
      ...{ args: [], command: [], environment: process.env },
      ...(container && { container: await readContainerHub(container) }),
    };
  }
  if (service.kind !== "systemd" && service.kind !== "systemd-user") {
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
 * Finds the Python of a service's hub: in its container, if the container runs; with the command
 * and environment of its unit; or of the hub on PATH, if the service has no commands.
 *
 * @param hubPython - the hub's Python, if the operator named it
 * @throws {@link StoreError} usage - if `hubPython` cannot be executed
 */
export function findServicePython(
  { command, environment, container: hub }: Omit<ServiceHub, "args">,
  hubPython?: string,
): Promise<HubPython | undefined> {
  if (hub !== undefined && hubPython === undefined) {
    return Promise.resolve(findContainerPython(hub.container));
  }
  const args = command.length > 0 ? command : undefined;
  return findHubPython({ hubPython, args, environment });
}
