/**
 * Backups by the clock: a systemd user timer, and the service that it starts, which runs `backup`.
 *
 * Two files in `$XDG_CONFIG_HOME/systemd/user`, named after the store, so that each store has its own. They name the store
 * and the settings file and hold nothing else; changes of one's own (an `OnFailure=`, say) belong into drop-ins, which
 * are never touched. See systemd.timer(5) and systemd.unit(5).
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { userInfo } from "node:os";
import { join } from "node:path";
import { configHome, realPath } from "../config/paths.js";
import { hasCode, StoreError, systemError } from "../errors.js";
import { makeDirectory, removeFile, replaceFile, syncDirectory } from "../fs/atomic.js";
import { type Outcome, run } from "../process/run.js";
import type { Properties } from "./properties.js";
import { queryLimitMs, show, systemctl } from "./systemctl.js";
import { execLine, keyringUnit, settingValue } from "./unit-file.js";

/** The first line of the files, by which they are known as this program's. */
const mark = "# Made by hivemind-sqlcipher schedule install, which writes it anew each time.";

export interface ScheduleRequest {
  readonly storePath: string;
  /** The words that run `backup` for this store; no secret among them. */
  readonly command: readonly string[];
  /** As in OnCalendar=. */
  readonly onCalendar: string;
  /** As in RandomizedDelaySec=. */
  readonly randomDelay: string;
}

export interface LastRun {
  /** When it began, UTC. */
  readonly at: string;
  /** `running`, `success`, or what systemd calls the failure; null for a run before the manager was started. */
  readonly result: string | null;
  /** Of a run that has ended by itself. */
  readonly exit_code: number | null;
}

export interface Schedule {
  /** The timer. */
  readonly unit: string;
  /** What it starts; its name for `journalctl --user --unit`. */
  readonly service: string;
  readonly on_calendar: string | null;
  readonly enabled: boolean;
  /** Whether the timer runs, so that there will be a next time. */
  readonly active: boolean;
  readonly next_run: string | null;
  readonly last_run: LastRun | null;
  /** Whether the user's manager runs from boot on, with nobody logged in. */
  readonly lingers: boolean;
  /** Drop-ins of the two units. */
  readonly drop_ins: string[];
}

interface Names {
  readonly folder: string;
  readonly timer: string;
  readonly service: string;
}

function namesOf(storePath: string): Names {
  const store = createHash("sha256").update(storePath).digest("hex").slice(0, 8);
  const stem = `hivemind-sqlcipher-backup-${store}`;
  return {
    folder: join(configHome(), "systemd", "user"),
    timer: `${stem}.timer`,
    service: `${stem}.service`,
  };
}

/**
 * Writes both units and starts the timer; one that is there is brought up to date.
 *
 * @throws StoreError `usage` for a time or a delay that systemd does not understand; `refused` if the manager reads its
 *   units elsewhere, or if a file of another's has one of the names; `service` if there is no user manager or it does
 *   not take the units; `io`.
 */
export async function installSchedule(request: ScheduleRequest): Promise<Schedule> {
  const { storePath, onCalendar, randomDelay } = request;
  const names = namesOf(storePath);
  await assertUnitDirectory(names.folder);
  await assertCalendar("calendar", onCalendar, "--on-calendar daily, or 'Mon *-*-* 03:30'");
  await assertCalendar("timespan", randomDelay, "--random-delay 15min");
  const files = [
    [join(names.folder, names.service), serviceText(request)],
    [join(names.folder, names.timer), timerText(request)],
  ] as const;
  for (const [path] of files) await assertOwnUnit(path);
  await makeDirectory(names.folder);
  for (const [path, text] of files) await replaceFile(path, text);
  await manage(["daemon-reload"]);
  await manage(["enable", names.timer]);
  // Not only started: a timer that runs already would go on by its old times.
  await manage(["restart", names.timer]);
  const installed = await scheduleOf(storePath);
  if (installed?.active) return installed;
  throw new StoreError("service", `${names.timer} was installed, but does not run`, {
    hint: `systemctl --user status ${names.timer}`,
  });
}

/**
 * Stops the timer and removes both units. A backup that is running goes on. Drop-ins stay.
 *
 * @returns the folders with drop-ins that are left.
 * @throws StoreError `notFound` if there is no schedule of this store; `refused`, `service`, `io` as above.
 */
export async function removeSchedule(
  storePath: string,
): Promise<{ unit: string; drop_ins: string[] }> {
  const { folder, timer, service } = namesOf(storePath);
  const paths = [join(folder, timer), join(folder, service)];
  const there = [];
  for (const path of paths) if (await assertOwnUnit(path)) there.push(path);
  if (there.length === 0) {
    throw new StoreError("notFound", `no backups of ${storePath} are scheduled`, {
      hint: "hivemind-sqlcipher schedule install",
    });
  }
  if (there.includes(join(folder, timer))) await manage(["disable", "--now", timer]);
  for (const path of there) await removeFile(path);
  await syncDirectory(folder);
  await manage(["daemon-reload"]);
  // Otherwise a failed last run keeps the name in the manager's list. It is no error if there was none.
  await systemctl("systemd-user", ["reset-failed", service]);
  const names = await readdir(folder);
  const dropIns = [`${timer}.d`, `${service}.d`].filter((name) => names.includes(name));
  return { unit: timer, drop_ins: dropIns.map((name) => join(folder, name)) };
}

/**
 * The schedule of a store's backups; undefined if there is none.
 *
 * @throws StoreError `service` if there is one and the manager does not answer; `io`.
 */
