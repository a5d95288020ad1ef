/** Finds the hub for `setup`: a hub in a container, and for root a hub of another user, too. */
import type { Command } from "commander";
import {
  hubContainer,
  hubEnvironment,
  type ManagedContainer,
  workFor,
  workForContainer,
} from "../config/hub-account.js";
import { resolveStorePath } from "../config/paths.js";
import { ignoreKind, StoreError } from "../errors.js";
import { isRoot } from "../fs/user.js";
import type { HubUnit } from "../service/hub-units.js";
import { fullUnitName, shortUnitName } from "../service/systemctl.js";
import { type Context, contextOf, globalOptionsOf } from "./context.js";
import { findHubStore } from "./hub-store.js";

export interface HubChoiceOptions {
  unit?: string;
  service?: "auto" | "systemd-user" | "systemd";
  headless?: boolean;
}

/**
 * Returns the context of `setup`. Without a configured passphrase source, the source is a sealed
 * file for a system unit of another user, because root's keyring is not that user's, and for root's
 * hub in a container, because a system unit has no keyring. With `--headless` it is a sealed file
 * for every hub if systemd can seal for this user, because the keyring is locked at boot. Otherwise
 * it is the keyring.
 *
 * @throws {@link StoreError} refused - if several system units start a hub, or if a setup has set
 *   up another hub than the options name
 */
export async function resolveSetupContext(
  command: Command,
  options: HubChoiceOptions,
): Promise<Context> {
  const isOfUnit = await workForSystemHub(options);
  if (!isOfUnit) await workForContainerHub(command, options);
  const isInSystem = isOfUnit || (await workForContainerAccount());
  const { db, name, subfolder } = globalOptionsOf(command);
  const isNamed = db !== undefined || name !== undefined || subfolder !== undefined;
  const { resolveContainerStorePath } = await import("../setup/container.js");
  const store = isOfUnit
    ? await resolveStorePath(await findHubStore("setup"), hubEnvironment())
    : await resolveContainerStorePath();
  const found = !isNamed && store !== undefined ? { store } : {};
  const context = await contextOf(command, found);
  if (context.settings.passphrase_source !== undefined) return context;
  if (!isInSystem && !(options.headless && (await canSeal()))) return context;
  const { resolveSealedPath } = await import("../keys/reseal.js");
  const passphraseSource = `sealed:${await resolveSealedPath(context.storePath)}`;
  return contextOf(command, { ...found, passphraseSource });
}

/**
 * Lets this process work on the hub in a container: the hub in the record of an earlier setup, or a
 * hub that is found now, unless a unit starts a hub without a container. After a setup of another
 * hub, the options must name the hub.
 */
async function workForContainerHub(command: Command, options: HubChoiceOptions): Promise<void> {
  const { readSetupRecord, workForRecord } = await import("../setup/record.js");
  const { settingsPath, storePath } = await contextOf(command);
  const record = await readSetupRecord(settingsPath, storePath);
  if (record !== undefined) workForRecord(record);
  const recorded = hubContainer();
  if (recorded === undefined && record !== undefined) return;
  if (recorded === undefined && (await listPlainUnits(options)).length > 0) return;
  if (recorded !== undefined && isWantedContainer(recorded, options)) return;
  const { findContainerHub } = await import("../setup/container.js");
  const hub = await findContainerHub(storePath, options.unit);
  if (hub !== undefined && isWantedContainer(hub, options)) return workForContainer(hub);
  if (recorded === undefined) return;
  throw new StoreError("refused", `setup has set up the hub in the container ${recorded.name}`, {
    hint: "Leave out --unit and --service, name the store of the other hub with --db, or bring this hub back first: hivemind-sqlcipher setup --undo",
  });
}

/** Returns the wanted units that start a hub without a container. */
async function listPlainUnits(options: HubChoiceOptions): Promise<HubUnit[]> {
  const { listHubUnits, startsEngine } = await import("../service/hub-units.js");
  return (await listHubUnits()).filter((each) => isWanted(each, options) && !startsEngine(each));
}

/**
 * Lets root work in the account of the hub in a container.
 *
 * @returns whether this process works in such an account from now on
 */
async function workForContainerAccount(): Promise<boolean> {
  const container = hubContainer();
  if (container === undefined || !isRoot()) return false;
  if (container.unit.manager === "systemd-user") return false;
  const { findContainerAccount } = await import("../hub/container-hub.js");
  workFor(await findContainerAccount(container));
  return true;
}

function isWantedContainer(
  { name, unit }: ManagedContainer,
  { service, unit: wanted }: HubChoiceOptions,
): boolean {
  if (!["auto", undefined, unit.manager].includes(service)) return false;
  return wanted === undefined || wanted === name || fullUnitName(wanted) === unit.name;
}

function isWanted({ name, isTemplate }: HubUnit, { unit }: HubChoiceOptions): boolean {
  return !isTemplate && (unit === undefined || fullUnitName(unit) === name);
}

/** Returns whether this user can seal a passphrase. */
async function canSeal(): Promise<boolean> {
  const { findSealingScope } = await import("../keys/sealed.js");
  return findSealingScope().then(() => true, ignoreKind("passphraseUnavailable", false));
}

/**
 * Lets root work in the account of the hub of a system unit.
 *
 * @returns whether this process works in such an account from now on
 */
async function workForSystemHub(options: HubChoiceOptions): Promise<boolean> {
  if (!isRoot() || options.service === "systemd-user") return false;
  const unit = await findSystemHub(options);
  if (unit === undefined) return false;
  // An earlier setup has sealed the passphrase, or this setup is to do so.
  const isSealed = unit.args.includes("--prepare") || options.headless;
  if (unit.user === undefined && !isSealed) return false;
  const { findSystemUnitAccount } = await import("../hub/account.js");
  workFor(await findSystemUnitAccount(unit.name));
  return true;
}

/**
 * Returns the system unit of the hub; undefined if root itself has a hub, or if no unit starts one.
 */
async function findSystemHub(options: HubChoiceOptions): Promise<HubUnit | undefined> {
  const all = await listPlainUnits(options);
  if (options.service !== "systemd" && all.some(({ manager }) => manager === "systemd-user"))
    return undefined;
  const { prefer, severalUnitsError } = await import("../service/hub-units.js");
  const units = all.filter(({ manager }) => manager === "systemd");
  const candidates = prefer(units, ({ isActive }) => isActive);
  if (candidates.length < 2) return candidates[0];
  // A unit without a user is a hub of root, which the survey finds.
  if (candidates.some(({ user }) => user === undefined)) return undefined;
  throw severalUnitsError(candidates.map(({ name }) => shortUnitName(name)));
}
