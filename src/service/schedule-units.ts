/**
 * The names and the text of a schedule's units: for each job a systemd timer and a service with the
 * command, and for a store a service for its recovery at boot.
 *
 * The units are files in `$XDG_CONFIG_HOME/systemd/user`, or in `/etc/systemd/system` if root works
 * on the hub of a system unit. They are named after a hash of the store's path, so each store has
 * its own schedules. They contain no secret.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { hubAccount } from "../config/hub-account.js";
import { configHome } from "../config/paths.js";
import { readTextIfExists, sha256Hex } from "../fs/read.js";
import { isRoot } from "../fs/user.js";
import { copyUnitOf } from "./copy-unit.js";
import { type Manager, systemctlLine, systemUnits, type UnitName } from "./systemctl.js";
import { escapeSetting, keyringUnit, quoteCommand } from "./unit-file.js";

/** The first line of the files, in every version of this program. */
const ownMark = "# Made by hivemind-sqlcipher schedule install";
const header = `${ownMark}, which replaces this file each time.`;

export type ScheduledJob = "backup" | "drill";

export const jobs: readonly ScheduledJob[] = ["backup", "drill"];

const jobDescriptions = { backup: "Backup", drill: "Restore drill" } as const;

export interface ScheduleTimes {
  /** The value of OnCalendar=. */
  readonly onCalendar: string;
  readonly randomDelay: string;
}

export interface ScheduleRequest extends ScheduleTimes {
  readonly storePath: string;
  readonly job: ScheduledJob;
  /** The command line of the job for this store. It must contain no secret. */
  readonly command: readonly string[];
  /** The command line for recovering this store, and the path of its journal. */
  readonly recovery: { readonly command: readonly string[]; readonly journal: string };
}

export interface ScheduleUnits {
  readonly manager: Manager;
  readonly directory: string;
  readonly timer: string;
  readonly service: string;
  /** The service for the recovery at boot, for all jobs of the store. */
  readonly recovery: string;
}

export function resolveUnits(storePath: string, job: ScheduledJob): ScheduleUnits {
  const store = sha256Hex(storePath).slice(0, 8);
  const timerOf = (each: ScheduledJob) => `hivemind-sqlcipher-${each}-${store}.timer`;
  const timer = timerOf(job);
  const recovery = `hivemind-sqlcipher-recovery-${store}.service`;
  const units = { timer, service: timer.replace(/timer$/, "service"), recovery };
  const ofUser = join(configHome(), "systemd", "user");
  const isInstalledIn = (directory: string) =>
    jobs.some((each) => existsSync(join(directory, timerOf(each))));
  const isOfSystem = hubAccount() !== undefined || isInstalledIn(systemUnits);
  // Root keeps using the manager of an earlier timer of this store.
  return isRoot() && isOfSystem && !isInstalledIn(ofUser)
    ? { manager: "systemd", directory: systemUnits, ...units }
    : { manager: "systemd-user", directory: ofUser, ...units };
}

/** Returns the service for the recovery of a store at boot. It may not exist. */
export function recoveryService(storePath: string): UnitName {
  const { manager, recovery } = resolveUnits(storePath, "backup");
  return { manager, name: recovery };
}

/** Returns the service of a store's scheduled job, which may not exist. */
export function scheduledService(storePath: string, job: ScheduledJob): UnitName {
  const { manager, service } = resolveUnits(storePath, job);
  return { manager, name: service };
}

/** Returns whether this program wrote the file, or undefined if there is none. */
export async function isOwnUnit(path: string): Promise<boolean | undefined> {
  return (await readTextIfExists(path))?.startsWith(ownMark);
}

/** Returns the text of a unit's file; undefined if there is none or another program wrote it. */
export async function readOwnUnit(path: string): Promise<string | undefined> {
  const text = await readTextIfExists(path);
  return text?.startsWith(ownMark) ? text : undefined;
}

export function renderService(
  { storePath, job, command }: ScheduleRequest,
  { manager, service }: ScheduleUnits,
): string {
  return `${header}
# Put your own changes, such as OnFailure=, into a drop-in: ${systemctlLine(manager, `edit ${service}`)}
[Unit]
Description=${jobDescriptions[job]} of the HiveMind client store ${escapeSetting(storePath)}
After=${keyringUnit}

[Service]
Type=oneshot
ExecStart=${quoteCommand(...command)}
# a core dump would contain the passphrase
LimitCORE=0
`;
}

/**
 * Returns the service for starting the hub at boot if a power failure has interrupted a backup: an
 * engine does not start a stopped container, and the restart timer is lost.
 */
export function renderRecovery(
  { storePath, recovery: { command, journal } }: ScheduleRequest,
  { manager, recovery }: ScheduleUnits,
): string {
  return `${header}
# Put your own changes into a drop-in: ${systemctlLine(manager, `edit ${recovery}`)}
[Unit]
Description=Recovery of the HiveMind client store ${escapeSetting(storePath)} at boot
# exists after an interrupted operation
ConditionPathExists=${escapeSetting(journal)}
After=docker.service ${keyringUnit} ${copyUnitOf(storePath).name}
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=${quoteCommand(...command)}
# the engine may be starting, and the keyring may be locked until a login
Restart=on-failure
RestartSec=30
RestartPreventExitStatus=2 17
# a core dump would contain the passphrase
LimitCORE=0

[Install]
WantedBy=${manager === "systemd" ? "multi-user.target" : "default.target"}
`;
}

export function renderTimer(
  { storePath, job, onCalendar, randomDelay }: ScheduleRequest,
  { manager, timer }: ScheduleUnits,
): string {
  return `${header}
# Put your own changes into a drop-in: ${systemctlLine(manager, `edit ${timer}`)}
[Unit]
Description=${jobDescriptions[job]}s of the HiveMind client store ${escapeSetting(storePath)}

[Timer]
OnCalendar=${escapeSetting(onCalendar)}
RandomizedDelaySec=${escapeSetting(randomDelay)}
# catches up after the machine was off
Persistent=true

[Install]
WantedBy=timers.target
`;
}
