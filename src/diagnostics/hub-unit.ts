/**
 * Checks whether the hub's units can start it: their programs, their password, their state. For a
 * hub in a container, these are the unit of the container and the unit of the copy of
 * `server.json`.
 */
import { existsSync } from "node:fs";
import { basename } from "node:path";
import { isKind } from "../errors.js";
import { dropInPath, readHubCommands } from "../hub/existing-unit.js";
import { findHubUnits } from "../hub/find-hubs.js";
import { startsByRun } from "../hub/password-delivery.js";
import {
  namedStore,
  passwordIn,
  readServerJson,
  serverJsonPath,
  sqliteModule,
} from "../hub/server-json.js";
import { copyUnitOf } from "../service/copy-unit.js";
import { isEngine } from "../service/engine.js";
import { type HubUnit, mayBeHubOf, prefer } from "../service/hub-units.js";
import { describeOtherInstallation, findUnitPrograms } from "../service/programs.js";
import type { Service } from "../service/service.js";
import {
  fullUnitName,
  isManager,
  journalctlLine,
  show,
  systemctlLine,
  type UnitName,
} from "../service/systemctl.js";
import { isRestarting } from "../service/unit-state.js";
import { type Check, checksNamed } from "./check.js";
import { isOfContainer, renewCopyUnitLine, renewLine } from "./renewal.js";

const { good, warning, error: broken } = checksNamed("hub-unit");

/** The secret that a hub needs to open the store. */
export interface KnownSecret {
  readonly isEncrypted: boolean;
  /** Undefined if the passphrase is not known here. */
  readonly passphrase: string | undefined;
}

/**
 * Checks the units that start a hub on this store: those that are active or enabled, if any. Checks
 * also the units of the service's container.
 *
 * @param known.script - this program's script
 */
export async function checkHubUnits(
  storePath: string,
  secret: KnownSecret,
  { script, service }: { script: string; service: Service | undefined },
): Promise<Check[]> {
  const units = (await findHubUnits(serverJsonPath())).filter((unit) =>
    mayBeHubOf(unit, storePath),
  );
  const checked = prefer(units, ({ isActive, isEnabled }) => isActive || isEnabled);
  const findings: Check[] = [];
  for (const unit of checked) {
    const finding = await checkUnit(unit, storePath, secret, script);
    if (finding !== undefined) findings.push(finding);
  }
  findings.push(...(await checkCopyUnit(storePath, script, service)));
  const starter = await findContainerUnit(service);
  if (starter && !checked.some(({ name }) => name === starter.name)) {
    const finding =
      (await checkPrograms(starter)) ??
      (await checkState(starter)) ??
      (await checkInstallation(starter, script));
    if (finding !== undefined) findings.push(finding);
  }
  if (findings.length > 0) return findings;
  if (units.length === 0) return [good("no unit starts a hub on this store")];
  return [good(`${units.map(({ name }) => name).join(", ")} can start the hub`)];
}

/** Returns the unit of a service if it starts a container. */
async function findContainerUnit(service: Service | undefined): Promise<UnitName | undefined> {
  if (service === undefined) return undefined;
  const { kind, name } = service;
  if (!isManager(kind) || name === null) return undefined;
  const unit = { manager: kind, name: fullUnitName(name) };
  return (await isOfContainer(unit)) ? unit : undefined;
}

/** Checks the unit of the copy of `server.json` for a hub of compose, if there is one. */
async function checkCopyUnit(
  storePath: string,
  script: string,
  service: Service | undefined,
): Promise<Check[]> {
  const unit = copyUnitOf(storePath);
  if (!existsSync(unit.file)) return [];
  const { kind, name } = service ?? {};
  const container = isEngine(kind) && name ? { manager: kind, name } : undefined;
  const renew = () => renewCopyUnitLine(unit, container);
  const finding =
    (await checkPrograms(unit, renew)) ??
    (await checkState(unit, "the hub's container has no copy of server.json with the password")) ??
    (await checkInstallation(unit, script, renew));
  return finding === undefined ? [] : [finding];
}

