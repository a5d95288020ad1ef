/** Checks in advance whether a unit can be stopped and started again, and belongs to the store. */
import { statSync } from "node:fs";
import { StoreError } from "../errors.js";
import { isRoot } from "../fs/user.js";
import {
  findOpenStore,
  findOtherDefaultStore,
  isInGroup,
  listGroupProcesses,
} from "../process/cgroup.js";
import { findHolders, formatHolders } from "../process/holders.js";
import { findUser } from "../process/users.js";
import { isInContainer } from "./origin.js";
import type { Properties } from "./properties.js";
import {
  describeManager,
  formatFailure,
  show,
  systemctl,
  systemctlLine,
  type UnitName,
} from "./systemctl.js";
import { findContainersOf, isInContainers, startsContainers } from "./unit-containers.js";
import { isActive, isLauncher, isRestarting } from "./unit-state.js";

export const unitProperties = [
  "LoadState",
  "LoadError",
  "ActiveState",
  "SubState",
  "MainPID",
  "ControlGroup",
  "UnitFileState",
  "FragmentPath",
  "Transient",
  "NeedDaemonReload",
  "RefuseManualStart",
  "RefuseManualStop",
  "UpheldBy",
  "User",
  "DynamicUser",
  "Type",
  "RemainAfterExit",
  "ExecStart",
  "ExecStop",
];

/**
 * Checks a unit for {@link Service.check}.
 *
 * @returns notices for the operator
 * @throws {@link StoreError} notFound, refused or service - as `Service.check` does
 */
export async function checkUnit(unit: UnitName, storePath: string): Promise<string[]> {
  const { manager, name } = unit;
  const [properties = {}] = await show(manager, unitProperties, [name]);
  assertLoaded(unit, properties);
  assertStartable(unit, properties);
  await assertNotUpheld(unit, properties);
  await assertPermitted(unit, properties);
  const isHolder = await holdsStore(properties, storePath);
  if (!isHolder && !isLauncher(properties) && !startsContainers(properties)) {
    await assertSameUser(unit, properties, storePath);
  }
  return [
    ...(properties.NeedDaemonReload === "yes"
      ? [
          `the unit file of ${name} has changed since the manager loaded it, and the loaded version will be started; ${systemctlLine(manager, "daemon-reload")} loads the new version`,
        ]
      : []),
    ...(isActive(properties) && !isHolder ? await checkStore(unit, properties, storePath) : []),
  ];
}

function assertLoaded(unit: UnitName, properties: Properties): void {
  const { manager, name } = unit;
  const { LoadState, LoadError, UnitFileState } = properties;
  switch (LoadState) {
    case "loaded":
      break;
    case "not-found":
      // A manager keeps a running unit after its file is gone, and finds none when it reloads.
      if (isActive(properties)) throw lostFileError(unit);
      throw new StoreError("notFound", `no unit ${name} in ${describeManager(manager)}`, {
        hint: `Name another unit with --unit (${systemctlLine(manager, "list-unit-files --type=service")} lists them), or use --service none.`,
      });
    case "masked":
      throw maskedError(unit, UnitFileState);
    default:
      throw new StoreError(
        "refused",
        `the manager could not load ${name} (${LoadState}: ${LoadError})`,
        { hint: `Run ${systemctlLine(manager, `status ${name}`)} to see why.` },
      );
  }
}

function maskedError({ manager, name }: UnitName, fileState = ""): StoreError {
  // Without the option, `unmask` keeps a mask in /run.
  const unmask = fileState === "masked-runtime" ? "unmask --runtime" : "unmask";
  return new StoreError("refused", `${name} is masked and could not be started again`, {
    hint: `Run ${systemctlLine(manager, `${unmask} ${name}`)}, or use --service none if nothing uses the store.`,
  });
}

function assertStartable(unit: UnitName, properties: Properties): void {
  const { name } = unit;
  // A running unit can be masked, or its file deleted: the manager keeps it in memory.
  if (properties.UnitFileState?.startsWith("masked"))
    throw maskedError(unit, properties.UnitFileState);
  for (const [property, action] of [
    ["RefuseManualStop", "stopped"],
    ["RefuseManualStart", "started"],
  ] as const) {
    if (properties[property] !== "yes") continue;
    throw new StoreError(
      "refused",
      `${name} may not be ${action} manually (${property}=yes in its file)`,
      {
        hint: "Use --stop-command and --start-command, with the commands for the unit that starts and stops this unit.",
      },
    );
  }
  if (properties.Transient === "yes") {
    throw new StoreError(
      "refused",
      `${name} was created by systemd-run and has no unit file: it could not be started again`,
      { hint: "Write a unit file for it, or use --stop-command and --start-command." },
    );
  }
  const path = properties.FragmentPath ?? "";
  if (path && !statSync(path, { throwIfNoEntry: false })) throw lostFileError(unit, path);
}

function lostFileError({ manager, name }: UnitName, path?: string): StoreError {
  const place = path === undefined ? "" : `: ${path}`;
  return new StoreError(
    "refused",
    `the unit file of ${name} does not exist any more, so it could not be started again${place}`,
    { hint: `Restore the file, then run ${systemctlLine(manager, "daemon-reload")}.` },
  );
}