export async function scheduleOf(storePath: string): Promise<Schedule | undefined> {
  const { folder, timer, service } = namesOf(storePath);
  if (!(await isOwnUnit(join(folder, timer)))) return undefined;
  const [clock = {}, job = {}] = await show(
    "systemd-user",
    [
      ...["ActiveState", "UnitFileState", "DropInPaths", "TimersCalendar"],
      ...["NextElapseUSecRealtime", "LastTriggerUSec"],
      ...["Result", "ExecMainStatus", "ExecMainStartTimestamp", "ExecMainExitTimestamp"],
    ],
    [timer, service],
  );
  return {
    unit: timer,
    service,
    on_calendar: /OnCalendar=(.*?) ;/.exec(clock.TimersCalendar ?? "")?.[1] ?? null,
    enabled: clock.UnitFileState === "enabled",
    active: clock.ActiveState === "active",
    next_run: timeOf(clock.NextElapseUSecRealtime),
    last_run: lastRun(clock, job),
    lingers: lingers(),
    drop_ins: `${clock.DropInPaths ?? ""} ${job.DropInPaths ?? ""}`.split(" ").filter(Boolean),
  };
}

/** Whether this user's manager, and so the timer, is started at boot: what `loginctl enable-linger` keeps. */
export function lingers(): boolean {
  return existsSync(join("/var/lib/systemd/linger", userInfo().username));
}

function lastRun(clock: Properties, job: Properties): LastRun | null {
  const began = timeOf(job.ExecMainStartTimestamp);
  if (began === null) {
    // The timer's own stamp outlives the manager; what became of that run does not.
    const triggered = timeOf(clock.LastTriggerUSec);
    return triggered === null ? null : { at: triggered, result: null, exit_code: null };
  }
  if (job.ActiveState === "activating") return { at: began, result: "running", exit_code: null };
  const exited = job.Result === "success" || job.Result === "exit-code";
  return {
    at: began,
    result: job.Result ?? null,
    exit_code: exited ? Number(job.ExecMainStatus) : null,
  };
}

function serviceText({ storePath, command }: ScheduleRequest): string {
  return `${mark}
# Changes of your own, such as OnFailure=, belong into a drop-in: systemctl --user edit ${namesOf(storePath).service}
[Unit]
Description=Backup of the HiveMind client store ${settingValue(storePath)}
After=${keyringUnit}

[Service]
Type=oneshot
ExecStart=${execLine(...command)}
# a core dump would hold the passphrase
LimitCORE=0
`;
}

function timerText({ storePath, onCalendar, randomDelay }: ScheduleRequest): string {
  return `${mark}
# Changes of your own belong into a drop-in: systemctl --user edit ${namesOf(storePath).timer}
[Unit]
Description=Backups of the HiveMind client store ${settingValue(storePath)}

[Timer]
OnCalendar=${settingValue(onCalendar)}
RandomizedDelaySec=${settingValue(randomDelay)}
# a time that passed while the machine was off is made up for
Persistent=true

[Install]
WantedBy=timers.target
`;
}

/** @throws StoreError `refused` if the user's manager does not look for units there. */
async function assertUnitDirectory(folder: string): Promise<void> {
  const { stdout } = await manage(["show", "--property=UnitPath", "--value"]);
  const wanted = await realPath(folder);
  for (const path of stdout.trim().split(" ")) if ((await realPath(path)) === wanted) return;
  throw new StoreError("refused", `the user's systemd does not read units in ${folder}`, {
    hint: "XDG_CONFIG_HOME is another one here than in the manager: unset it, and name the settings by --config",
  });
}

/** @throws StoreError `usage` with systemd's words for what it does not understand. */
async function assertCalendar(kind: "calendar" | "timespan", text: string, example: string) {
  const { code, stderr } = await run("systemd-analyze", [kind, "--", text], {
    timeoutMs: queryLimitMs,
  });
  if (code === 0) return;
  const words = stderr.split("\n")[0] || `"${text}" is not understood`;
  throw new StoreError("usage", `systemd does not understand this ${kind}: ${words}`, {
    hint: `as in ${example}; see systemd.time(7)`,
  });
}

/** Whether there is a file of this program's. @throws StoreError `refused` if it is another's. */
async function assertOwnUnit(path: string): Promise<boolean> {
  const own = await isOwnUnit(path);
  if (own === false) {
    throw new StoreError("refused", `${path} is not a file of this program's`, {
      hint: "move it away first; what you want changed in a unit belongs into a drop-in",
    });
  }
  return own === true;
}

/** Undefined if there is no file. */
async function isOwnUnit(path: string): Promise<boolean | undefined> {
  try {
    return (await readFile(path, "utf8")).startsWith(mark);
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR")) return undefined;
    throw systemError(error, `cannot read ${path}`);
  }
}

/** A time as systemd prints it, "Tue 2026-11-24 18:50:00 UTC"; null for none. */
function timeOf(text: string | undefined): string | null {
  const [, day, time] = /(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)/.exec(text ?? "") ?? [];
  return day === undefined ? null : `${day}T${time}Z`;
}

/** @throws StoreError `service` if the manager does not answer, or says no. */
async function manage(args: readonly string[]): Promise<Outcome> {
  const outcome = await systemctl("systemd-user", args);
  if (outcome.code === 0) return outcome;
  const missing = outcome.failure === "missing";
  throw new StoreError(
    "service",
    missing
      ? "there is no systemd here to schedule backups with"
      : `systemctl --user ${args[0]}: ${outcome.stderr || "no answer"}`,
    {
      hint: missing
        ? "let cron, or what this system has in its place, run: hivemind-sqlcipher backup"
        : "run this in a login session of the user that the hub runs as (loginctl enable-linger USER gives one that lasts)",
    },
  );
}
