/** Selects the service of a store. */
import { ignoreKind, isKind, StoreError } from "../errors.js";
import { argsOf } from "../process/cgroup.js";
import { findHolders, findLastingHolders, formatHolders, type Holder } from "../process/holders.js";
import { CommandService } from "./command.js";
import { ContainerService } from "./container.js";
import { type Container, type ContainerName, type Engine, engines, isEngine } from "./engine.js";
import {
  findConfiguredContainers,
  findContainerOf,
  findNamedContainer,
  findUnitOfContainer,
  isHubOfContainer,
} from "./find-container.js";
import { type HubUnit, isOwnCommand, listHubUnits, mayBeHubOf, runsHub } from "./hub-units.js";
import { noService } from "./none.js";
import { findOrigin, findUnitOf } from "./origin.js";
import { defaultUnit, type Service, type ServiceKind } from "./service.js";
import {
  describeManager,
  isManager,
  type Manager,
  managers,
  serviceOptions,
  shortUnitName,
  show,
  type UnitName,
} from "./systemctl.js";
import { SystemdUnit } from "./systemd.js";

export interface ServiceChoice {
  readonly service: "auto" | ServiceKind;
  /**
   * The name of the systemd unit or of the container. Without a name, the service is found by the
   * processes that have the store open, else by unit files and the mounts of containers.
   */
  readonly unit?: string | undefined;
  /** Shell commands. With `auto`, they take precedence over a unit. */
  readonly stopCommand?: string | undefined;
  readonly startCommand?: string | undefined;
  /** The store's resolved path. */
  readonly storePath: string;
  /** Saves a discovered service in the settings, after it has passed its checks. */
  readonly remember?: ((found: Service) => Promise<void>) | undefined;
}

/** A unit or a container, found by the path of a store. */
type FoundService = UnitName | ContainerName;

/**
 * Returns the service of a store. `auto` selects, in this order: the operator's commands; the named
 * unit or container; the unit or container of the process that has the store open; the unit or
 * container configured for the store; the default unit; no service.
 *
 * @throws {@link StoreError} usage - if a command is missing, or the name cannot be a unit's
 * @throws {@link StoreError} notFound - if no container of the chosen engine uses the store
 * @throws {@link StoreError} inUse - with `auto`, if no service was found and a process has the
 *   store open
 * @throws {@link StoreError} refused - if several services qualify
 * @throws {@link StoreError} service - if the chosen manager or engine does not respond
 */
export async function selectService(choice: ServiceChoice): Promise<Service> {
  const { service, unit } = choice;
  switch (service) {
    case "none":
      return noService();
    case "command": {
      const commands = commandService(choice);
      if (commands) return commands;
      throw new StoreError("usage", "--service command needs --stop-command and --start-command");
    }
    case "systemd-user":
    case "systemd": {
      if (unit !== undefined) return SystemdUnit.find(service, unit);
      const found = await findService(choice.storePath, [service]);
      return found ?? SystemdUnit.find(service, defaultUnit);
    }
    case "podman":
    case "docker": {
      if (unit !== undefined) return ContainerService.find(service, unit);
      return (await findService(choice.storePath, [service])) ?? throwNoContainer(choice);
    }
    case "auto":
      return (
        commandService(choice) ??
        (unit === undefined
          ? await findService(choice.storePath, [...managers, ...engines])
          : ((await findNamedUnit(unit, choice.storePath)) ??
            (await findNamedContainerService(unit)))) ??
        (await resolveNoService(choice))
      );
  }
}

function commandService(choice: ServiceChoice): CommandService | undefined {
  const { stopCommand, startCommand, storePath } = choice;
  if (!stopCommand && !startCommand) return undefined;
  if (!stopCommand || !startCommand) {
    throw new StoreError("usage", "--stop-command and --start-command belong together", {
      hint: `Add ${stopCommand ? "--start-command" : "--stop-command"}.`,
    });
  }
  return new CommandService({ stopCommand, startCommand, storePath });
}

/**
 * Finds a unit by name. If both managers have it, prefers a unit with the store open, then a
 * running unit.
 */
