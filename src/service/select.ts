/** Which service belongs to the store. */
import { StoreError } from "../errors.js";
import { findLastingHolders, formatHolders } from "../process/holders.js";
import { CommandService } from "./command.js";
import { LaunchdJob } from "./launchd.js";
import { NoService } from "./none.js";
import { defaultUnit, type Service, type ServiceKind } from "./service.js";
import { SystemdUnit } from "./systemd.js";

export interface ServiceChoice {
  readonly service: "auto" | ServiceKind;
  /** The unit (systemd) or label (launchd). */
  readonly unit: string;
  /** Commands for the shell; given with `auto`, they are what is used. */
  readonly stopCommand?: string | undefined;
  readonly startCommand?: string | undefined;
  /** The store's resolved path. */
  readonly storePath: string;
}

/**
 * Picks the service. `auto` is: the operator's own commands if given, else the user's unit, else the system's unit (on
 * macOS the launchd job), else none if nobody holds the store open.
 *
 * @throws StoreError `usage` for commands that are missing or alone, or a name that no unit can have; `inUse`
 *   if no service was found and somebody holds the store open; `service` if the manager asked for does not answer.
 */
export async function selectService(choice: ServiceChoice): Promise<Service> {
  switch (choice.service) {
    case "none":
      return new NoService();
    case "command": {
      const commands = givenCommands(choice);
      if (commands) return commands;
      throw new StoreError("usage", "--service command needs --stop-command and --start-command");
    }
    case "launchd":
      return new LaunchdJob(choice.unit);
    case "systemd-user":
    case "systemd":
      return SystemdUnit.find(choice.service, choice.unit);
    case "auto":
      return givenCommands(choice) ?? (await findService(choice));
  }
}

function givenCommands(choice: ServiceChoice): CommandService | undefined {
  const { stopCommand, startCommand, storePath } = choice;
  if (!stopCommand && !startCommand) return undefined;
  if (!stopCommand || !startCommand) {
    throw new StoreError("usage", "--stop-command and --start-command belong together", {
      hint: "give both",
    });
  }
  return new CommandService({ stopCommand, startCommand, storePath });
}

async function findService({ unit, storePath }: ServiceChoice): Promise<Service> {
  if (process.platform === "darwin") {
    const job = new LaunchdJob(unit);
    if (await job.exists()) return job;
  } else {
    for (const kind of ["systemd-user", "systemd"] as const) {
      const found = await SystemdUnit.find(kind, unit).catch(absentManager);
      if (found?.usable) return found;
    }
  }
  const { holders } = await findLastingHolders(storePath);
  if (holders.length === 0) {
    // Not having the one that nobody asked for is nothing to speak of.
    return new NoService(
      unit === defaultUnit
        ? []
        : [`no service ${unit} was found, and nobody has ${storePath} open: nothing is stopped`],
    );
  }
  throw new StoreError(
    "inUse",
    `no service ${unit} was found, and ${storePath} is open in ${formatHolders(holders)}`,
    {
      hint: "--unit names the service that has it open; or stop that program, or say how with --stop-command and --start-command",
    },
  );
}

/** A manager that is not there has no units. */
function absentManager(error: unknown): undefined {
  if (error instanceof StoreError && error.kind === "service") return undefined;
  throw error;
}
