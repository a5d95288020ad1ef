/** Selects the service of a store. */
import { readFileSync } from "node:fs";
import { StoreError } from "../errors.js";
import { findHolders, findLastingHolders, formatHolders, type Holder } from "../process/holders.js";
import { CommandService } from "./command.js";
import { findHubUnits, mayUseStore, runsHub, usesOtherStore } from "./hub-units.js";
import { NoService } from "./none.js";
import { findOrigin, findUnitOf } from "./origin.js";
import { defaultUnit, type Service, type ServiceKind } from "./service.js";
import { inManager, type Manager, show, type UnitName } from "./systemctl.js";
import { SystemdUnit } from "./systemd.js";

export interface ServiceChoice {
  readonly service: "auto" | ServiceKind;
  /** The name of the systemd unit. Without a name, the unit is found by the store. */
  readonly unit?: string | undefined;
  /** Shell commands. With `auto`, they take precedence over a unit. */
  readonly stopCommand?: string | undefined;
  readonly startCommand?: string | undefined;
  /** The store's resolved path. */
  readonly storePath: string;
  /** Saves a discovered unit after its checks, for the next command. */
  readonly remember?: ((found: Service) => Promise<void>) | undefined;
}

const managers = ["systemd-user", "systemd"] as const;

/**
 * Returns the service of a store. `auto` selects, in this order: the operator's commands; the named
 * unit; the unit of the hub that has the store open; the unit that would start such a hub; no
 * service.
 *
 * @throws {@link StoreError} usage - if a command is missing, or the name cannot be a unit's
 * @throws {@link StoreError} inUse - if no service was found and a process has the store open
 * @throws {@link StoreError} refused - if several units qualify
 * @throws {@link StoreError} service - if the chosen manager does not respond
 */
export async function selectService(choice: ServiceChoice): Promise<Service> {
  const { service, unit } = choice;
  switch (service) {
    case "none":
      return new NoService();
    case "command": {
      const commands = commandService(choice);
      if (commands) return commands;
      throw new StoreError("usage", "--service command needs --stop-command and --start-command");
    }
    case "systemd-user":
    case "systemd": {
      if (unit !== undefined) return SystemdUnit.find(service, unit);
      const found = await findUnit(choice.storePath, [service]);
      return found ?? SystemdUnit.find(service, defaultUnit);
    }
    case "auto":
      return (
        commandService(choice) ??
        (unit === undefined
          ? await findUnit(choice.storePath, managers)
          : await findNamedUnit(unit, choice.storePath)) ??
        (await noService(choice))
      );
  }
}

function commandService(choice: ServiceChoice): CommandService | undefined {
  const { stopCommand, startCommand, storePath } = choice;
  if (!stopCommand && !startCommand) return undefined;
  if (!stopCommand || !startCommand) {
    throw new StoreError("usage", "--stop-command and --start-command belong together", {
      hint: "Give both.",
    });
  }
  return new CommandService({ stopCommand, startCommand, storePath });
}

/**
 * Finds a unit by name. If both managers have it, prefers a unit with the store open, then a
 * running unit.
 */
async function findNamedUnit(name: string, storePath: string): Promise<SystemdUnit | undefined> {
  const found: SystemdUnit[] = [];
  for (const manager of managers) {
    const unit = await SystemdUnit.find(manager, name).catch(ignoreAbsentManager);
    if (unit?.isUsable) found.push(unit);
  }
  if (found.length < 2) return found[0];
  for (const { pid } of (await findHolders(storePath)).holders) {
    for (const unit of found) if (await unit.owns(pid)) return unit;
  }
  for (const unit of found) if ((await unit.state()).active) return unit;
  return found[0];
}

/** Finds the hub's unit for the store: by its processes or, if it is stopped, by its unit file. */
async function findUnit(
  storePath: string,
  among: readonly Manager[],
): Promise<SystemdUnit | undefined> {
  const running = await findUnitsOfHolders(storePath, among);
  const unit = onlyOne(running, storePath) ?? (await findStoppedUnit(storePath, among));
  if (unit !== undefined) {
    return SystemdUnit.find(unit.manager, shortName(unit.name), { isDiscovered: true });
  }
  for (const manager of among) {
    const usual = await SystemdUnit.find(manager, defaultUnit).catch(ignoreAbsentManager);
    if (usual?.isUsable) return usual;
  }
  return undefined;
}

async function findUnitsOfHolders(
  storePath: string,
  among: readonly Manager[],
): Promise<UnitName[]> {
  const units = new Map<string, UnitName>();
  for (const holder of (await findHolders(storePath)).holders) {
    const unit = await findUnitOf(holder.pid);
    if (unit && among.includes(unit.manager) && (await isHubOf(unit, holder))) {
      units.set(`${unit.manager} ${unit.name}`, unit);
    }
  }
  return [...units.values()];
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

function argsOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return []; // the process has ended
  }
}

async function findStoppedUnit(
  storePath: string,
  among: readonly Manager[],
): Promise<UnitName | undefined> {
  const units = (await findHubUnits(among)).filter(
    (unit) => !unit.isTemplate && mayUseStore(unit, storePath) && !usesOtherStore(unit, storePath),
  );
  for (const preferred of [units, units.filter(isActive), units.filter(isEnabled)]) {
    if (preferred.length === 1) return preferred[0];
  }
  return onlyOne(units, storePath);
}

const isActive = (unit: { isActive: boolean }) => unit.isActive;
const isEnabled = (unit: { isEnabled: boolean }) => unit.isEnabled;

function onlyOne(units: readonly UnitName[], storePath: string): UnitName | undefined {
  if (units.length < 2) return units[0];
  const names = units.map(({ manager, name }) => `${name} ${inManager(manager)}`).join(" and ");
  throw new StoreError("refused", `several units may be the hub of ${storePath}: ${names}`, {
    hint: `Name the unit: ${units.map(unitOptions).join(", or ")}.`,
  });
}

async function noService({ unit, storePath }: ServiceChoice): Promise<NoService> {
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
  return new NoService(
    unit === undefined
      ? []
      : [`no service ${unit} was found and no process has ${storePath} open: nothing is stopped`],
  );
}

/** Returns a hint for stopping these processes, which depends on their units or containers. */
export async function hintForHolders(holders: readonly Holder[]): Promise<string> {
  for (const { pid } of holders) {
    const unit = await findUnitOf(pid);
    if (unit)
      return `Process ${pid} belongs to a unit: if that is the hub, use ${unitOptions(unit)}.`;
    const origin = findOrigin(pid);
    switch (origin?.kind) {
      case "podman":
      case "docker":
        return `Process ${pid} runs in the ${origin.kind} container ${origin.id.slice(0, 12)}: use --stop-command '${origin.kind} stop NAME' and --start-command '${origin.kind} start NAME'.`;
      case "container":
        return `Process ${pid} runs in a container (${origin.engine}): give --stop-command and --start-command.`;
      case "systemd-user":
        return `Process ${pid} belongs to ${origin.unit} of user ${origin.uid}: run this as that user.`;
    }
  }
  return "Stop that program first, or give --stop-command and --start-command.";
}

function unitOptions({ manager, name }: UnitName): string {
  return `--service ${manager} --unit ${shortName(name)}`;
}

/** Returns a unit's name as an operator writes it: without ".service", unless this is ambiguous. */
function shortName(name: string): string {
  return name.replace(/^([^.]+)\.service$/, "$1");
}

function ignoreAbsentManager(error: unknown): undefined {
  if (error instanceof StoreError && error.kind === "service") return undefined;
  throw error;
}
