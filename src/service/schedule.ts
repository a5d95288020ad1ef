/**
 * Installs and removes scheduled backups and restore drills.
 *
 * The operator's changes, such as `OnFailure=`, belong in drop-ins, which are never changed. See
 * systemd.timer(5) and systemd.unit(5).
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { realPath } from "../config/paths.js";
import { StoreError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import type { Outcome } from "../process/run.js";
import { assertElapses, assertTimeSpan } from "./calendar.js";
import { parseList } from "./properties.js";
import { readSchedule, type Schedule } from "./schedule-state.js";
import {
  isOwnUnit,
  jobs,
  renderRecovery,
  renderService,
  renderTimer,
  resolveUnits,
  type ScheduleRequest,
} from "./schedule-units.js";
import {
  describeManager,
  type Manager,
  managerError,
  systemctl,
  systemctlLine,
} from "./systemctl.js";

/** How long a scheduled backup cuts off satellites, for the user who installs the timer. */
export const outageNote =
  "each backup stops the hub for about two seconds, and satellites reconnect after about seven";
export const outageAdvice = `${outageNote}; with --online-backups, backups do not stop the hub`;

/**
 * Checks in advance that a schedule can be installed.
 *
 * @throws {@link StoreError} usage - if systemd does not accept the time or the delay, or the time
 *   is past
 * @throws {@link StoreError} refused - if the manager reads its units elsewhere, or this program
 *   did not write an existing unit of this name
 * @throws {@link StoreError} service - if there is no user manager
 */
export async function assertSchedulable({
  storePath,
  job,
  onCalendar,
  randomDelay,
}: Omit<ScheduleRequest, "command" | "recovery">): Promise<void> {
  const { manager, directory, timer, service, recovery } = resolveUnits(storePath, job);
  await assertUnitDirectory(manager, directory);
  await assertElapses(onCalendar);
  await assertTimeSpan(randomDelay);
  for (const name of [service, timer, recovery]) await assertOwnUnit(join(directory, name));
}

/**
 * Writes the units, or replaces them, and starts the timer.
 *
 * @throws {@link StoreError} service - if the manager rejects the units
 * @throws {@link StoreError} io - if the files cannot be written
 */
export async function installSchedule(request: ScheduleRequest): Promise<Schedule> {
  await assertSchedulable(request);
  const units = resolveUnits(request.storePath, request.job);
  const { manager, directory, timer, service, recovery } = units;
  await makeDirectory(directory);
  await replaceFile(join(directory, recovery), renderRecovery(request, units));
  await replaceFile(join(directory, service), renderService(request, units));
  await replaceFile(join(directory, timer), renderTimer(request, units));
  await callManager(manager, ["daemon-reload"]);
  await callManager(manager, ["enable", timer, recovery]);
  // `restart` instead of `start`: a running timer would keep its old times.
  await callManager(manager, ["restart", timer]);
  const installed = await readSchedule(request.storePath, request.job);
  if (installed?.active) return installed;
  throw new StoreError("service", `${timer} was installed, but does not run`, {
    hint: `Run ${systemctlLine(manager, `status ${timer}`)} to see why.`,
  });
}

/**
 * Stops the timers of a store and removes their units. A running backup or drill continues.
 * Drop-ins stay.
 *
 * @returns the removed timers, and the directories of the remaining drop-ins
 * @throws {@link StoreError} notFound - if this store has no schedule
 */
export async function removeSchedules(
  storePath: string,
): Promise<{ units: string[]; dropIns: string[] }> {
  const { manager, directory, recovery } = resolveUnits(storePath, "backup");
  const pairs = jobs.map((job) => resolveUnits(storePath, job));
  const present: string[] = [];
  for (const name of [...pairs.flatMap(({ timer, service }) => [timer, service]), recovery]) {
    if (await assertOwnUnit(join(directory, name))) present.push(name);
  }
  if (present.length === 0) {
    throw new StoreError("notFound", `no backups or drills of ${storePath} are scheduled`, {
      hint: `Check --db: each store's path has its own schedules. ${systemctlLine(manager, "list-units 'hivemind-sqlcipher-*.timer'")} lists them.`,
    });
  }
  const timers = present.filter((name) => name.endsWith(".timer"));
  if (timers.length > 0) await callManager(manager, ["disable", "--now", ...timers]);
  if (present.includes(recovery)) await callManager(manager, ["disable", recovery]);
  for (const name of present) await removeFile(join(directory, name));
  await syncDirectory(directory);
  await callManager(manager, ["daemon-reload"]);
  // A failed last run would keep the service in the manager's list. The call fails without such a
  // run.
  await systemctl(manager, ["reset-failed", ...pairs.map(({ service }) => service)]);
  const names = await readdir(directory);
  const dropIns = pairs
    .flatMap(({ timer, service }) => [`${timer}.d`, `${service}.d`])
    .filter((name) => names.includes(name));
  return { units: timers, dropIns: dropIns.map((name) => join(directory, name)) };
}

/** Throws `refused` if the manager does not read units in the directory. */
async function assertUnitDirectory(manager: Manager, directory: string): Promise<void> {
  const { stdout } = await callManager(manager, ["show", "--property=UnitPath", "--value"]);
  const wanted = await realPath(directory);
  for (const path of parseList(stdout)) if ((await realPath(path)) === wanted) return;
  throw new StoreError(
    "refused",
    `${describeManager(manager)} of systemd does not read units in ${directory}`,
    {
      hint: "Unset XDG_CONFIG_HOME, which differs from the manager's, and name the settings file with --config.",
    },
  );
}

/** Returns whether the unit's file exists. Throws `refused` for a file not of this program. */
async function assertOwnUnit(path: string): Promise<boolean> {
  const isOwn = await isOwnUnit(path);
  if (isOwn === false) {
    throw new StoreError("refused", `${path} was not written by this program`, {
      hint: "Move it away first, and put your changes to a unit into a drop-in.",
    });
  }
  return isOwn === true;
}

/** Calls a manager. Throws `service` if the call fails. */
async function callManager(manager: Manager, args: readonly string[]): Promise<Outcome> {
  const outcome = await systemctl(manager, args);
  if (outcome.code === 0) return outcome;
  if (outcome.failure !== "missing") throw managerError(manager, outcome);
  throw new StoreError("service", "cannot schedule backups: systemd is not installed", {
    hint: "Run hivemind-sqlcipher backup from cron or another scheduler.",
  });
}