async function checkUnit(
  unit: HubUnit,
  storePath: string,
  secret: KnownSecret,
  script: string,
): Promise<Check | undefined> {
  const outdated = await checkDropIn(unit);
  const wrong = outdated?.severity === "error" ? outdated : await checkPrograms(unit);
  if (wrong !== undefined) return wrong;
  const problem = await findPasswordProblem(unit, storePath, secret);
  if (problem === undefined) {
    return (await checkState(unit)) ?? outdated ?? (await checkInstallation(unit, script));
  }
  const detail = `${unit.name} ${problem}: its hub cannot open the encrypted store`;
  return broken(detail, await renewLine(unit));
}

/**
 * Checks that the drop-in starts the hub that the unit itself names. An installer may have written
 * the unit again.
 */
async function checkDropIn(unit: HubUnit): Promise<Check | undefined> {
  const { hub, isOutdated } = await readHubCommands(unit);
  if (!isOutdated) return undefined;
  const path = await dropInPath(unit);
  const isUsable = (await findUnitPrograms([unit])).every(({ isPresent }) => isPresent);
  const detail = `${path} starts another hub than ${unit.name} itself, which names ${hub.join(" ")}`;
  return (isUsable ? warning : broken)(detail, await renewLine(unit));
}

/**
 * Checks that the unit's programs exist. An upgrade of Node.js or of a Python environment may have
 * removed them.
 */
async function checkPrograms(
  unit: UnitName,
  renew = () => renewLine(unit),
): Promise<Check | undefined> {
  const missing = (await findUnitPrograms([unit])).filter(({ isPresent }) => !isPresent);
  if (missing.length === 0) return undefined;
  const paths = missing.map(({ path }) => path).join(", ");
  const detail = `${unit.name} starts a program that is gone or cannot be executed: ${paths}`;
  const hub = missing.find(({ isHub }) => isHub);
  const name = hub && isEngine(basename(hub.path)) ? basename(hub.path) : "hivemind-core";
  const fix = hub
    ? `Install ${name} again at that path, or correct the unit: ${systemctlLine(unit.manager, `edit --full ${unit.name}`)}`
    : await renew();
  return broken(detail, fix);
}

/** Checks that the unit does not start another installation of this program. */
async function checkInstallation(
  unit: UnitName,
  script: string,
  renew = () => renewLine(unit),
): Promise<Check | undefined> {
  const detail = describeOtherInstallation(await findUnitPrograms([unit]), script);
  if (detail === undefined) return undefined;
  return warning(detail, `Unless the other one is newer: ${await renew()}`);
}

/** Returns what is wrong with the password that the unit's hub receives; undefined if nothing. */
async function findPasswordProblem(
  { args }: HubUnit,
  storePath: string,
  { isEncrypted, passphrase }: KnownSecret,
): Promise<string | undefined> {
  if (!isEncrypted || startsByRun(args.join(" "))) return undefined;
  try {
    const server = await readServerJson(serverJsonPath());
    const named = await namedStore(server);
    if (named.module !== sqliteModule || named.storePath !== storePath) return undefined;
    const password = passwordIn(server);
    if (password === undefined) return "starts the hub without the passphrase";
    const isWrong = passphrase !== undefined && password !== passphrase;
    return isWrong ? `starts the hub with another password, from ${server.path}` : undefined;
  } catch (error) {
    // Another check reports this error.
    if (isKind(error, "notFound", "refused")) return undefined;
    throw error;
  }
}

async function checkState(
  { manager, name }: UnitName,
  effect = "the hub does not run",
): Promise<Check | undefined> {
  const properties = ["ActiveState", "SubState", "Result", "NRestarts"];
  const [state = {}] = await show(manager, properties, [name]);
  const how = isRestarting(state)
    ? `is in a restart loop (${state.NRestarts} restarts)`
    : state.ActiveState === "failed"
      ? `has failed (${state.Result})`
      : undefined;
  if (how === undefined) return undefined;
  const log = journalctlLine({ manager, name });
  const fix = `Remove the cause, which ${log} shows; then: ${systemctlLine(manager, `restart ${name}`)}`;
  return broken(`${name} ${how}: ${effect}`, fix);
}