async function assertNotUpheld(
  { manager, name }: UnitName,
  { UpheldBy }: Properties,
): Promise<void> {
  const names = (UpheldBy ?? "").split(" ").filter(Boolean);
  if (names.length === 0) return;
  const upholder = (await show(manager, ["Id", "ActiveState"], names)).find(isActive);
  if (!upholder) return;
  throw new StoreError(
    "refused",
    `${name} would be started again at once by ${upholder.Id}, which upholds it`,
    {
      hint: `Run ${systemctlLine(manager, `stop ${upholder.Id}`)} first, and start ${upholder.Id} again afterwards.`,
    },
  );
}

/**
 * Checks that this user may manage a system unit. Starting an active unit changes nothing, and the
 * manager checks the permission first.
 */
async function assertPermitted(
  { manager, name }: UnitName,
  { ActiveState }: Properties,
): Promise<void> {
  if (manager !== "systemd" || isRoot() || ActiveState !== "active") return;
  const outcome = await systemctl(manager, ["start", "--", name]);
  if (outcome.code === 0) return;
  throw new StoreError(
    "service",
    `${name} is a system unit, and this user may not stop or start it${formatFailure(outcome)}`,
    {
      hint: `Run this as root, or use --stop-command 'sudo systemctl stop ${name}' --start-command 'sudo systemctl start ${name}'.`,
    },
  );
}

/**
 * Compares the unit's users with the owner of a store that no process of the unit has open. The
 * user of a container's hub is not known: a user namespace may map it to any owner.
 */
async function assertSameUser(
  unit: UnitName,
  properties: Properties,
  storePath: string,
): Promise<void> {
  const owner = statSync(storePath, { throwIfNoEntry: false })?.uid;
  const users = await findUsers(unit, properties);
  if (owner === undefined || users.length === 0 || users.includes(owner)) return;
  // Only the system manager can start a process as another user.
  const fix =
    unit.manager === "systemd" ? `Set User= in ${unit.name}` : `Run this as user ${owner}`;
  throw new StoreError(
    "refused",
    `${unit.name} runs as user ${users[0]}, but ${storePath} belongs to user ${owner}`,
    {
      hint: `${fix}, name the store of this unit with --db, or use --service none if nothing uses ${storePath}.`,
    },
  );
}

/**
 * Returns the ids of the user of the main process and of the unit's user. They differ if the
 * process changes its user, as every process does right after systemd has forked it.
 */
async function findUsers(unit: UnitName, properties: Properties): Promise<number[]> {
  const pid = Number(properties.MainPID);
  const stats = pid > 0 ? statSync(`/proc/${pid}`, { throwIfNoEntry: false }) : undefined;
  const configured = await findConfiguredUser(unit, properties);
  return [stats?.uid, configured].filter((uid) => uid !== undefined);
}

/** Returns the user id in the unit's file; undefined for DynamicUser or an unknown user. */
async function findConfiguredUser(
  unit: UnitName,
  properties: Properties,
): Promise<number | undefined> {
  if (unit.manager === "systemd-user") return process.geteuid?.();
  if (properties.DynamicUser === "yes") return undefined;
  return (await findUser(properties.User || "root"))?.uid;
}

async function holdsStore(properties: Properties, storePath: string): Promise<boolean> {
  const { holders } = await findHolders(storePath);
  const containers = findContainersOf(properties);
  return holders.some(
    ({ pid }) => isInGroup(pid, properties.ControlGroup ?? "") || isInContainers(pid, containers),
  );
}

/** Returns a notice about the containers with the store open, for a unit that starts containers. */
async function checkLauncher({ name }: UnitName, storePath: string): Promise<string[]> {
  const { holders } = await findHolders(storePath);
  const inContainers = holders.filter(({ pid }) => isInContainer(pid));
  return inContainers.length === 0
    ? [`${name} is active, but no container has ${storePath} open at the moment`]
    : [
        `${name} starts containers: it must also stop ${formatHolders(inContainers)}, which runs in a container`,
      ];
}

/** Returns notices about a running unit. Throws `refused` if it uses another store. */
async function checkStore(
  unit: UnitName,
  properties: Properties,
  storePath: string,
): Promise<string[]> {
  if (isLauncher(properties)) return checkLauncher(unit, storePath);
  const pids = listGroupProcesses(properties.ControlGroup ?? "");
  const open = findOpenStore(pids, storePath);
  // The unit may have opened the store since `checkUnit` searched for its holders.
  if (open?.isOther === false) return [];
  const other =
    open?.path ??
    (startsContainers(properties)
      ? undefined
      : findOtherDefaultStore(Number(properties.MainPID) || pids[0], storePath));
  const { name } = unit;
  if (other === undefined) {
    if (isRestarting(properties)) return [`${name} is in a restart loop`];
    return [`${name} runs, but does not have ${storePath} open at the moment`];
  }
  throw new StoreError("refused", `the unit ${name} uses ${other}, not ${storePath}`, {
    hint: `Use --db ${other} for that store, --unit for another unit, or --service none if nothing uses this store.`,
  });
}
