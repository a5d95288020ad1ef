/**
 * The command lines of fixes, for writing this program's lines of a unit or a copy of `server.json`
 * again.
 */
import { existsSync } from "node:fs";
import { findContainerOfService, type InspectedHub } from "../hub/container-hub.js";
import { dropInCommands, installCommands } from "../hub/existing-unit.js";
import { startsByRun } from "../hub/password-delivery.js";
import { type CopyUnit, copyUnitOf } from "../service/copy-unit.js";
import { findQuadlet, quadletVersion, readsDropIns } from "../service/quadlet.js";
import { type ServiceName, show, systemctlLine, type UnitName } from "../service/systemctl.js";
import { readCommands } from "../service/unit-commands.js";
import { startsContainers } from "../service/unit-containers.js";
import { shellQuote } from "../text/escape.js";

/** Returns the command line to let a unit start its hub through `run`, and to restart it. */
export async function renewLine(unit: UnitName): Promise<string> {
  return (await isOfContainer(unit)) ? renewQuadletLine(unit) : join(await dropInCommands(unit));
}

/** Returns whether a unit starts a container. */
export async function isOfContainer({ manager, name }: UnitName): Promise<boolean> {
  const [properties = {}] = await show(manager, ["ExecStart"], [name]);
  return startsContainers(properties);
}

/** Returns the command line to write the unit of a copy again, and to restart it. */
export async function renewCopyUnitLine(
  unit: CopyUnit,
  container: ServiceName | undefined,
): Promise<string> {
  const print = `hivemind-sqlcipher run --print-unit compose ${await nameHub(unit, container)}`;
  return join(installCommands(unit, unit.file, print));
}

/** Returns the command line for writing a container's copy again, by its unit if it has one. */
export function renewCopyLine({ container, copy }: InspectedHub, storePath: string): string {
  const unit = copyUnitOf(storePath);
  if (existsSync(unit.file)) return systemctlLine(unit.manager, `restart ${unit.name}`);
  return `hivemind-sqlcipher run --prepare ${shellQuote(copy ?? unit.copy)} --container ${container.name}`;
}

/** The lines are in a drop-in of the quadlet, or in a file of its author. */
async function renewQuadletLine(unit: UnitName): Promise<string> {
  const print = `hivemind-sqlcipher run --print-unit quadlet ${await nameHub(unit, unit)}`;
  const quadlet = await findQuadlet(unit);
  const { dropIn = "", file = unit.name } = quadlet ?? {};
  const commands = installCommands(unit, dropIn, print);
  const hasLines = startsByRun((await readArgs(unit)).join(" "));
  const isNew = quadlet !== undefined && !hasLines;
  if (existsSync(dropIn) || (isNew && readsDropIns(await quadletVersion(unit.manager)))) {
    return join(commands);
  }
  const [reload] = commands.install.slice(-1);
  return `Put the lines that ${print} prints into ${file}, in the place of earlier ones, then: ${reload} && ${commands.restart}`;
}

/**
 * Returns the option of `run --print-unit` for the hub of a container: its container, or its
 * `server.json` in the present commands of the unit. Podman removes the container of a stopped
 * unit.
 */
async function nameHub(unit: UnitName, service: ServiceName | undefined): Promise<string> {
  const container = service && (await findContainerOfService(service).catch(() => undefined));
  if (container) return `--container ${shellQuote(container.name)}`;
  const args = await readArgs(unit);
  const index = args.indexOf("--server-json");
  return `--server-json ${shellQuote((index === -1 ? undefined : args[index + 1]) ?? "PATH")}`;
}

async function readArgs(unit: UnitName): Promise<string[]> {
  return (await readCommands(unit)).flatMap(({ args }) => args);
}

function join({ install, restart }: ReturnType<typeof installCommands>): string {
  return [...install, restart].join(" && ");
}