export async function findNamedUnit(
  name: string,
  storePath: string,
): Promise<SystemdUnit | undefined> {
  const found: SystemdUnit[] = [];
  for (const manager of managers) {
    const unit = await SystemdUnit.find(manager, name).catch(ignoreKind("service", undefined));
    if (unit?.isUsable) found.push(unit);
  }
  if (found.length < 2) return found[0];
  for (const { pid } of (await findHolders(storePath)).holders) {
    for (const unit of found) if (await unit.owns(pid)) return unit;
  }
  for (const unit of found) if ((await unit.state()).active) return unit;
  return found[0];
}

async function findNamedContainerService(name: string): Promise<ContainerService | undefined> {
  const options = engines.map((engine) => optionsOf({ engine, name }));
  const found = await findNamedContainer(name, `Name the engine: ${options.join(", or ")}.`);
  return found && ContainerService.find(found.engine, found.name);
}

/**
 * Finds the unit or container of the hub that uses the store, by the processes that have it open,
 * else by the unit's file or the container's mounts. Falls back to the default unit if that is
 * installed.
 */
async function findService(
  storePath: string,
  kinds: readonly (Manager | Engine)[],
): Promise<Service | undefined> {
  const found =
    assertAtMostOne(await findServicesOfHolders(storePath, kinds), storePath) ??
    (await findConfiguredService(storePath, kinds));
  if (found !== undefined) return toService(found);
  for (const manager of kinds.filter(isManager)) {
    const unit = await SystemdUnit.find(manager, defaultUnit).catch(
      ignoreKind("service", undefined),
    );
    if (unit?.isUsable) return unit;
  }
  return undefined;
}

function toService(found: FoundService): Promise<Service> {
  const options = { isDiscovered: true };
  return "manager" in found
    ? SystemdUnit.find(found.manager, shortUnitName(found.name), options)
    : ContainerService.find(found.engine, found.name, options);
}

async function findServicesOfHolders(
  storePath: string,
  kinds: readonly (Manager | Engine)[],
): Promise<FoundService[]> {
  const services = new Map<string, FoundService>();
  for (const holder of (await findHolders(storePath)).holders) {
    // An engine may not respond. `hintForHolders` reports this if no service is found.
    const service = await findServiceOf(holder).catch(ignoreKind("service", undefined));
    if (service && kinds.includes(kindOf(service))) services.set(optionsOf(service), service);
  }
  return [...services.values()];
}

/**
 * Returns the unit or container of a process, if the process is its hub. Returns undefined for
 * another program, such as a cron job, or a timer's unit that runs `hivemind-sqlcipher metrics`.
 */
async function findServiceOf(holder: Holder): Promise<FoundService | undefined> {
  if (isOwnCommand(argsOf(holder.pid))) return undefined;
  const container = await findContainerOf(holder.pid);
  if (container !== undefined) {
    if (!isHubOfContainer(holder, container)) return undefined;
    return (await findUnitOfContainer(container)) ?? container;
  }
  const unit = await findUnitOf(holder.pid);
  return unit && (await isHubOf(unit, holder)) ? unit : undefined;
}

function kindOf(service: FoundService): Manager | Engine {
  return "manager" in service ? service.manager : service.engine;
}

/**
 * Returns whether a process with the store open is the unit's hub. A unit such as `cron.service`
 * runs many programs; any of them may look up a client, and stopping the unit would be wrong.
 */
async function isHubOf({ manager, name }: UnitName, { pid }: Holder): Promise<boolean> {
  if (runsHub(argsOf(pid))) return true;
  const [unit = {}] = await show(manager, ["MainPID", "Type"], [name]);
  return unit.MainPID === `${pid}` && unit.Type !== "oneshot";
}

/**
 * Finds the unit or container configured for the store. Prefers a running hub: the store would
 * otherwise be replaced under it. If none runs, prefers the unit.
 */
async function findConfiguredService(
  storePath: string,
  kinds: readonly (Manager | Engine)[],
): Promise<FoundService | undefined> {
  const unit = await findConfiguredUnit(storePath, kinds.filter(isManager));
  if (unit?.isActive) return unit;
  const { active, stopped } = await findConfiguredContainers(storePath, kinds.filter(isEngine));
  const choose = async (containers: readonly Container[]) => {
    const found = await Promise.all(
      containers.map(async (container) => (await findUnitOfContainer(container)) ?? container),
    );
    const usable = found.filter((service) => kinds.includes(kindOf(service)));
    const distinct = new Map(usable.map((service) => [optionsOf(service), service]));
    return assertAtMostOne([...distinct.values()], storePath);
  };
  return (await choose(active)) ?? unit ?? (await choose(stopped));
}

