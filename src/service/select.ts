/** Decides which service belongs to a store. */
import { StoreError } from "../errors.js";
import { findLastingHolders, formatHolders } from "../process/holders.js";
import { CommandService } from "./command.js";
import { NoService } from "./none.js";
import { defaultUnit, type Service, type ServiceKind } from "./service.js";
import { SystemdUnit } from "./systemd.js";

export interface ServiceChoice {
  readonly service: "auto" | ServiceKind;
  /** The name of the systemd unit. */
  readonly unit: string;
  /** Shell commands. With `auto`, they take precedence over a unit. */
  readonly stopCommand?: string | undefined;
  readonly startCommand?: string | undefined;
  /** The store's resolved path. */
  readonly storePath: string;
}

/**
 * Returns the service of a store. `auto` decides for the operator's commands if given, the unit of
 * the user's manager, the unit of the system's manager, or none if no process has the store open.
 *
 * @throws {@link StoreError} usage - if a command is missing, or no unit can have this name
 * @throws {@link StoreError} inUse - if no service was found and a process has the store open
 * @throws {@link StoreError} service - if the chosen manager does not respond
 */
export async function selectService(choice: ServiceChoice): Promise<Service> {
  switch (choice.service) {
    case "none":
      return new NoService();
    case "command": {
      const commands = commandService(choice);
      if (commands) return commands;
      throw new StoreError("usage", "--service command needs --stop-command and --start-command");
    }
    case "systemd-user":
    case "systemd":
      return SystemdUnit.find(choice.service, choice.unit);
    case "auto":
      return commandService(choice) ?? (await findService(choice));
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

async function findService({ unit, storePath }: ServiceChoice): Promise<Service> {
  for (const kind of ["systemd-user", "systemd"] as const) {
    const found = await SystemdUnit.find(kind, unit).catch(ignoreAbsentManager);
    if (found?.isUsable) return found;
  }
  const { holders } = await findLastingHolders(storePath);
  if (holders.length === 0) {
    // Warn only if the user named the unit.
    return new NoService(
      unit === defaultUnit
        ? []
        : [`no service ${unit} was found and no process has ${storePath} open: nothing is stopped`],
    );
  }
  throw new StoreError(
    "inUse",
    `no service ${unit} was found, and ${storePath} is open in ${formatHolders(holders)}`,
    {
      hint: "Name the service with --unit, or stop that program, or give --stop-command and --start-command.",
    },
  );
}

function ignoreAbsentManager(error: unknown): undefined {
  if (error instanceof StoreError && error.kind === "service") return undefined;
  throw error;
}