/** Finds the hub's unit that is configured for the store. Prefers active, then enabled units. */
async function findConfiguredUnit(
  storePath: string,
  kinds: readonly Manager[],
): Promise<HubUnit | undefined> {
  const units = (await listHubUnits(kinds)).filter(
    (unit) => !unit.isTemplate && mayBeHubOf(unit, storePath),
  );
  for (const preferred of [units, units.filter(isActive), units.filter(isEnabled)]) {
    if (preferred.length === 1) return preferred[0];
  }
  return assertAtMostOne(units, storePath);
}

const isActive = (unit: { isActive: boolean }) => unit.isActive;
const isEnabled = (unit: { isEnabled: boolean }) => unit.isEnabled;

/** @throws {@link StoreError} refused - if there are several */
function assertAtMostOne<Found extends FoundService>(
  found: readonly Found[],
  storePath: string,
): Found | undefined {
  if (found.length < 2) return found[0];
  const names = found.map((service) => `${service.name} ${describeLocation(service)}`);
  const noun = found.every((service) => "manager" in service) ? "unit" : "service";
  throw new StoreError(
    "refused",
    `several ${noun}s may be the hub of ${storePath}: ${names.join(" and ")}`,
    {
      hint: `Name the ${noun}: ${found.map(optionsOf).join(", or ")}.`,
    },
  );
}

function describeLocation(service: FoundService): string {
  return "manager" in service ? `in ${describeManager(service.manager)}` : `of ${service.engine}`;
}

function throwNoContainer({ service, storePath }: ServiceChoice): never {
  throw new StoreError("notFound", `no ${service} container uses ${storePath}`, {
    hint: `Name the container with --unit (${service} ps --all lists them), or omit --service to search for systemd units, too.`,
  });
}

async function resolveNoService({ unit, storePath }: ServiceChoice): Promise<Service> {
  const { holders } = await findLastingHolders(storePath);
  if (holders.length > 0) {
    const missing = unit === undefined ? "no service was found" : `no service ${unit} was found`;
    throw new StoreError(
      "inUse",
      `${missing}, and ${storePath} is open in ${formatHolders(holders)}`,
      { hint: await hintForHolders(holders) },
    );
  }
  // Warn only if the user named the unit.
  return noService(
    unit === undefined
      ? []
      : [
          `no service ${unit} was found and no process has ${storePath} open: no service will be stopped`,
        ],
  );
}

/** Returns a hint about the first of these processes that belongs to a unit or a container. */
export async function hintForHolders(holders: readonly Holder[]): Promise<string> {
  for (const { pid } of holders) {
    const unit = await findUnitOf(pid);
    if (unit) return `Process ${pid} belongs to a unit. If it is the hub, add ${optionsOf(unit)}.`;
    const origin = findOrigin(pid);
    switch (origin?.kind) {
      case "podman":
      case "docker":
        return hintForContainer(pid, origin);
      case "container":
        return `Process ${pid} runs in a container (${origin.engine}): add --stop-command and --start-command.`;
      case "systemd-user":
        return `Process ${pid} belongs to ${origin.unit} of user ${origin.uid}: run this as that user.`;
    }
  }
  return "Stop that program first, or add --stop-command and --start-command.";
}

async function hintForContainer(
  pid: number,
  { kind: engine, id }: { kind: Engine; id: string },
): Promise<string> {
  try {
    const container = await findContainerOf(pid);
    const name = container?.name ?? id;
    const unit = container && (await findUnitOfContainer(container));
    return `Process ${pid} runs in the ${engine} container ${name}. If it is the hub, add ${optionsOf(unit ?? { engine, name })}.`;
  } catch (error) {
    if (!isKind(error, "service")) throw error;
    return `Process ${pid} runs in the ${engine} container ${id.slice(0, 12)}, but ${error.message}. ${error.hint}`;
  }
}

/** Returns the options that name a unit or a container. */
function optionsOf(service: FoundService): string {
  return "manager" in service
    ? serviceOptions(service)
    : `--service ${service.engine} --unit ${service.name}`;
}
